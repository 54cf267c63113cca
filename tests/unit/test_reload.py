"""When a running counter takes another bundle over, what it says, and when it counts as ready."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from behavior_model.bundle import MANIFEST_FILE, Manifest
from feature_store.published import Published
from pipelines.errors import BundleError, SchemaVersionError
from pipelines.workspace import Workspace, write_json_atomically
from serving.readiness import mismatch
from serving.reload import Reloader
from tests.small_shop import CountingPredictor

ANSWERS = CountingPredictor.make().manifest
TRAINED = replace(ANSWERS, model_version="trained-again")
RENEWED = replace(ANSWERS, model_version="renewed", trained_version=ANSWERS.model_version)


def lay(workspace: Workspace, manifest: Manifest) -> None:
    write_json_atomically(workspace.bundle / MANIFEST_FILE, asdict(manifest))


def publish(workspace: Workspace, manifest: Manifest) -> None:
    Published(model_version=manifest.lineage).save(workspace)


@pytest.fixture
def taken() -> list[Any]:
    return []


@pytest.fixture
def reloader(
    workspace: Workspace,
    taken: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    logger: logging.Logger,
) -> Reloader:
    """Of a counter that answers from the first bundle."""
    monkeypatch.setattr("serving.reload._log", logger)

    def load(root: Path) -> CountingPredictor:
        from behavior_model.bundle import read_manifest

        return replace(CountingPredictor.make(), manifest=read_manifest(root))

    monkeypatch.setattr("serving.reload.Predictor.load", load)
    publish(workspace, ANSWERS)
    return Reloader(workspace, ANSWERS, taken.append)


def test_a_new_training_waits_for_its_shelf(
    workspace: Workspace,
    reloader: Reloader,
    taken: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    lay(workspace, TRAINED)
    with caplog.at_level(logging.WARNING):
        assert not reloader.look()
        Published(model_version="").save(workspace)
        assert not reloader.look(), "the publish is under way"
    assert [record.message for record in caplog.records] == [
        "bundle trained-again waits until the shelf is published for it"
    ]
    publish(workspace, TRAINED)
    assert reloader.look()
    assert [(one.manifest, one.is_warm) for one in taken] == [(TRAINED, True)]


def test_a_renewed_bundle_of_the_same_training_is_taken_at_once(
    workspace: Workspace, reloader: Reloader
) -> None:
    lay(workspace, RENEWED)
    assert reloader.look()


def test_a_shelf_of_before_this_was_written_down_counts_as_published(
    workspace: Workspace, reloader: Reloader
) -> None:
    (workspace.features / "published.json").unlink()
    lay(workspace, TRAINED)
    assert reloader.look()


def test_why_a_bundle_cannot_be_read_is_said_once(
    workspace: Workspace,
    reloader: Reloader,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: Path) -> None:
        raise BundleError("items/x.bin: was changed")

    monkeypatch.setattr("serving.reload.Predictor.load", fail)
    lay(workspace, RENEWED)
    with caplog.at_level(logging.WARNING):
        assert not reloader.look()
        assert not reloader.look()
        lay(workspace, replace(RENEWED, model_version="later"))
        assert not reloader.look()
        (workspace.bundle / MANIFEST_FILE).unlink()
        assert not reloader.look()
    said = [record.message for record in caplog.records]
    assert said[:2] == [
        "bundle renewed cannot be read, the next look may: items/x.bin: was changed",
        "bundle later cannot be read, the next look may: items/x.bin: was changed",
    ]
    assert len(said) == 3
    assert "no bundle here" in said[2]


def test_a_bundle_that_can_never_be_read_is_refused_once_and_readiness_names_it(
    workspace: Workspace,
    reloader: Reloader,
    taken: list[Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[Path] = []

    def fail(root: Path) -> None:
        tried.append(root)
        raise SchemaVersionError("heads/search.json: schema version 1 came, 2 is read")

    monkeypatch.setattr("serving.reload.Predictor.load", fail)
    lay(workspace, TRAINED)
    publish(workspace, TRAINED)
    with caplog.at_level(logging.WARNING):
        assert not reloader.look()
        assert not reloader.look()
    assert len(tried) == 1
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("bundle trained-again is not served: heads/search.json: schema version")
    long_ago = 1_000_000_000
    os.utime(workspace.features / "published.json", (long_ago, long_ago))
    reason = str(mismatch(workspace, ANSWERS, 30.0, reloader.unreadable))
    assert "this release cannot read" in reason
    assert "restart it" not in reason
    assert not taken


def test_a_bundle_that_changes_while_it_is_loaded_is_left_for_the_next_look(
    workspace: Workspace, reloader: Reloader, taken: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(root: Path) -> CountingPredictor:
        lay(workspace, replace(RENEWED, model_version="later"))
        return replace(CountingPredictor.make(), manifest=RENEWED)

    monkeypatch.setattr("serving.reload.Predictor.load", changed)
    lay(workspace, RENEWED)
    assert not reloader.look()
    assert not taken


def test_a_replica_is_ready_while_it_may_still_reload(workspace: Workspace) -> None:
    lay(workspace, ANSWERS)
    assert mismatch(workspace, ANSWERS, 30.0) is None, "nobody wrote down whose the shelf is"
    publish(workspace, ANSWERS)
    assert mismatch(workspace, ANSWERS, 30.0) is None
    lay(workspace, TRAINED)
    Published(model_version="").save(workspace)
    assert mismatch(workspace, ANSWERS, 30.0) is None
    publish(workspace, TRAINED)
    assert mismatch(workspace, ANSWERS, 30.0) is None
    assert "restart it" in str(mismatch(workspace, ANSWERS, 0.0))
    long_ago = 1_000_000_000
    os.utime(workspace.features / "published.json", (long_ago, long_ago))
    assert "restart it" in str(mismatch(workspace, ANSWERS, 30.0))


def test_a_replica_ahead_of_its_shelf_is_not_ready(workspace: Workspace) -> None:
    lay(workspace, TRAINED)
    for version in (ANSWERS.lineage, ""):
        Published(model_version=version).save(workspace)
        assert "run bfm publish" in str(mismatch(workspace, TRAINED, 30.0))
