"""Companies that tell less: no catalogue, or not even items."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from behavior_model.bundle import open_bundle
from behavior_model.context import ModelContext
from behavior_model.model.backbone import new_backbone
from behavior_model.objectives.pretraining import PretrainingModel
from behavior_model.predictor import Predictor
from behavior_model.renewal import renew_bundle
from behavior_model.sealing import seal
from behavior_model.stage_heads import fit_all, heads, read_results
from behavior_model.training.loader import ShardLoader
from behavior_model.training.loop import TrainingRun
from pipelines import lake
from pipelines.contracts import CATALOGUE
from pipelines.errors import UnknownNameError
from pipelines.tokens.binning import DAY_US, MISSING_IDX
from pipelines.workspace import Workspace
from tests.ranking_shop import AS_OF_US, ranking_context
from tests.rhythm_bundle import COMPANY
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    bare_vocabulary,
    shop_catalogue,
    shop_content,
    shop_histories,
    shop_recipe,
)

NEED_CATALOGUE = {"category_recommendation", "category_propensity", "search", "tagging"}


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> ModelContext:
    workspace = Workspace(tmp_path_factory.mktemp("bare"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        context = ranking_context(workspace, bare=True)
    workspace.company_path.write_text(COMPANY, encoding="utf-8")
    (workspace.heads / "tagging").mkdir(parents=True)  # left by an earlier catalogue
    fit_all(context, seed=0, say=said.append)
    return context


def test_heads_that_lack_something_are_left_out_and_named(
    context: ModelContext, said: list[str]
) -> None:
    left_out = {line.split(":")[0].strip() for line in said if "left out" in line}
    assert left_out == NEED_CATALOGUE
    assert any("search: left out, the company has no catalogue" in line for line in said)
    folders = {folder.name for folder in context.workspace.heads.iterdir()}
    assert folders == set(heads()) - left_out
    assert {result.task for result in read_results(context.workspace)} == folders


def test_the_bundle_answers_what_it_can_and_names_it(context: ModelContext) -> None:
    manifest = seal(context)
    assert set(manifest.tasks) == set(heads()) - NEED_CATALOGUE
    predictor = Predictor.load(context.workspace.bundle)
    histories = context.histories(AS_OF_US).select([0])
    times = histories.times_us[-1:] + 1
    assert predictor.recommend(histories, times, 3).ids[0]
    with pytest.raises(UnknownNameError, match="Known: item"):
        predictor.recommend(histories, times, 3, level="category")
    with pytest.raises(UnknownNameError, match="category_propensity"):
        predictor.propensities(histories, times)
    with pytest.raises(UnknownNameError, match="Known: behavior"):
        predictor.similar_items(["item-00"], 3, by="content")


def test_a_company_of_page_views_gets_what_needs_no_purchases(tmp_path: Path) -> None:
    said: list[str] = []
    context = ranking_context(Workspace(tmp_path), 24, sells=False)
    context.workspace.company_path.write_text(COMPANY, encoding="utf-8")
    fit_all(context, seed=0, say=said.append)
    left_out = {line.split(":")[0].strip(): line for line in said if "left out" in line}
    assert set(left_out) == set(heads()) - {"churn", "tagging"}
    window = "in the window before the test cut"
    assert f"no purchases of items {window}" in left_out["recommendation"]
    assert f"no purchases from categories {window}" in left_out["category_recommendation"]
    assert f"no purchases of items {window}" in left_out["search"]
    assert "no 'purchase' events" in left_out["spend_drop"]
    assert set(seal(context).tasks) == {"churn", "tagging"}
    Predictor.load(context.workspace.bundle)


def test_an_item_of_events_alone_joins_without_a_training(context: ModelContext) -> None:
    seal(context)
    place = context.workspace
    grown = context.vocabulary.grown_by({"brand new": None})
    renew_bundle(place, open_bundle(place.bundle), grown, AS_OF_US + DAY_US, seed=0)
    predictor = Predictor.load(place.bundle)
    assert predictor.vocabulary.items[-1] == "brand new"
    histories = context.histories(AS_OF_US).select([0])
    assert predictor.recommend(histories, histories.times_us[-1:] + 1, 3).ids[0]
    assert len(predictor.similar_items(["brand new"], 3).ids[0]) == 3


def test_events_without_items_are_learned_from() -> None:
    """Payments or staff records: what is left to foresee is when, how much, and of which kind."""
    vocabulary = replace(bare_vocabulary(), items=(), item_counts=(), item_categories=())
    histories = shop_histories(8)
    nothing = np.full_like(histories.tokens["item"], MISSING_IDX)
    histories = replace(histories, tokens={**histories.tokens, "item": nothing})
    content, recipe = shop_content(vocabulary, shop_catalogue().slice(0, 0)), shop_recipe()
    torch.manual_seed(0)
    run = TrainingRun(
        model=PretrainingModel(
            new_backbone(vocabulary, content, recipe.model, WINDOW_US),
            content,
            recipe.training.num_negatives,
            recipe.training.loss_weights,
        ),
        config=recipe.training,
        loaders=[
            ShardLoader(
                vocabulary=vocabulary,
                histories=histories,
                recipe=recipe,
                cut_us=CUT_US,
                window_us=WINDOW_US,
                seed=0,
            )
        ],
        seed=0,
    )
    losses = [report.losses for report in run.steps()]
    assert all(loss["next_item"] == loss["window_items"] == 0 for loss in losses)
    assert losses[-1]["loss"] < losses[0]["loss"]


def test_a_company_without_a_catalogue_has_an_empty_one(tmp_path: Path) -> None:
    rows = lake.read_catalogue(Workspace(tmp_path))
    assert rows.num_rows == 0
    assert rows.column_names == list(CATALOGUE.column_names)
