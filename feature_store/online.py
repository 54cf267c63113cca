"""The online store: the newest values, never overwritten by older ones, with their age."""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_store.offline import sample_ids
from feature_store.published import is_same_store
from feature_store.reach import StoreError, named, reached
from feature_store.settings import Shelf
from feature_store.tables import (
    AS_OF_US,
    STATE,
    USER_STATE,
    content_hash,
    stamp,
)
from pipelines.contracts import USER_ID, TableContract
from pipelines.errors import WorkspaceError
from pipelines.tokens.history import Histories
from pipelines.workspace import write_json_atomically

BATCH_ROWS: Final = 2_000
_REWRITE_S: Final = 60.0
_REWRITE_LOOK_S: Final = 0.1
_LEDGER: Final = "online.json"
_SAMPLE: Final = 100

_log: Final = logging.getLogger("bfm.shelf")


@dataclass(frozen=True)
class OnlineState:
    """What the online store knows of one user.

    Args:
        histories: One user's encoded events before `as_of_us`.
        vocabulary_id: The vocabulary that they were encoded with.
        as_of_us: Prediction time that the state was published for.
    """

    histories: Histories
    vocabulary_id: str
    as_of_us: int


def write_online(shelf: Shelf, table: TableContract, rows: pa.Table, as_of_us: int) -> int:
    """Write rows that are not older than what the online store holds; returns how many.

    The same rows twice in a row are written once. A correction for the same prediction time
    replaces what was written for it.

    Args:
        shelf: The feature store; its definitions are applied.
        table: Which table.
        rows: Columns of the table, keys distinct.
        as_of_us: Prediction time of the rows.

    Raises:
        StoreError: the online store does not answer; the same call goes on where it is up again.
    """
    version = f"{as_of_us}-{content_hash(rows)}"
    if _ledger(shelf).get(table.name, _Entry()).finished == version:
        return 0
    if _may_be_older(shelf, table, as_of_us):
        rows = _without_older(shelf, table, rows, as_of_us)
    _remember(shelf, table, as_of_us, finished="")
    now_us = time.time_ns() // 1_000  # Redis skips rows whose time is not later than the stored one
    stamped = stamp(rows, now_us, now_us)
    for start in range(0, rows.num_rows, BATCH_ROWS):
        batch = stamped.slice(start, BATCH_ROWS).to_pandas()
        with reached(shelf):
            shelf.store.write_to_online_store(table.name, df=batch)
    _remember(shelf, table, as_of_us, finished=version)
    return int(rows.num_rows)


def online_features(
    shelf: Shelf, key: str, ids: Sequence[str], features: Sequence[str]
) -> list[dict[str, Any]]:
    """Newest values per id, in the order of `ids`; None where there is none.

    Args:
        shelf: A published feature store.
        key: The entity's key column, `user_id` or `item_id`.
        ids: Outside ids.
        features: References "table:feature".

    Raises:
        StoreError: the online store does not answer.
    """
    if not ids:
        return []
    with reached(shelf):
        response = shelf.store.get_online_features(
            features=list(features), entity_rows=[{key: one} for one in ids]
        )
    columns = response.to_dict()
    return [{name: columns[name][i] for name in columns} for i in range(len(ids))]


def online_state(
    shelf: Shelf, user_id: str, *, not_before_us: int | None = None
) -> OnlineState | None:
    """A user's stored history, or None; see `online_states`."""
    return online_states(shelf, [user_id], not_before_us=not_before_us)[0]


def online_states(
    shelf: Shelf, user_ids: Sequence[str], *, not_before_us: int | None = None
) -> list[OnlineState | None]:
    """Stored histories in the order of users, asked for at once; None where there is none or it is
    too old.

    Args:
        shelf: A published feature store.
        user_ids: Outside ids.
        not_before_us: Oldest publish time to accept; Feast itself enforces no age online.

    Raises:
        StoreError: the online store does not answer.
    """
    names = [f"{USER_STATE.name}:{name}" for name in (STATE, AS_OF_US)]
    rows = online_features(shelf, USER_ID, user_ids, names)
    return [_state(row, not_before_us) for row in rows]


def _state(row: Mapping[str, Any], not_before_us: int | None) -> OnlineState | None:
    content, as_of_us = row[STATE], row[AS_OF_US]
    if not content or (not_before_us is not None and as_of_us < not_before_us):
        return None
    histories, vocabulary_id = Histories.from_bytes(content)
    return OnlineState(histories=histories, vocabulary_id=vocabulary_id, as_of_us=as_of_us)


def require_same_store(shelf: Shelf) -> None:
    """Refuse an online store that another publish filled.

    Raises:
        WorkspaceError: it is another one than that of the last publish.
    """
    if not is_same_store(shelf):
        raise WorkspaceError(
            f"The shelf in {shelf.root} was published to another online store than BFM_SHELF_... "
            f"names now. Fill this one first: bfm publish --workspace {shelf.workspace.quoted}"
        )


def require_filled(shelf: Shelf) -> None:
    """Refuse an online store that holds none of a sample of the users who were published.

    Raises:
        WorkspaceError: it was lost, or is another one.
        StoreError: it does not answer.
    """
    users = sample_ids(shelf, USER_STATE, _SAMPLE)
    if users and not held_online(shelf, users):
        raise WorkspaceError(
            f"The online store ({shelf.settings.online_store}, project '{shelf.settings.project}') "
            f"holds none of the users that {shelf.root} was published with: it was lost or "
            "emptied, or BFM_SHELF_... names another one than bfm publish wrote to. Correct them, "
            f"or fill it again: bfm publish --again --workspace {shelf.workspace.quoted}"
        )


def require_answer(shelf: Shelf) -> None:
    """Refuse an online store that is down; one that is empty will do.

    Raises:
        StoreError: it does not answer.
    """
    online_features(shelf, USER_ID, [""], [f"{USER_STATE.name}:{AS_OF_US}"])


def held_online(shelf: Shelf, users: Sequence[str]) -> list[str]:
    """Those of the users of whom the online store holds a state.

    Raises:
        StoreError: it does not answer.
    """
    if _is_lost(shelf):
        return []
    held: list[str] = []
    for start in range(0, len(users), BATCH_ROWS):
        batch = users[start : start + BATCH_ROWS]
        found = online_features(shelf, USER_ID, batch, [f"{USER_STATE.name}:{AS_OF_US}"])
        held += [user for user, row in zip(batch, found, strict=True) if row[AS_OF_US]]
    return held


def _is_lost(shelf: Shelf) -> bool:
    """Whether the embedded store's file is gone; who merely looks at it leaves an empty one."""
    if shelf.settings.online_store != "sqlite":
        return False
    path = shelf.online_path
    return not path.is_file() or not path.stat().st_size


def forget_written(shelf: Shelf) -> None:
    """Let the next publish write every row, whatever was written before."""
    (shelf.root / _LEDGER).unlink(missing_ok=True)


def remove_online(shelf: Shelf, table: TableContract, ids: Sequence[str]) -> int:
    """Take entities out of the online store; the number of their stored rows, as far as known.

    Feast has no such call. In SQLite and Postgres the rows are deleted, since their keys hold the
    ids in clear; in Redis the entities' hashes.

    Raises:
        StoreError: the online store does not answer.
    """
    remove = {"sqlite": _delete_rows, "redis": _delete_hashes, "postgres": _delete_from_postgres}
    asked = named if shelf.settings.online_store == "sqlite" else reached
    removed = 0
    for start in range(0, len(ids), BATCH_ROWS):
        with asked(shelf):
            batch = ids[start : start + BATCH_ROWS]
            removed += remove[shelf.settings.online_store](shelf, table, batch)
    return removed


def _stored_keys(table: TableContract, ids: Sequence[str]) -> list[bytes]:
    """Entities as the online stores name them."""
    keys = [EntityKey(join_keys=table.key, entity_values=[Value(string_val=one)]) for one in ids]
    return [serialize_entity_key(key, entity_key_serialization_version=3) for key in keys]


def _sql_name(shelf: Shelf, table: TableContract) -> str:
    """A table as Feast names it in SQLite and Postgres."""
    return f'"{shelf.settings.project}_{table.name}"'


def _delete_hashes(shelf: Shelf, table: TableContract, ids: Sequence[str]) -> int:
    project = shelf.settings.project.encode()
    return int(_redis(shelf).delete(*(key + project for key in _stored_keys(table, ids))))


def _redis(shelf: Shelf) -> Any:
    online: Any = shelf.store._get_provider().online_store
    return online._get_client(shelf.store.config.online_store)


def rewrite_redis_log(shelf: Shelf) -> None:
    """Let Redis write its append-only file anew, if it keeps one: deleted hashes, and the names of
    those that were deleted, stay in it until then. A server that allows nobody to ask for it keeps
    them until it does so itself.

    Raises:
        StoreError: Redis does not answer, or is in the middle of an earlier rewrite.
    """
    from redis.exceptions import ResponseError

    with reached(shelf):
        client, deadline = _redis(shelf), time.monotonic() + _REWRITE_S
        try:
            while (state := client.info("persistence")).get("aof_rewrite_in_progress"):
                if time.monotonic() > deadline:
                    raise StoreError(
                        "Redis is still writing its append-only file anew from before, so that "
                        "deleted rows could not be wiped from it. Run the same command again in a "
                        "moment; it goes on where it stopped."
                    )
                time.sleep(_REWRITE_LOOK_S)
            if state.get("aof_enabled"):
                client.bgrewriteaof()
        except ResponseError as error:
            _log.warning("Redis does not rewrite its append-only file when asked: %s", error)


def _delete_from_postgres(shelf: Shelf, table: TableContract, ids: Sequence[str]) -> int:
    postgres: Any = shelf.store._get_provider().online_store
    query = f"DELETE FROM {_sql_name(shelf, table)} WHERE entity_key = ANY(%s)"
    with postgres._get_conn(shelf.store.config, autocommit=True) as connection:
        return int(connection.execute(query, (_stored_keys(table, ids),)).rowcount)


def prepare_sqlite(shelf: Shelf) -> None:
    """Make the file of the embedded store, with a write-ahead log: readers go on while a publish
    writes. One that is missing was lost, so that every row is written again."""
    if shelf.settings.online_store != "sqlite":
        return
    if _is_lost(shelf):
        forget_written(shelf)
        shelf.online_path.touch()  # by the umask; SQLite itself would keep the group from writing
    with closing(sqlite3.connect(shelf.online_path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _delete_rows(shelf: Shelf, table: TableContract, ids: Sequence[str]) -> int:
    if _is_lost(shelf):
        return 0
    query = f"DELETE FROM {_sql_name(shelf, table)} WHERE entity_key = ?"
    with closing(sqlite3.connect(shelf.online_path, timeout=30)) as connection, connection:
        connection.execute("PRAGMA secure_delete=ON")
        return connection.executemany(query, [(key,) for key in _stored_keys(table, ids)]).rowcount


def _may_be_older(shelf: Shelf, table: TableContract, as_of_us: int) -> bool:
    if shelf.settings.online_store != "sqlite":
        return True  # others may have written
    return as_of_us < _ledger(shelf).get(table.name, _Entry()).newest_us


@dataclass(frozen=True)
class _Entry:
    """What this workspace wrote online: the newest time begun, and the last rows finished."""

    newest_us: int = 0
    finished: str = ""


def _ledger(shelf: Shelf) -> dict[str, _Entry]:
    path = shelf.root / _LEDGER
    if shelf.settings.online_store != "sqlite" or _is_lost(shelf):
        return {}  # others may be emptied or filled by somebody else
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: _Entry(**entry) for name, entry in content.items()}


def _remember(shelf: Shelf, table: TableContract, as_of_us: int, finished: str) -> None:
    ledger = _ledger(shelf)
    newest_us = max(as_of_us, ledger.get(table.name, _Entry()).newest_us)
    ledger[table.name] = _Entry(newest_us, finished)
    path = shelf.root / _LEDGER
    write_json_atomically(path, {name: asdict(entry) for name, entry in ledger.items()})


def _without_older(shelf: Shelf, table: TableContract, rows: pa.Table, as_of_us: int) -> pa.Table:
    key = table.key[0]
    ids = rows.column(key).to_pylist()
    keep: list[bool] = []
    for start in range(0, len(ids), BATCH_ROWS):
        stored = online_features(
            shelf, key, ids[start : start + BATCH_ROWS], [f"{table.name}:{AS_OF_US}"]
        )
        keep += [row[AS_OF_US] is None or row[AS_OF_US] <= as_of_us for row in stored]
    return rows.filter(pa.array(keep, type=pa.bool_()))
