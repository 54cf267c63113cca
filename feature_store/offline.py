"""The offline store: one parquet file per table, grown per publish, read point-in-time correct."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_store.settings import Shelf
from feature_store.tables import (
    EVENT_TIMESTAMP,
    FEATURE_TABLES,
    TIME_TYPE,
    arrow_schema,
    content_hash,
    feature_names,
    stamp,
)
from pipelines.contracts import TableContract
from pipelines.errors import UnknownNameError, UserError
from pipelines.workspace import exclusive, write_bytes_atomically

_ROW: Final = "row_idx"
_VERSIONS: Final = b"bfm.versions"


@dataclass(frozen=True)
class Version:
    """One publish of a table: when it is true, when it was known, and a hash of its rows."""

    as_of_us: int
    created_us: int
    content: str


def versions(shelf: Shelf, table: TableContract) -> list[Version]:
    """All publishes of a table in the order in which they came."""
    path = shelf.offline_path(table.name)
    if not path.is_file():
        return []
    found = (pq.read_schema(path).metadata or {}).get(_VERSIONS, b"[]")
    return [Version(**one) for one in json.loads(found)]


def append(
    shelf: Shelf, table: TableContract, rows: pa.Table, as_of_us: int, created_us: int | None
) -> bool:
    """Add one publish to the offline store.

    Args:
        shelf: The feature store.
        table: Which table.
        rows: Its columns without the two time columns, keys distinct.
        as_of_us: Prediction time of the rows.
        created_us: When they could be known. By default `as_of_us` for the first publish of a
            prediction time (a system that runs on time) and the present for a correction.

    Returns:
        False when the newest publish of this prediction time holds the same rows already.
    """
    rows = rows.select(list(table.column_names)).sort_by(table.key[0]).combine_chunks()
    with _changing(shelf, table):
        return _append(shelf, table, rows, as_of_us, created_us)


def _append(
    shelf: Shelf, table: TableContract, rows: pa.Table, as_of_us: int, created_us: int | None
) -> bool:
    content = content_hash(rows)
    known = versions(shelf, table)
    earlier = [one for one in known if one.as_of_us == as_of_us]
    if earlier and earlier[-1].content == content:
        return False
    if created_us is None:
        created_us = time.time_ns() // 1_000 if earlier else as_of_us
    # Feast breaks ties of the event time in no fixed order: a correction counts 1 us later.
    stamped = stamp(rows, as_of_us + len(earlier), created_us).cast(arrow_schema(table))
    path = shelf.offline_path(table.name)
    if known:
        stamped = pa.concat_tables([pq.read_table(path).cast(arrow_schema(table)), stamped])
    _write(path, stamped, [*known, Version(as_of_us, created_us, content)])
    return True


def historical_features(shelf: Shelf, entity_rows: pa.Table, features: Sequence[str]) -> pa.Table:
    """Feature values as they were known at each row's own time.

    Feast drops entity rows without features, keeps no order, and merges rows that share a key
    and a time; so it is asked for distinct pairs per entity, and the answer is joined back on a
    row id.

    Args:
        shelf: A published feature store.
        entity_rows: N rows with `event_timestamp`, the key of every asked table, and anything else.
        features: References "table:feature".

    Returns:
        The N rows in their order, with one further column per feature, null where none was known.

    Raises:
        WorkspaceError: nothing was published.
        UnknownNameError: no such feature.
        UserError: a key or the time is missing from `entity_rows`.
    """
    shelf.require_published()
    result = entity_rows
    for key, references in _by_key(features).items():
        _require_columns(entity_rows, (key, EVENT_TIMESTAMP))
        found = _ask(shelf, entity_rows.select([key, EVENT_TIMESTAMP]), key, references)
        for name in found.column_names:
            result = result.append_column(name, found.column(name))
    return result


def remove_user(shelf: Shelf, table: TableContract, user_id: str) -> int:
    """Take a user out of every publish of a table; the number of rows removed."""
    path = shelf.offline_path(table.name)
    if not path.is_file():
        return 0
    with _changing(shelf, table):
        rows = pq.read_table(path).cast(arrow_schema(table))
        kept = rows.filter(pc.not_equal(rows.column(table.key[0]), user_id))
        if kept.num_rows < rows.num_rows:
            _write(path, kept, versions(shelf, table))
    return int(rows.num_rows - kept.num_rows)


def published_ids(shelf: Shelf, table: TableContract, *, since_us: int | None = None) -> set[str]:
    """Keys of a table in any publish, or in those since a prediction time."""
    path = shelf.offline_path(table.name)
    if not path.is_file():
        return set()
    rows = pq.read_table(path, columns=[table.key[0], EVENT_TIMESTAMP])
    if since_us is not None:
        rows = rows.filter(_since(rows, since_us))
    return set(rows.column(0).unique().to_pylist())


def sample_ids(shelf: Shelf, table: TableContract, num: int) -> list[str]:
    """Keys of a table, at most so many: half of its newest rows, half of all, evenly spaced."""
    path = shelf.offline_path(table.name)
    if not path.is_file():
        return []
    rows = pq.read_table(path, columns=[table.key[0], EVENT_TIMESTAMP])
    if not rows.num_rows:
        return []
    order = [(EVENT_TIMESTAMP, "descending"), (table.key[0], "ascending")]
    newest = pc.select_k_unstable(rows, num // 2, order).to_numpy().astype(np.int64)
    spaced = np.linspace(0, rows.num_rows - 1, num - num // 2).astype(np.int64)
    chosen = pa.array(np.concatenate([newest, spaced]))
    ids: list[str] = rows.column(0).take(chosen).to_pylist()
    return list(dict.fromkeys(ids))


def drop_publishes_before(shelf: Shelf, table: TableContract, oldest_us: int) -> int:
    """Take publishes of earlier prediction times out; the number of rows removed."""
    path = shelf.offline_path(table.name)
    with _changing(shelf, table):
        known = versions(shelf, table)
        kept_versions = [one for one in known if one.as_of_us >= oldest_us]
        if len(kept_versions) == len(known):
            return 0
        rows = pq.read_table(path).cast(arrow_schema(table))
        kept = rows.filter(_since(rows, oldest_us))
        _write(path, kept, kept_versions)
    return int(rows.num_rows - kept.num_rows)


def keep_newest(
    shelf: Shelf, table: TableContract, ids: Set[str], *, since_us: int | None = None
) -> int:
    """Take out all but the newest row of each of the ids, and their rows since a prediction time;
    the number of rows removed."""
    path = shelf.offline_path(table.name)
    with _changing(shelf, table):
        rows = pq.read_table(path).cast(arrow_schema(table))
        kept = _newest(rows, table.key[0], ids, since_us)
        if kept.num_rows < rows.num_rows:
            _write(path, kept, _versions_of(kept, versions(shelf, table)))
    return int(rows.num_rows - kept.num_rows)


def remove_leftovers(shelf: Shelf) -> int:
    """Remove unfinished files that killed processes left; their number."""
    removed = 0
    for table in FEATURE_TABLES:
        path = shelf.offline_path(table.name)
        with _changing(shelf, table):
            for leftover in path.parent.glob(f".{path.name}.*"):
                leftover.unlink()
                removed += 1
    return removed


def _changing(shelf: Shelf, table: TableContract) -> AbstractContextManager[None]:
    """Hold a table's file from reading it to writing it; a second change waits for the first."""
    return exclusive(shelf.root / f".{table.name}.lock")


def _newest(rows: pa.Table, key: str, ids: Set[str], since_us: int | None) -> pa.Table:
    """Of each of the ids the newest row, and those since a prediction time."""
    newest = rows.group_by(key).aggregate([(EVENT_TIMESTAMP, "max")])
    place = pc.index_in(rows.column(key), value_set=newest.column(key).combine_chunks())
    latest = newest.column(f"{EVENT_TIMESTAMP}_max").combine_chunks().take(place.combine_chunks())
    wanted = pc.is_in(rows.column(key), value_set=pa.array(sorted(ids), type=pa.string()))
    stays = pc.equal(rows.column(EVENT_TIMESTAMP), latest)
    if since_us is not None:
        stays = pc.or_(stays, _since(rows, since_us))
    return rows.filter(pc.and_(wanted, stays))


def _versions_of(rows: pa.Table, known: Sequence[Version]) -> list[Version]:
    """The publishes that the rows may be of."""
    first_us = _micros(pc.min(rows.column(EVENT_TIMESTAMP))) if rows.num_rows else 0
    begin = max((one.as_of_us for one in known if one.as_of_us <= first_us), default=0)
    return [one for one in known if one.as_of_us >= begin]


def _micros(time: pa.TimestampScalar) -> int:
    return int(time.cast(pa.int64()).as_py())


def _since(rows: pa.Table, oldest_us: int) -> pa.ChunkedArray:
    oldest = pa.scalar(oldest_us, type=pa.int64()).cast(TIME_TYPE)
    return pc.greater_equal(rows.column(EVENT_TIMESTAMP), oldest)


def _by_key(features: Sequence[str]) -> dict[str, list[str]]:
    known = {f"{t.name}:{name}": t.key[0] for t in FEATURE_TABLES for name in feature_names(t)}
    grouped: dict[str, list[str]] = defaultdict(list)
    for reference in features:
        if reference not in known:
            raise UnknownNameError("feature", reference, known)
        grouped[known[reference]].append(reference)
    return grouped


def _require_columns(rows: pa.Table, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in rows.column_names]
    if missing:
        raise UserError(
            f"entity rows lack {missing}; they have {rows.column_names}. "
            "Give every asked table's key and the time of each row."
        )


def _ask(shelf: Shelf, pairs: pa.Table, key: str, references: list[str]) -> pa.Table:
    """One row per pair, in order, with the asked features alone."""
    pairs = pairs.set_column(1, EVENT_TIMESTAMP, pc.cast(pairs.column(EVENT_TIMESTAMP), TIME_TYPE))
    distinct = pairs.group_by([key, EVENT_TIMESTAMP], use_threads=False).aggregate([])
    distinct = distinct.append_column(_ROW, pa.array(range(distinct.num_rows), type=pa.int64()))
    job = shelf.store.get_historical_features(
        entity_df=distinct.to_pandas(), features=references, filter_by_created_timestamp=True
    )
    answer = job.to_df()
    names = [reference.split(":")[1] for reference in references]
    found = pa.Table.from_pandas(answer[[_ROW, *names]], schema=_schema(references))
    joined = pairs.append_column("pair_idx", pa.array(range(pairs.num_rows), type=pa.int64()))
    joined = joined.join(distinct, keys=[key, EVENT_TIMESTAMP], join_type="left outer")
    positions = _positions(found.column(_ROW), joined.sort_by("pair_idx").column(_ROW))
    return found.select(names).take(positions)


def _schema(references: Sequence[str]) -> pa.Schema:
    """Types of the asked features; pandas has turned integers with gaps into floats."""
    schemas = {table.name: arrow_schema(table) for table in FEATURE_TABLES}
    fields = [schemas[table].field(name) for table, name in (r.split(":") for r in references)]
    return pa.schema([pa.field(_ROW, pa.int64()), *fields])


def _positions(have: pa.ChunkedArray, want: pa.ChunkedArray) -> pa.Array:
    """Where each wanted row id stands in `have`; null where it is missing."""
    return pc.index_in(want, value_set=have.combine_chunks()).combine_chunks()


def _write(path: Path, rows: pa.Table, known: Sequence[Version]) -> None:
    """The whole file or nothing. One row group is one partition to Feast's engine, whose sort
    fails on several as soon as one entity has no value."""
    listed = json.dumps([asdict(one) for one in known]).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows.replace_schema_metadata({_VERSIONS: listed}),
        sink,
        coerce_timestamps="us",
        row_group_size=max(rows.num_rows, 1),
    )
    write_bytes_atomically(path, sink.getvalue())
