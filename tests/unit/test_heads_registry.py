"""All heads of the line on a company that tells events alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from behavior_model.context import ModelContext
from behavior_model.heads.registry import HEADS, NEEDS, fit_all, read_results
from behavior_model.predictor import Predictor
from behavior_model.sealing import seal
from pipelines import lake
from pipelines.contracts import CATALOGUE
from pipelines.errors import UnknownNameError
from pipelines.workspace import Workspace
from tests.ranking_shop import AS_OF_US, ranking_context

COMPANY = """\
name: events-alone
tables:
  - name: sales
    into: events
    source: {format: parquet, path: sales.parquet}
    columns: {user_id: user, event_time: time, event_type: {constant: purchase}}
"""


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
    assert left_out == set(NEEDS)
    assert any("search: left out, the company has no catalogue" in line for line in said)
    folders = {folder.name for folder in context.workspace.heads.iterdir()}
    assert folders == set(HEADS) - left_out
    assert {result.task for result in read_results(context.workspace)} == folders


def test_the_bundle_answers_what_it_can_and_names_it(context: ModelContext) -> None:
    manifest = seal(context)
    assert set(manifest.tasks) == set(HEADS) - set(NEEDS)
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


def test_a_company_without_a_catalogue_has_an_empty_one(tmp_path: Path) -> None:
    rows = lake.read_catalogue(Workspace(tmp_path))
    assert rows.num_rows == 0
    assert rows.column_names == list(CATALOGUE.column_names)
