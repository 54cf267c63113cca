"""Users who asked to be forgotten: never served, published or taken in, although a source has them.

The list holds SHA-256 digests of ids in place of the ids. An id that can be guessed, such as a
customer number, can be found again by trying: the list is pseudonymous, not anonymous.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Final

import pyarrow as pa

from pipelines.contracts import USER_ID
from pipelines.errors import WorkspaceError
from pipelines.workspace import Workspace, exclusive, write_json_atomically

WORD_BREAKS: Final = r"""[\s"',;:{}\[\]\\|]+"""
"""What stands between the words of a raw row, as both Java and Python read it. A row that does not
tell whose it is counts as the user's whose id is one of its words."""


def suppression_path(workspace: Workspace) -> Path:
    """The list of erased users."""
    return workspace.features / "suppressed.json"


def suppressed_digests(workspace: Workspace) -> list[str]:
    """SHA-256 hex digests of the ids of erased users, sorted."""
    return sorted(_digests(workspace))


def user_hash(user_id: str) -> str:
    """SHA-256 of a user id: enough to recognise an erased user, without keeping the id."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def is_suppressed(workspace: Workspace, user_id: str) -> bool:
    """Whether this user was erased."""
    return user_hash(user_id) in _digests(workspace)


def without_digests(user_ids: Sequence[str], digests: frozenset[str]) -> list[str]:
    """Those of the users who are not among the digests."""
    return [user for user in user_ids if user_hash(user) not in digests]


def without_users(rows: pa.Table, digests: frozenset[str]) -> pa.Table:
    """Rows whose user is not among the digests."""
    if not digests or USER_ID not in rows.column_names:
        return rows
    keep = [user_hash(user) not in digests for user in rows.column(USER_ID).to_pylist()]
    return rows.filter(pa.array(keep, type=pa.bool_()))


def without_suppressed(workspace: Workspace, rows: pa.Table) -> pa.Table:
    """Rows of users that were not erased."""
    return without_users(rows, _digests(workspace))


def suppress(workspace: Workspace, digest: str) -> None:
    """Keep a user out from now on; requests at the same time wait for one another."""
    path = suppression_path(workspace)
    with exclusive(path.with_name(f".{path.name}.lock")):
        users = sorted({*_digests(workspace), digest})
        write_json_atomically(path, {"users": users})


def _digests(workspace: Workspace) -> frozenset[str]:
    """The list as it stands, parsed once for every time that it was written."""
    path = suppression_path(workspace)
    try:
        found = path.stat()
    except FileNotFoundError:
        return frozenset()
    return _parsed(path, found.st_mtime_ns, found.st_ino, found.st_size)


@lru_cache(maxsize=8)
def _parsed(path: Path, mtime_ns: int, inode: int, size: int) -> frozenset[str]:
    """The digests of a file; another time, inode or size is another file."""
    return frozenset(json.loads(path.read_text(encoding="utf-8"))["users"])


def names_user(text: str, digest: str) -> bool:
    """Whether a user's id is one of the words of a text."""
    return any(user_hash(word) == digest for word in set(re.split(WORD_BREAKS, text)))


def scrub_sqlite(path: Path) -> None:
    """Write a SQLite file anew, so that no free page or log holds what was deleted.

    Raises:
        WorkspaceError: another process is in the middle of reading or writing it.
    """
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("VACUUM")
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as error:
        raise _busy(path) from error
    if busy:
        raise _busy(path)


def _busy(path: Path) -> WorkspaceError:
    return WorkspaceError(
        f"{path} is in use, so that deleted rows could not be wiped from it. Run the same command "
        "again in a moment; it goes on where it stopped."
    )
