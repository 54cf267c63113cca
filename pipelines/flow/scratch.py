"""Where Spark puts rows aside: in the workspace, so that what a kill leaves there is found.

Shuffle files hold personal data. A session holds its folder by a lock that the kernel frees however
the process ends, so a folder that can be locked is one that a kill has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pipelines.workspace import Workspace

_NOT_OURS: Final = (BlockingIOError, FileNotFoundError, PermissionError)
"""A session that runs, has just ended, or belongs to another account."""


@contextlib.contextmanager
def scratch_folder(workspace: Workspace) -> Iterator[Path]:
    """A folder for one session, gone with it."""
    workspace.scratch.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with _locked(workspace.scratch):
            folder = Path(tempfile.mkdtemp(dir=workspace.scratch))
            held.enter_context(_locked(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_scratch(workspace: Workspace) -> None:
    """Remove what killed sessions have left; those that run keep theirs."""
    if not workspace.scratch.is_dir():
        return
    with _locked(workspace.scratch):
        for folder in workspace.scratch.iterdir():
            with contextlib.suppress(*_NOT_OURS), _locked(folder, waits=False):
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, waits: bool = True) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
