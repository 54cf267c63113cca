"""Looks for an id in every file of a workspace: in the raw bytes and behind every encoding."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq


def traces(root: Path, text: str) -> list[str]:
    """Files below `root` that hold the text, in order of name."""
    wanted = text.encode()
    return [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*"))
        if path.is_file() and any(wanted in content for content in _contents(path))
    ]


def _contents(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    yield str(path.name).encode()
    yield content
    if content.startswith(b"PAR1"):
        yield repr(pq.read_metadata(path).metadata).encode()
        yield repr(pq.read_table(path).to_pylist()).encode()
    if content.startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            yield "\n".join(connection.iterdump()).encode()
