"""What Spark puts aside goes with its session, and what a kill leaves goes with the next lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.flow.lock import workspace_lock
from pipelines.flow.scratch import clear_scratch, scratch_folder
from pipelines.workspace import Workspace

SESSION = """
import sys, time
from pathlib import Path
from pipelines.flow.scratch import scratch_folder
from pipelines.workspace import Workspace
from serving.cli.console import guarded

def put_aside():
    with scratch_folder(Workspace(Path(sys.argv[1]))) as folder:
        (folder / "shuffle.data").write_text("ada bought tea")
        print("begun", flush=True)
        time.sleep(60)

sys.exit(guarded(put_aside))
"""


def start(workspace: Workspace) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", SESSION, str(workspace.root)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    return child


def put_aside(workspace: Workspace) -> list[str]:
    return [path.read_text() for path in workspace.scratch.rglob("*.data")]


def test_a_folder_goes_with_its_session(workspace: Workspace) -> None:
    with scratch_folder(workspace) as folder, workspace_lock(workspace):
        assert folder.is_dir(), "a session that runs keeps its folder"
    assert list(workspace.scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_a_session_that_is_asked_to_end_leaves_nothing(
    workspace: Workspace, number: signal.Signals, code: int
) -> None:
    child = start(workspace)
    assert put_aside(workspace)
    child.send_signal(number)
    _, said = child.communicate(timeout=30)
    assert child.returncode == code
    assert "run the same command to go on" in said
    assert put_aside(workspace) == []


def test_what_a_kill_leaves_goes_when_the_workspace_is_next_held(workspace: Workspace) -> None:
    killed, running = start(workspace), start(workspace)
    killed.kill()
    killed.communicate()
    assert len(put_aside(workspace)) == 2
    with workspace_lock(workspace):
        assert len(put_aside(workspace)) == 1
    running.kill()
    running.communicate()
    with workspace_lock(workspace):
        assert put_aside(workspace) == []


@pytest.mark.parametrize("reason", [PermissionError, FileNotFoundError])
def test_a_folder_that_is_not_ours_or_has_just_gone_is_passed_over(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, reason: type[OSError]
) -> None:
    shut, left = workspace.scratch / "shut", workspace.scratch / "left"
    shut.mkdir(parents=True)
    left.mkdir()
    opened = os.open

    def open_others(path: Any, *given: Any, **named: Any) -> int:
        if path == shut:
            raise reason(path)
        return opened(path, *given, **named)

    monkeypatch.setattr(os, "open", open_others)
    clear_scratch(workspace)
    assert list(workspace.scratch.iterdir()) == [shut]
