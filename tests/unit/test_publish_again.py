"""When the shelf is filled anew: on request, and for another online store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from feature_store.refreshed import Refreshed
from feature_store.settings import Shelf
from pipelines.flow.markers import marker_of, write_marker
from pipelines.flow.runner import RunSettings, StageContext
from pipelines.workspace import Workspace
from serving.cli.main import app
from serving.line import line
from tests.small_shop import AS_OF_US, CountingPredictor

SETTINGS = RunSettings(company_path=Path("company.yaml"), as_of=datetime(2017, 10, 1, tzinfo=UTC))


def test_what_was_published_is_forgotten_first(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []
    monkeypatch.setattr("serving.cli.rooms.run_line", lambda *_, only: runs.append(only))
    shelf = Shelf(workspace)
    Refreshed(as_of_us=1, model_version="v1", sequences_id="", sequences_version=0).save(shelf)
    (shelf.root / "online.json").write_text("{}")
    write_marker(workspace, "publish", {"outputs": {}})
    command = ["publish", "--workspace", str(workspace.root)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert marker_of(workspace, "publish") == {"outputs": {}}
    assert CliRunner().invoke(app, [*command, "--again"]).exit_code == 0
    assert runs == ["publish", "publish"]
    assert not (workspace.state / "publish.json").exists()
    assert not (shelf.root / "online.json").exists()
    assert Refreshed.load(shelf) is None


def test_a_workspace_with_a_typing_error_is_not_made(tmp_path: Path) -> None:
    command = ["publish", "--again", "--workspace", str(tmp_path / "typo")]
    assert CliRunner().invoke(app, command).exit_code != 0
    assert not (tmp_path / "typo").exists()


def test_a_publish_is_of_its_bundle_and_removes_live_events_that_it_delivered(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    manifest = CountingPredictor.make().manifest
    monkeypatch.setattr(
        "behavior_model.bundle.open_bundle", lambda _: SimpleNamespace(manifest=manifest)
    )
    monkeypatch.setattr(
        "feature_store.publish.publish",
        lambda *_, as_of_us, **__: calls.append(as_of_us) or SimpleNamespace(written={}),
    )
    monkeypatch.setattr(
        "serving.delivered.remove_delivered", lambda *given: calls.append(given[:2])
    )
    later = replace(SETTINGS, as_of=datetime(2017, 10, 23, tzinfo=UTC))
    context = StageContext(workspace, later, say=lambda _: None)
    monkeypatch.setitem(context.__dict__, "retained_from", None)
    (publish,) = (stage for stage in line() if stage.name == "publish")
    publish.run(context)
    assert calls == [AS_OF_US, (workspace, AS_OF_US)], "of the bundle's cut, not of the run's"


def test_another_online_store_is_another_input(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = StageContext(workspace, SETTINGS)
    (publish,) = (stage for stage in line() if stage.name == "publish")
    embedded = publish.inputs(context)
    assert embedded == {"seed": 0, "as_of": "2017-10-01T00:00:00+00:00"}, "as it was before"
    monkeypatch.setenv("BFM_SHELF_ONLINE_STORE", "redis")
    monkeypatch.setenv("BFM_SHELF_CONNECTION", "cache:6379,password=secret")
    first = publish.inputs(context)
    assert first != embedded
    assert "secret" not in str(first)
    monkeypatch.setenv("BFM_SHELF_CONNECTION", "other:6379,password=secret")
    assert publish.inputs(context) != first
