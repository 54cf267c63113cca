"""The runner: what runs again, what does not, and what a kill leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipelines.errors import WorkspaceError
from pipelines.flow.runner import (
    SETTINGS_FILE,
    RunSettings,
    Stage,
    StageContext,
    StageReport,
    file_stamp,
    run_stages,
)
from pipelines.workspace import Workspace, write_bytes_atomically
from tests.tiny_company import events_table, write_company, write_tiny_company

AS_OF = datetime(2024, 2, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    return RunSettings(company_path=write_tiny_company(tmp_path / "raw", 5), as_of=AS_OF)


def test_the_session_is_asked_for_the_jars_of_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tables and of lookups, each once."""
    asked: list[tuple[str, ...]] = []

    def session(name: str, *, jar_sets: tuple[str, ...], scratch: Path, log_path: Path) -> object:
        assert scratch.parent == Workspace(tmp_path).scratch
        asked.append(jar_sets)
        return contextlib.nullcontext()

    monkeypatch.setattr("pipelines.flow.spark.spark_session", session)
    topic = {"format": "kafka", "options": {"servers": "h:1", "topic": "t"}}
    rates = {"format": "jdbc", "options": {"url": "jdbc:postgresql://h/d", "table": "rates"}}
    tables = [events_table(source=topic), events_table(name="more", source=topic)]
    path = write_company(tmp_path, *tables, files={}, lookups=[{"name": "rates", "source": rates}])
    StageContext(Workspace(tmp_path), RunSettings(company_path=path)).spark()
    assert asked == [("kafka", "postgresql")]


def test_an_event_of_the_future_does_not_move_the_cut(
    workspace: Workspace, settings: RunSettings
) -> None:
    now = datetime(2024, 3, 1, tzinfo=UTC)
    times = [datetime(2024, 2, 10, 13, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)]
    write_deltalake(str(workspace.table("events")), pa.table({"event_time": times}))
    context = StageContext(workspace, replace(settings, as_of=None), now=now)
    assert context.as_of == datetime(2024, 1, 13, tzinfo=UTC)
    shop_of_the_future = StageContext(
        workspace, context.settings, now=datetime(2023, 1, 1, tzinfo=UTC)
    )
    assert shop_of_the_future.as_of == datetime(2098, 12, 4, tzinfo=UTC)


def writer(
    name: str,
    ran: list[str],
    needs: tuple[str, ...] = (),
    content: Callable[[StageContext], str] = lambda context: "same",
    version: int = 1,
) -> Stage:
    """A stage that writes one file and depends on the seed."""

    def path(context: StageContext) -> Path:
        return context.workspace.root / f"{name}.txt"

    def run(context: StageContext) -> None:
        ran.append(name)
        write_bytes_atomically(path(context), content(context).encode())

    return Stage(
        name=name,
        version=version,
        needs=needs,
        inputs=lambda context: {"seed": context.settings.seed},
        outputs=lambda context: file_stamp(path(context)),
        run=run,
    )


def go(
    workspace: Workspace, settings: RunSettings, *stages: Stage, first: str | None = None
) -> list[StageReport]:
    context = StageContext(workspace, settings, say=lambda line: None)
    return run_stages(stages, context, first=first)


def test_a_second_run_does_nothing(workspace: Workspace, settings: RunSettings) -> None:
    ran: list[str] = []
    stages = (writer("one", ran), writer("two", ran, needs=("one",)))
    go(workspace, settings, *stages)
    again = go(workspace, settings, *stages)
    assert ran == ["one", "two"]
    assert [report.skipped for report in again] == [True, True]


def test_a_changed_setting_runs_again(workspace: Workspace, settings: RunSettings) -> None:
    ran: list[str] = []
    go(workspace, settings, writer("one", ran))
    go(workspace, replace(settings, seed=1), writer("one", ran))
    assert ran == ["one", "one"]


def test_a_new_version_of_the_code_runs_again(workspace: Workspace, settings: RunSettings) -> None:
    ran: list[str] = []
    go(workspace, settings, writer("one", ran))
    go(workspace, settings, writer("one", ran, version=2))
    assert ran == ["one", "one"]


def test_a_later_stage_runs_again_only_when_an_earlier_ones_output_changed(
    workspace: Workspace, settings: RunSettings
) -> None:
    ran: list[str] = []
    same = (writer("one", ran), writer("two", ran, needs=("one",)))
    go(workspace, settings, *same)
    remade = (writer("one", ran, version=2), same[1])
    go(workspace, settings, *remade)
    assert ran == ["one", "two", "one"]
    other = writer("one", ran, version=3, content=lambda context: "other")
    go(workspace, settings, other, same[1])
    assert ran == ["one", "two", "one", "one", "two"]


def test_a_stage_runs_again_only_for_the_outputs_that_it_reads(
    workspace: Workspace, settings: RunSettings
) -> None:
    ran: list[str] = []
    one = replace(
        writer("one", ran, content=lambda context: str(len(ran))),
        outputs=lambda context: {"learned": 1, "all": len(ran)},
    )
    two = writer("two", ran, needs=("one",))
    go(workspace, settings, one, replace(two, reads={"one": ("learned",)}))
    go(workspace, settings, replace(one, version=2), replace(two, reads={"one": ("learned",)}))
    assert ran == ["one", "two", "one"]
    go(workspace, settings, replace(one, version=2), two)
    assert ran == ["one", "two", "one", "two"]


@pytest.mark.parametrize("harm", ["removed", "changed"])
def test_a_stage_whose_output_was_harmed_runs_again(
    workspace: Workspace, settings: RunSettings, harm: str
) -> None:
    ran: list[str] = []
    go(workspace, settings, writer("one", ran))
    output = workspace.root / "one.txt"
    if harm == "removed":
        output.unlink()
    else:
        output.write_text("tampered")
    go(workspace, settings, writer("one", ran))
    assert ran == ["one", "one"]
    assert output.read_text() == "same"


def test_a_failed_stage_leaves_no_marker(workspace: Workspace, settings: RunSettings) -> None:
    def fail(context: StageContext) -> str:
        raise RuntimeError("broken")

    ran: list[str] = []
    with pytest.raises(RuntimeError, match="broken"):
        go(workspace, settings, writer("one", ran, content=fail))
    assert not (workspace.state / "one.json").exists()
    go(workspace, settings, writer("one", ran))
    assert ran == ["one", "one"]


def test_one_stage_alone_needs_the_stages_before_it(
    workspace: Workspace, settings: RunSettings
) -> None:
    ran: list[str] = []
    stages = (writer("one", ran), writer("two", ran, needs=("one",)))
    context = StageContext(workspace, settings, say=lambda line: None)
    with pytest.raises(WorkspaceError, match=r"stage 'one' has not finished here.*bfm one"):
        run_stages(stages, context, first="two", remember=True)
    assert not (workspace.root / SETTINGS_FILE).exists()
    go(workspace, settings, *stages, first="one")
    go(workspace, settings, *stages, first="two")
    assert ran == ["one", "two"]


def test_a_marker_says_what_the_stage_cost(workspace: Workspace, settings: RunSettings) -> None:
    go(workspace, settings, writer("one", []))
    marker = json.loads((workspace.state / "one.json").read_text())
    assert marker["seconds"] >= 0
    assert marker["peak_memory_bytes"]["driver"] > 10 * 2**20
    assert marker["peak_memory_bytes"]["total"] >= marker["peak_memory_bytes"]["driver"]


def test_a_workspace_serves_one_process_and_a_killed_holder_frees_it(
    workspace: Workspace, settings: RunSettings
) -> None:
    imports = "from pipelines.flow.lock import workspace_lock\nimport sys, time\n"
    imports += "from pipelines.workspace import Workspace\n"
    code = f"{imports}with workspace_lock(Workspace(sys.argv[1])):\n print(flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}\n time.sleep(60)", str(workspace.root)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        with pytest.raises(WorkspaceError, match="in use by another bfm process"):
            go(workspace, settings, writer("one", []))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not go(workspace, settings, writer("one", []))[0].skipped


def test_settings_are_remembered(workspace: Workspace, settings: RunSettings) -> None:
    settings.save(workspace)
    assert RunSettings.load(workspace) == settings
    assert workspace.company_path.read_bytes() == settings.company_path.read_bytes()


def test_a_workspace_belongs_to_one_company(
    workspace: Workspace, settings: RunSettings, tmp_path: Path
) -> None:
    settings.save(workspace)
    other = tmp_path / "other.yaml"
    other.write_text(settings.company_path.read_text().replace("tiny-company", "other-company"))
    with pytest.raises(WorkspaceError, match="holds the company 'tiny-company', 'other-company'"):
        replace(settings, company_path=other).save(workspace)
    assert RunSettings.load(workspace) == settings


def test_a_folder_that_is_no_workspace_is_refused(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match=r"not a workspace .*bfm run --company"):
        RunSettings.load(workspace)


def test_the_training_cut_lies_one_window_before_the_test_cut(
    workspace: Workspace, settings: RunSettings
) -> None:
    context = StageContext(workspace, replace(settings, window_days=7))
    assert context.training_cut == datetime(2024, 1, 25, tzinfo=UTC)


def test_stamps_refuse_what_is_missing(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="is missing; run the line again"):
        file_stamp(workspace.vocabulary_path)
