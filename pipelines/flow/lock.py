"""One writer per workspace."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from typing import Final

from pipelines.errors import WorkspaceError
from pipelines.flow.scratch import clear_scratch
from pipelines.workspace import Workspace, exclusive

LOCK_FILE: Final = ".lock"
LAKE_LOCK_FILE: Final = ".lake.lock"


@contextlib.contextmanager
def lake_lock(workspace: Workspace) -> Iterator[None]:
    """Hold what intake writes, for the time of one write; waits for a stream or an intake."""
    with exclusive(workspace.root / LAKE_LOCK_FILE):
        yield


@contextlib.contextmanager
def workspace_lock(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace for this process; the kernel frees it however the process ends.

    What Spark sessions of killed processes have left is removed.

    Raises:
        WorkspaceError: another process holds it.
    """
    workspace.root.mkdir(parents=True, exist_ok=True)
    with (workspace.root / LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkspaceError(
                f"{workspace.root} is in use by another bfm process. Wait for it to end, or choose "
                "another --workspace."
            ) from error
        clear_scratch(workspace)
        yield
