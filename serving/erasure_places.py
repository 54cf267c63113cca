"""Every place of a workspace that may name a user, and how the user is removed from it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import escape

from behavior_model.scoring_tables import EMBEDDED_SCHEMA, write_table
from feature_store.erasure import erase_offline, erase_online, published_users, wipe_online
from feature_store.offline import remove_leftovers
from feature_store.settings import Shelf
from pipelines.contracts import USER_ID
from pipelines.erasure import scrub_sqlite
from pipelines.errors import WorkspaceError
from pipelines.flow.lake_erasure import (
    USER_TABLES,
    Owner,
    erase_from,
    erase_from_quarantine,
    owners,
    users_of,
)
from pipelines.quality.quarantine import HASH_KEY, RESERVED_KEYS, TABLE_KEY
from pipelines.workspace import Workspace, write_bytes_atomically
from serving.line import ITEM_EMBEDDINGS
from serving.live_events import LiveEvents


@dataclass(frozen=True)
class Person:
    """Who is to be removed, and from where.

    Args:
        shelf: The workspace's shelf.
        user_id: Outside id; None when no table names it, so that only traces may be left.
        digest: Of the id.
    """

    shelf: Shelf
    user_id: str | None
    digest: str

    @property
    def workspace(self) -> Workspace:
        return self.shelf.workspace


def known_users(workspace: Workspace) -> Iterator[str]:
    """All ids that tables, exports and stores name; one may come more than once."""
    for path, column in _exports(workspace):
        yield from _ids(pq.read_table(path, columns=[column]), column).unique().to_pylist()
    yield from published_users(Shelf(workspace))
    if workspace.live_events_path.is_file():
        with closing(LiveEvents(workspace.live_events_path)) as events:
            yield from events.users()
    yield from users_of(workspace)


def _from_online(person: Person) -> int:
    removed = 0 if person.user_id is None else erase_online(person.shelf, person.user_id)
    wipe_online(person.shelf)
    return removed


def _from_report(person: Person) -> int:
    """The intake's page shows rows that broke a promise; the next run makes it again."""
    folder = person.workspace.data_quality
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = _spelling(person)
    if named is None or not any(named.search(path.read_bytes()) for path in files):
        return 0
    shutil.rmtree(folder)
    return len(files)


def _from_logs(person: Person) -> int:
    named = _spelling(person)
    if named is None:
        return 0
    removed = 0
    for path in person.workspace.logs.rglob("*"):
        if path.is_file():
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [one for one in lines if not named.search(one)]
            if len(kept) < len(lines):
                write_bytes_atomically(path, b"".join(kept))
            removed += len(lines) - len(kept)
    return removed


def _from_leftovers(person: Person) -> int:
    """Temporary files that a killed process left behind."""
    folders = (person.workspace.embeddings, person.workspace.logs)
    files = [path for folder in folders for path in folder.glob(".*") if path.is_file()]
    for path in files:
        path.unlink()
    return len(files) + remove_leftovers(person.shelf)


def _from_exports(person: Person) -> int:
    removed = 0
    for path, column in _exports(person.workspace) if person.user_id is not None else ():
        rows = pq.read_table(path)
        others = pc.fill_null(pc.not_equal(_ids(rows, column), person.user_id), fill_value=True)
        kept = rows.filter(others)
        if kept.num_rows < rows.num_rows:
            write_table(path, kept)
        removed += rows.num_rows - kept.num_rows
    return removed


def _ids(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of ids as text; a benchmark writes them in the type of the file that it read."""
    return rows.column(column).cast(pa.string())


def _exports(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    """Parquet files of users outside the lake and the shelf, with the column of their ids.

    Exported embeddings do not tell whether they are of users or of items. They count as users', so
    that nobody is left: the line of an item that has the user's id would go too.
    """
    for path in _files(workspace, "*.parquet"):
        try:
            names = pq.read_schema(path).names
        except pa.ArrowInvalid as error:
            raise WorkspaceError(
                f"{path} is not the Parquet file that its name says, so that nobody can tell whose "
                "rows it holds. Delete or move it, then run again."
            ) from error
        if USER_ID in names:
            yield path, USER_ID
        elif names == EMBEDDED_SCHEMA.names and path != workspace.embeddings / ITEM_EMBEDDINGS:
            yield path, names[0]


def _files(workspace: Workspace, pattern: str) -> Iterator[Path]:
    """Files that commands were told to write into the workspace, and the line's embeddings."""
    elsewhere = (workspace.lake, workspace.features, workspace.bundle, workspace.scratch)
    for place in sorted(workspace.root.iterdir()):
        if place in elsewhere or place.is_symlink():  # what lies elsewhere is its owner's
            continue
        found = place.rglob(pattern) if place.is_dir() else [place]
        yield from sorted(path for path in found if path.is_file() and path.match(pattern))


def _from_exported_quarantine(person: Person) -> int:
    """Lines of `bfm quarantine --export`; other files of JSON lines are left as they are."""
    owner, removed = owners(person.workspace), 0
    for path in _files(person.workspace, "*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not _is_of(line, owner, person.digest)]
        if len(kept) < len(lines):
            write_bytes_atomically(path, b"".join(kept))
        removed += len(lines) - len(kept)
    return removed


def _is_of(line: bytes, owner: Owner, digest: str) -> bool:
    """Whether a line is a raw row of the user's."""
    try:
        row = json.loads(line)
    except ValueError:
        return False
    if not isinstance(row, dict) or HASH_KEY not in row:
        return False
    raw = {name: value for name, value in row.items() if name not in RESERVED_KEYS}
    return owner(str(row.get(TABLE_KEY)), json.dumps(raw, ensure_ascii=False), digest)


def _from_offline(person: Person) -> int:
    return 0 if person.user_id is None else erase_offline(person.shelf, person.user_id)


def _from_live_events(person: Person) -> int:
    path = person.workspace.live_events_path
    if not path.is_file():
        return 0
    with closing(LiveEvents(path)) as events:
        removed = 0 if person.user_id is None else events.remove_user(person.user_id)
    scrub_sqlite(path)
    return removed


def _from_quarantine(person: Person) -> int:
    return erase_from_quarantine(person.workspace, person.digest)


def _from_table(name: str, person: Person) -> int:
    return erase_from(person.workspace, name, person.user_id)


def _spelling(person: Person) -> re.Pattern[bytes] | None:
    """The id as a word, as pages, JSON and logs write it."""
    if person.user_id is None:
        return None
    ways = {person.user_id, str(escape(person.user_id)), json.dumps(person.user_id)[1:-1]}
    either = b"|".join(re.escape(way.encode()) for way in sorted(ways))
    return re.compile(rb"(?<!\w)(?:" + either + rb")(?!\w)")


PLACES: Final[Mapping[str, Callable[[Person], int]]] = {
    "features/online": _from_online,
    "reports/data_quality": _from_report,
    "logs": _from_logs,
    "leftovers": _from_leftovers,
    "embeddings and exports": _from_exports,
    "exports of quarantine": _from_exported_quarantine,
    "features/offline": _from_offline,
    "live_events.db": _from_live_events,
    "lake/quarantine": _from_quarantine,
    **{f"lake/{name}": partial(_from_table, name) for name in USER_TABLES},
}
"""Place -> removes a user there and gives the number of rows, lines or files.

In this order: an erasure that was cut short knows the user by digest alone, and finds the id in the
places that come last.
"""
