"""`bfm --help` works at once, and on a machine that lacks the engines."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.errors import UserError
from pipelines.flow.runner import RunSettings, StageContext
from pipelines.flow.tokenized import MadeFrom
from pipelines.workspace import Workspace
from serving.cli.console import EXIT_DEFECT, EXIT_USER_ERROR, guarded, out, print_table
from serving.cli.main import app
from serving.cli.options import parse_time
from tests.tiny_company import write_tiny_company

HEAVY = {"torch", "ray", "pyspark", "feast", "fastapi", "great_expectations", "pyarrow", "pandas"}


def test_no_engine_is_loaded_before_a_command_runs() -> None:
    code = f"import sys, serving.cli.main; print(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []


def test_a_process_that_outlives_its_signal_says_that_it_was_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    really_raise = signal.raise_signal

    def in_a_container(number: int) -> None:
        """The kernel keeps its own way of ending from the first process."""
        if signal.getsignal(number) is not signal.SIG_DFL:
            really_raise(number)

    monkeypatch.setattr(signal, "raise_signal", in_a_container)
    try:
        assert guarded(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_values_that_look_like_markup_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out.print("warning: events.category: '[/promo]' [red] :100:")
    print_table("a [b]", ["[/b]"], [["[red]x[/b]"]])
    said = capsys.readouterr().out
    assert "'[/promo]' [red] :100:" in said
    assert "a [b]" in said
    assert "[red]x[/b]" in said


@pytest.mark.parametrize("text", ["2017-10-01", "2017-10-01T12:30"])
def test_the_way_out_of_a_time_without_a_zone_is_one(text: str) -> None:
    with pytest.raises(UserError, match="has no time zone") as refused:
        parse_time(text)
    (written,) = re.findall(r"Write (\S+) for UTC", str(refused.value))
    found = parse_time(written)
    assert found is not None
    assert found.isoformat().startswith(text)


def test_a_path_that_cannot_be_used_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: Path("/proc/nowhere/file").mkdir(parents=True)) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert "/proc/nowhere" in said
    assert "defect" not in said

    def broken() -> None:
        raise OSError("no file in particular")

    assert guarded(broken) == EXIT_DEFECT


def test_a_folder_is_no_file_to_write(workspace: Workspace, tmp_path: Path) -> None:
    workspace.state.mkdir(parents=True)
    for command in (["score", "churn"], ["export", "--entity", "user"]):
        place = ["--workspace", str(workspace.root), "--out", str(tmp_path)]
        done = CliRunner().invoke(app, [*command, *place])
        assert isinstance(done.exception, UserError)
        assert "is a folder. Give a file" in str(done.exception)


@pytest.mark.parametrize(
    "command",
    [["publish", "--size", "base"], ["evaluate", "--seed", "7"], ["ingest", "--seed", "7"]],
)
def test_a_room_that_does_not_train_saves_no_other_model(
    workspace: Workspace, command: list[str]
) -> None:
    workspace.state.mkdir(parents=True)
    company = write_tiny_company(workspace.root / "raw")
    RunSettings(company_path=company).save(workspace)
    before = RunSettings.load(workspace)
    done = CliRunner().invoke(app, [*command, "--workspace", str(workspace.root)])
    assert isinstance(done.exception, UserError)
    assert re.search(r"does not train.*bfm run --(size base|seed 7)", str(done.exception))
    assert RunSettings.load(workspace) == before


@pytest.mark.parametrize("room", ["pretrain", "heads", "evaluate", "embed", "publish"])
def test_a_room_alone_refuses_another_cut_than_that_of_the_sequences(
    workspace: Workspace, room: str
) -> None:
    workspace.state.mkdir(parents=True)
    RunSettings(company_path=write_tiny_company(workspace.root / "raw")).save(workspace)
    MadeFrom(
        events_id="e",
        events_version=0,
        learned_version=0,
        judged_version=0,
        vocabulary_id="v",
        as_of="2017-10-01T00:00:00+00:00",
        window_days=28,
        columns=[],
    ).save(workspace)
    before = RunSettings.load(workspace)
    arguments = [room, "--as-of", "2017-08-06T00:00:00Z", "--workspace", str(workspace.root)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError)
    said = str(done.exception)
    assert "as of 2017-10-01T00:00:00+00:00" in said
    assert "bfm run --as-of 2017-08-06T00:00:00+00:00" in said
    assert RunSettings.load(workspace) == before


@pytest.mark.parametrize("wrong", [["--as-of", "nonsense"], ["--size", "base"]])
def test_a_publish_that_cannot_be_forgets_nothing(workspace: Workspace, wrong: list[str]) -> None:
    workspace.state.mkdir(parents=True)
    RunSettings(company_path=write_tiny_company(workspace.root / "raw")).save(workspace)
    marker = workspace.state / "publish.json"
    marker.write_text("{}")
    arguments = ["publish", "--again", *wrong, "--workspace", str(workspace.root)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError)
    assert marker.exists()


def test_the_window_of_tasks_is_chosen_and_remembered(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunSettings] = []

    def run_stages(stages: object, context: StageContext, **_: object) -> list[object]:
        seen.append(context.settings)
        context.settings.save(context.workspace)
        return []

    monkeypatch.setattr("pipelines.flow.runner.run_stages", run_stages)
    workspace.state.mkdir(parents=True)
    company = write_tiny_company(workspace.root / "raw")
    command = ["run", "--workspace", str(workspace.root)]
    for extra in (["--company", str(company)], ["--window-days", "7"], []):
        assert CliRunner().invoke(app, [*command, *extra]).exit_code == 0
    assert [settings.window_days for settings in seen] == [28, 7, 7]
    assert CliRunner().invoke(app, [*command, "--window-days", "0"]).exit_code == 2
