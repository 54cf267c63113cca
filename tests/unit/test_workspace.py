"""Files of a workspace: whole or not at all, and readable as the umask says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.workspace import write_bytes_atomically
from serving.live_events import LiveEvents


@pytest.fixture(params=[0o022, 0o007])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_the_umask_says_who_may_read_a_file(umask: int, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "manifest.json"
    for content in (b"first", b"second"):
        write_bytes_atomically(path, content)
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
        assert path.read_bytes() == content


def test_the_umask_says_who_may_read_and_write_live_events(umask: int, tmp_path: Path) -> None:
    path = tmp_path / "live_events.db"
    with closing(LiveEvents(path)) as events:
        assert events.users() == []
        for file in tmp_path.iterdir():
            assert file.stat().st_mode & 0o777 == 0o666 & ~umask, file.name


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "manifest.json"
    write_bytes_atomically(path, b"first")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes_atomically(path, b"second")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [(path.name, b"first")]
