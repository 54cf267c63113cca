"""Where everything of one company lives on disk."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Workspace:
    """The folder of one company: lake, vocabulary, checkpoints, bundle, shelf and reports."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).expanduser().resolve())

    @property
    def lake(self) -> Path:
        """All Delta tables."""
        return self.root / "lake"

    def table(self, name: str) -> Path:
        """Folder of the Delta table `name`."""
        return self.lake / name

    @property
    def vocabulary_path(self) -> Path:
        return self.root / "vocabulary.json"

    @property
    def grown_vocabulary_path(self) -> Path:
        """The vocabulary with the items that came after it was fitted."""
        return self.root / "vocabulary_grown.json"

    @property
    def company_path(self) -> Path:
        """The description of the company that this workspace was made from."""
        return self.root / "company.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def text_cache(self) -> Path:
        return self.root / "text_cache"

    @property
    def heads(self) -> Path:
        return self.root / "heads"

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    @property
    def embeddings(self) -> Path:
        """Exported embeddings of all users and items at the cut."""
        return self.root / "embeddings"

    @property
    def features(self) -> Path:
        """Feast's registry, offline files and online store."""
        return self.root / "features"

    @property
    def live_events_path(self) -> Path:
        """Events that the counter accepted and the shelf does not hold yet (SQLite)."""
        return self.root / "live_events.db"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def data_quality(self) -> Path:
        """The page of the last intake, and its counts."""
        return self.reports / "data_quality"

    @property
    def evaluation_path(self) -> Path:
        return self.reports / "evaluation.json"

    @property
    def quoted(self) -> str:
        """The folder as a shell takes it, for commands to be copied."""
        return shlex.quote(str(self.root))

    @property
    def state(self) -> Path:
        """One JSON per finished stage, read by the runner."""
        return self.root / "state"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def scratch(self) -> Path:
        """What running Spark sessions put aside, a folder each."""
        return self.root / ".scratch"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file for the length of a `with` block; waits for threads and processes alike.

    The kernel frees it however the process ends. Whoever holds it must not ask for it again.

    Args:
        path: The lock file; made when missing, always empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """A descriptor of a lock file; another account's may be readable alone, which is enough."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def write_bytes_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a whole file or nothing: temporary file beside it, fsync, then rename.

    Args:
        path: The file.
        content: All of it.
        mode: Who may read and write it, less what the process's umask takes away. By default as
            every other file of a workspace: a counter may run under another account than the jobs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomically(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as stable, readable JSON (sorted keys), whole or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes_atomically(path, f"{text}\n".encode())
