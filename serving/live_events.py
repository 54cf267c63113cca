"""Events that came over HTTP and are not on the shelf yet: typed, kept in SQLite, idempotent by
id. `delivered` removes those that the tables have brought."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipelines.contracts import EVENT_ID, EVENT_TIME, EVENTS, SESSION_ID, USER_ID, ColumnType
from pipelines.errors import BfmError
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import TIME_KINDS, TokenKind, Vocabulary

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS live_events (
    event_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    event_time_us INTEGER NOT NULL,
    content TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    received_us INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS live_events_of_user ON live_events (user_id, event_time_us);
"""

_BUSY_S: Final = 3.0
"""How long a writer waits for another one of the file."""
_BATCH: Final = 10_000
"""Events removed at once, so that the counter's writes need not wait long."""

MAX_OF_USER: Final = 1_000
"""Of a user's live events, how many a question reads; those of a day are far fewer."""

Event = Mapping[str, Any]
"""Canonical column -> value; the time as UTC microseconds; absent columns left out."""


class EventConflictError(BfmError):
    """An event id came again with another content.

    Args:
        positions: Which events of the request, counted from 0.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        super().__init__(f"events at {list(positions)} are stored with another content")
        self.positions = list(positions)


@dataclass(frozen=True)
class Accepted:
    """What became of posted events."""

    stored: int
    known: int


class LiveEvents:
    """The store of live events of one workspace; safe to use from several threads.

    Args:
        path: SQLite file; made when missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # by the umask; SQLite itself would keep the group from writing
        self._connection = sqlite3.connect(
            path, check_same_thread=False, timeout=_BUSY_S, isolation_level=None
        )
        self._lock = threading.Lock()
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA secure_delete=ON")
        self._connection.executescript(_SCHEMA)
        # beside the writer's, so that no question waits behind a write that waits
        self._reader = sqlite3.connect(
            path, check_same_thread=False, timeout=_BUSY_S, isolation_level=None
        )
        self._read_lock = threading.Lock()

    def close(self) -> None:
        """Close the file."""
        with self._lock, self._read_lock:
            self._reader.close()
            self._connection.close()

    def add(self, events: Sequence[Event]) -> Accepted:
        """Store all of the events or none.

        Raises:
            EventConflictError: an id is stored, or given twice, with another content.
        """
        rows = [_row(event) for event in events]
        with self._transaction():
            stored = self._insert(rows)
        return Accepted(stored=stored, known=len(rows) - stored)

    def of_user(self, user_id: str) -> list[dict[str, Any]]:
        """A user's events, oldest first, ties by session and event id; of very many the newest
        `MAX_OF_USER`, since each question reads them all."""
        query = (
            "SELECT content FROM live_events WHERE user_id = ? "
            "ORDER BY event_time_us DESC, event_id DESC LIMIT ?"
        )
        with self._reading(query, (user_id, MAX_OF_USER)) as cursor:
            found = [json.loads(content) for (content,) in cursor.fetchall()]
        return in_order(found)

    def remove_user(self, user_id: str) -> int:
        """Delete a user's events; returns how many there were."""
        query = "DELETE FROM live_events WHERE user_id = ?"
        with self._lock, closing(self._connection.execute(query, (user_id,))) as cursor:
            return cursor.rowcount

    def remove_before(self, oldest_us: int) -> int:
        """Delete events before a time; returns how many there were."""
        return self._remove_where("event_time_us < ?", oldest_us)

    def remove_received_before(self, oldest_us: int) -> int:
        """Delete events that were received before a time; returns how many there were."""
        return self._remove_where("received_us < ?", oldest_us)

    def remove(self, event_ids: Sequence[str]) -> int:
        """Delete the events of these ids; returns how many there were."""
        query, removed = "DELETE FROM live_events WHERE event_id = ?", 0
        for start in range(0, len(event_ids), _BATCH):
            batch = [(one,) for one in event_ids[start : start + _BATCH]]
            with self._transaction(), closing(self._connection.executemany(query, batch)) as cursor:
                removed += cursor.rowcount
        return removed

    def ids_by_user(self) -> dict[str, list[str]]:
        """Ids of all events by the user whose they are."""
        query = "SELECT user_id, event_id FROM live_events ORDER BY user_id"
        found: dict[str, list[str]] = {}
        with self._reading(query) as cursor:
            for user, event_id in cursor:
                found.setdefault(user, []).append(event_id)
        return found

    def users(self) -> list[str]:
        """Ids of all users with an event, in order."""
        query = "SELECT DISTINCT user_id FROM live_events ORDER BY user_id"
        with self._reading(query) as cursor:
            return [user for (user,) in cursor.fetchall()]

    def _remove_where(self, condition: str, value: int) -> int:
        """Delete, a batch at a time, what a condition of this module names."""
        chosen = f"SELECT event_id FROM live_events WHERE {condition} LIMIT {_BATCH}"
        query, removed = f"DELETE FROM live_events WHERE event_id IN ({chosen})", 0
        while True:
            with self._lock, closing(self._connection.execute(query, (value,))) as cursor:
                removed += cursor.rowcount
                if cursor.rowcount < _BATCH:
                    return removed

    @contextmanager
    def _reading(self, query: str, values: Sequence[Any] = ()) -> Iterator[sqlite3.Cursor]:
        with self._read_lock, closing(self._reader.execute(query, values)) as cursor:
            yield cursor

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of a `with` block or nothing."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def _insert(self, rows: Sequence[tuple[Any, ...]]) -> int:
        stored, conflicts = 0, []
        for position, row in enumerate(rows):
            query = "SELECT content_hash FROM live_events WHERE event_id = ?"
            known = self._connection.execute(query, (row[0],)).fetchone()
            if known is None:
                self._connection.execute("INSERT INTO live_events VALUES (?, ?, ?, ?, ?, ?)", row)
                stored += 1
            elif known[0] != row[4]:
                conflicts.append(position)
        if conflicts:
            raise EventConflictError(conflicts)
        return stored


def in_order(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Sorted as the batch sorts: by (event_time, session_id, event_id)."""
    key = lambda e: (e[EVENT_TIME], e.get(SESSION_ID) or "", e[EVENT_ID])  # noqa: E731
    return sorted((dict(event) for event in events), key=key)


def encode_events(vocabulary: Vocabulary, user_id: str, events: Sequence[Event]) -> Histories:
    """One user's events through the one encoder.

    Args:
        vocabulary: The bundle's vocabulary.
        user_id: Outside id.
        events: In any order; may be none.
    """
    ordered = in_order(events)
    schema = _arrow_schema(vocabulary)
    columns = {name: [event.get(name) for event in ordered] for name in schema.names}
    table = pa.table(columns, schema=schema)
    offsets = np.asarray([0, len(ordered)], dtype=np.int64)
    return encode(vocabulary, table, [user_id], offsets)


def extra_fields(vocabulary: Vocabulary) -> dict[str, ColumnType]:
    """The company's own event columns that the model reads, with their types."""
    known = set(EVENTS.column_names)
    found: dict[str, ColumnType] = {}
    for field in vocabulary.fields:
        if field.kind not in TIME_KINDS and field.column not in known:
            number = field.kind is TokenKind.NUMBER
            found[field.column] = ColumnType.DOUBLE if number else ColumnType.STRING
    return found


def _arrow_schema(vocabulary: Vocabulary) -> pa.Schema:
    types = {
        ColumnType.STRING: pa.string(),
        ColumnType.DOUBLE: pa.float64(),
        ColumnType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    }
    declared = {column.name: column.type for column in EVENTS.columns} | extra_fields(vocabulary)
    return pa.schema([pa.field(name, types[type_]) for name, type_ in declared.items()])


def _row(event: Event) -> tuple[Any, ...]:
    content = json.dumps(dict(event), sort_keys=True, ensure_ascii=False, allow_nan=False)
    digest = hashlib.sha256(content.encode()).hexdigest()
    received_us = time.time_ns() // 1_000
    return event[EVENT_ID], event[USER_ID], event[EVENT_TIME], content, digest, received_us
