"""Batches after a refresh are of its time, unless the model is newer or a time is given."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from feature_store.refreshed import Refreshed
from feature_store.settings import Shelf
from pipelines.tokens.binning import DAY_US
from pipelines.workspace import Workspace, write_json_atomically
from serving.cli.answers import moment_of
from tests.small_shop import AS_OF_US, CountingPredictor


@pytest.fixture
def trained(workspace: Workspace) -> Workspace:
    manifest = asdict(CountingPredictor.make().manifest)
    write_json_atomically(workspace.bundle / "manifest.json", manifest)
    return workspace


def refreshed(workspace: Workspace, as_of_us: int) -> None:
    Refreshed(as_of_us=as_of_us, model_version="v1", sequences_id="", sequences_version=0).save(
        Shelf(workspace)
    )


def test_without_a_refresh_it_is_the_cut(trained: Workspace) -> None:
    assert moment_of(trained, None) == AS_OF_US


def test_after_a_refresh_it_is_its_time(trained: Workspace) -> None:
    refreshed(trained, AS_OF_US + 3 * DAY_US)
    assert moment_of(trained, None) == AS_OF_US + 3 * DAY_US
    assert moment_of(trained, "2017-10-02T00:00:00Z") == AS_OF_US + DAY_US


def test_a_model_of_a_later_cut_is_not_asked_about_the_past(trained: Workspace) -> None:
    refreshed(trained, AS_OF_US - DAY_US)
    assert moment_of(trained, None) == AS_OF_US
