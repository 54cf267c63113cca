"""Few rows are compared with a table and added to it in this process, as Arrow: no Spark job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, WriterProperties, write_deltalake

from pipelines.contracts import CONTENT_HASH, EVENT_TIME, SOURCE_TABLE

MAX_ROWS: Final = 200_000
MAX_COMPARED: Final = 2_000_000
"""Stored rows whose keys one process looks through; more are looked through by Spark's tasks."""
OLD_SOURCE: Final = "old_source"
_OLD_HASH: Final = "old_hash"
_POSITION: Final = "position"
_TIME: Final = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Rows that a table does not hold as they are.

    Args:
        new: Their keys are not in the table.
        changed: The table holds their keys with other content.
        foreign: Of the changed those that the table holds from another source table: their keys,
            that table as `OLD_SOURCE`, and the table that they came from.
    """

    new: pa.Table
    changed: pa.Table
    foreign: pa.Table


def is_small(path: Path, num_rows: int, since_us: int | None) -> bool:
    """Whether so few rows came, and may be stored already, that this process compares them.

    Args:
        path: Folder of the table.
        num_rows: Rows that came.
        since_us: Stored rows with their keys do not lie before (UTC microseconds), if known.
    """
    if num_rows > MAX_ROWS:
        return False
    files = pa.table(DeltaTable(str(path)).get_add_actions(flatten=True))
    if not files.num_rows:
        return True
    if since_us is not None:
        latest = files.column(f"max.{EVENT_TIME}").cast(_TIME)
        known_earlier = pc.fill_null(pc.less(latest, _moment(since_us)), False)
        files = files.filter(pc.invert(known_earlier))
    return bool(sum(files.column("num_records").to_pylist()) <= MAX_COMPARED)


def compare(rows: pa.Table, path: Path, key: Sequence[str], since_us: int | None) -> Compared:
    """What of rows with distinct keys is new, and what was stored with other content."""
    wanted = pc.field(key[0]).isin(rows.column(key[0]).combine_chunks())
    if since_us is not None:
        wanted &= pc.field(EVENT_TIME) >= _moment(since_us)
    dataset = DeltaTable(str(path)).to_pyarrow_dataset()
    sources = [SOURCE_TABLE] if SOURCE_TABLE in rows.column_names else []  # events tell
    stored = dataset.to_table(columns=[*key, CONTENT_HASH, *sources], filter=wanted)
    positions = rows.select(list(key)).append_column(
        _POSITION, pa.array(np.arange(rows.num_rows, dtype=np.int64))
    )
    renamed = stored.rename_columns([*key, _OLD_HASH, *([OLD_SOURCE] if sources else [])])
    old = positions.join(renamed, list(key), join_type="inner")
    known = np.zeros(rows.num_rows, dtype=np.bool_)
    known[old.column(_POSITION).to_numpy()] = True
    came = rows.column(CONTENT_HASH).take(old.column(_POSITION))
    differs = pc.fill_null(pc.not_equal(came, old.column(_OLD_HASH)), True)
    changed = rows.take(old.column(_POSITION).filter(differs))
    foreign = changed.slice(0, 0)
    if sources:
        known_from = old.column(OLD_SOURCE).filter(differs)
        told = changed.select([*key, SOURCE_TABLE]).append_column(OLD_SOURCE, known_from)
        foreign = told.filter(pc.not_equal(told.column(SOURCE_TABLE), known_from))
    return Compared(new=rows.filter(pa.array(~known)), changed=changed, foreign=foreign)


def append(rows: pa.Table, path: Path, cluster: Sequence[str]) -> None:
    """Add rows in one commit, in one sorted file.

    Columns that they lack are empty; those that the table lacks are added to it.
    """
    table = DeltaTable(str(path))
    stored = pa.schema(table.schema().to_arrow())
    fields = [*stored, *(field for field in rows.schema if field.name not in stored.names)]
    columns = [
        rows.column(field.name).cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in fields
    ]
    order = [(name, "ascending", "at_start") for name in cluster]
    complete = pa.table(columns, schema=pa.schema(fields))
    write_deltalake(
        table,
        complete.take(pc.sort_indices(complete, sort_keys=order)),
        mode="append",
        schema_mode="merge",
        writer_properties=WriterProperties(compression="ZSTD"),
    )


def _moment(since_us: int) -> pa.Scalar:
    return pa.scalar(since_us, type=_TIME)
