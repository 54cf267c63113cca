# Every target works first on a fresh machine: the set-up is made when it is missing.
WORKSPACE ?= workspace
ARGS ?=
# Processes beside one another that run tests; 0: one. Two want a machine with nothing else to do.
WORKERS ?= 0
BIN := .venv/bin
PACKAGES := pipelines behavior_model feature_store serving

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup ready demo test lint types clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with the pinned packages, check Java, fetch Delta's jars once
	@sh infra/setup.sh

ready:
	@sh infra/setup.sh --quiet

demo: ready ## the whole line on real data; WORKSPACE=DIR names where (default ./workspace)
	@$(BIN)/bfm demo --workspace "$(WORKSPACE)"

test: ready ## all tests; ARGS="..." is passed to pytest
	@$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: ready ## style, import directions, container files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/hadolint infra/Containerfile.jobs infra/Containerfile.serving
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec infra/compose.yaml

types: ready ## strict types of the packages
	@$(BIN)/mypy

clean: ## remove the environment, caches and build output; workspaces stay
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
