"""Requests that schemathesis makes from the application's own OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from pipelines.workspace import Workspace
from serving.app import create_app
from serving.settings import ServingSettings
from tests import small_shop

ROUTES = (
    "GET /v1/model",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "POST /v1/recommendations",
    "POST /v1/search",
    "POST /v1/predictions/{task}",
    "POST /v1/propensities",
    "POST /v1/tags",
    "POST /v1/similar-items",
    "POST /v1/embeddings",
    "POST /v1/events",
)
CASES = [
    *((path, GenerationMode.POSITIVE) for path in ROUTES),
    *((path, GenerationMode.NEGATIVE) for path in ROUTES if path.startswith("POST")),
]
_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def application(shop: Workspace) -> Iterator[FastAPI]:
    app = create_app(ServingSettings(workspace=shop.root), small_shop.CountingPredictor.make())
    with TestClient(app):
        yield app


@pytest.fixture(scope="module")
def schema(application: FastAPI) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", application)


@pytest.mark.parametrize(("path", "mode"), CASES)
def test_every_answer_keeps_the_document(
    schema: schemathesis.BaseSchema, path: str, mode: GenerationMode
) -> None:
    method, address = path.split(" ")
    operation = schema[address][method]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=_CHECKS)

    check()


def test_every_route_but_erasure_is_tried(schema: schemathesis.BaseSchema) -> None:
    found = {f"{one.ok().method.upper()} {one.ok().path}" for one in schema.get_all_operations()}
    assert found - set(ROUTES) == {"DELETE /v1/users/{user_id}"}
