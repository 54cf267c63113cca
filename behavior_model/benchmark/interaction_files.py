"""Interaction files of a benchmark: Parquet of any writer into `Interactions`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from behavior_model.benchmark.interactions import POSITION, Interactions
from pipelines.contracts import EVENT_TIME, ITEM_ID, USER_ID
from pipelines.errors import SourceError

TEXT: Final = "text"
_TEXTS_IN_ORDER: Final = (
    *(pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")),
    *(pa.timestamp("ns"), pa.timestamp("ns", "UTC")),
)
"""What texts that say when may be read as, the first that all of a column allow."""
_NUM_SHOWN: Final = 10_000
"""Of texts that cannot be read, how many are looked through for one to show."""


def read_interactions(path: Path, items_path: Path | None = None) -> Interactions:
    """Read a benchmark's files.

    Interactions stand in order of `event_time`, then `position`, whichever the file has; rows that
    tie keep the order of the file.

    Args:
        path: Parquet with `user_id`, `item_id` and `event_time` or `position`.
        items_path: Parquet with `item_id` and `text`; items that nobody took can be ranked too, and
            of several rows of one item the longest text holds.

    Raises:
        SourceError: a file is missing or not parquet, a column is missing, an id is null, nothing
            is in it, or the item ids of both files have types that do not compare.
    """
    table = _read(path, (USER_ID, ITEM_ID), (EVENT_TIME, POSITION))
    orders = [name for name in (EVENT_TIME, POSITION) if name in table.column_names]
    if not orders:
        raise SourceError(
            f"{path}: neither '{EVENT_TIME}' nor '{POSITION}' among its columns "
            f"({', '.join(column_names(path))}). One of them must say what came first."
        )
    filled = [name for name in orders if table.column(name).null_count < table.num_rows]
    orders = filled or orders  # a column that nobody filled says nothing beside one that is
    table = table.select([USER_ID, ITEM_ID, *orders])
    for name in orders:
        place = table.column_names.index(name)
        table = table.set_column(place, name, _ordered(path, name, table.column(name)))
    _refuse_nulls(path, table, (USER_ID, ITEM_ID, *orders))
    row = pa.array(np.arange(table.num_rows))
    keys = [(name, "ascending") for name in (USER_ID, *orders, "_row")]
    table = table.append_column("_row", row).sort_by(keys)
    users, taken = (table.column(name).combine_chunks() for name in (USER_ID, ITEM_ID))
    item_ids, texts = _catalogue(taken, items_path)
    user_ids = pc.unique(users)
    starts = np.searchsorted(np.asarray(pc.index_in(users, user_ids)), np.arange(len(user_ids) + 1))
    return Interactions(
        user_ids=user_ids,
        item_ids=item_ids,
        texts=texts,
        offsets=starts.astype(np.int64),
        items=np.asarray(pc.index_in(taken, item_ids), dtype=np.int64),
        event_times=np.asarray(table.column(EVENT_TIME)) if EVENT_TIME in orders else None,
    )


def _catalogue(taken: pa.Array, path: Path | None) -> tuple[pa.Array, list[str]]:
    """All item ids, ascending, and their texts."""
    if path is None:
        item_ids = _ascending(pc.unique(taken))
        return item_ids, [""] * len(item_ids)
    table = _read(path, (ITEM_ID, TEXT))
    _refuse_nulls(path, table, (ITEM_ID,))
    listed = table.column(ITEM_ID).combine_chunks()
    if _is_number(listed.type) and _is_number(taken.type):
        with contextlib.suppress(pa.ArrowInvalid):  # pandas makes floats of columns with gaps
            listed = listed.cast(taken.type)
    if listed.type != taken.type:
        raise SourceError(
            f"{path}: column '{ITEM_ID}' is {listed.type}, among the interactions it is "
            f"{taken.type}. Write both with one type."
        )
    texts = pc.utf8_trim_whitespace(pc.fill_null(_as_text(path, table.column(TEXT)), ""))
    texts = texts.combine_chunks()
    rows = pa.table({ITEM_ID: listed, TEXT: texts, "_length": pc.utf8_length(texts)})
    ordered = rows.sort_by([("_length", "descending"), (TEXT, "ascending")])
    item_ids = _ascending(pc.unique(pa.concat_arrays([listed, taken])))
    first = pc.index_in(item_ids, ordered.column(ITEM_ID).combine_chunks())
    found = pc.fill_null(ordered.column(TEXT).combine_chunks().take(first), "")
    return item_ids, found.to_pylist()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _ascending(values: pa.Array) -> pa.Array:
    return values.take(pc.sort_indices(values))


def column_names(path: Path) -> list[str]:
    """Columns of a parquet file.

    Raises:
        SourceError: there is none, or it is not parquet.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file. Give a parquet file.")
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path}: not a parquet file ({error}).") from error


def _read(path: Path, needed: tuple[str, ...], welcome: tuple[str, ...] = ()) -> pa.Table:
    """Those columns alone, as others may be large; of the welcome ones what there is."""
    names = column_names(path)
    missing = [name for name in needed if name not in names]
    if missing:
        raise SourceError(
            f"{path}: column '{missing[0]}' is missing; it has {', '.join(names)}. "
            f"Needed are {', '.join(needed)}."
        )
    wanted = [name for name in (*needed, *welcome) if name in names]
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise SourceError(f"{path}: several columns are called '{twice[0]}'. Keep one of them.")
    try:
        table = pq.ParquetFile(path).read(wanted).select(wanted)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path}: cannot be read ({error}). Write it again.") from error
    if table.num_rows == 0:
        raise SourceError(f"{path}: the file has no rows, so there is nothing to learn from.")
    for position, name in enumerate(table.column_names):
        if name in needed:
            values = _plain(table.column(name))
            if name != TEXT and pa.types.is_nested(values.type):
                raise SourceError(
                    f"{path}: '{name}' is {values.type}, which is no id. Write texts or numbers."
                )
            table = table.set_column(position, name, values)
    return table


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in the one type that files of different writers share."""
    if isinstance(values.type, pa.UuidType):
        return pa.chunked_array([[None if one is None else str(one) for one in values.to_pylist()]])
    kind = values.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        kind = pa.string()
    elif pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        kind = pa.binary()
    elif pa.types.is_integer(kind) and kind != pa.uint64():
        kind = pa.int64()
    elif kind == pa.float16():
        kind = pa.float32()
    values = values if kind == values.type else values.cast(kind)
    return pc.if_else(pc.is_nan(values), None, values) if pa.types.is_floating(kind) else values


def _as_text(path: Path, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts of a catalogue; several in a row are joined.

    Raises:
        SourceError: the column holds neither texts nor numbers.
    """
    kind = values.type
    try:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            words = values.cast(pa.list_(pa.string()))
            return pc.binary_join(words, pa.scalar(" "))
        return pc.cast(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(
            f"{path}: '{TEXT}' is {kind}, which cannot be read as text ({error}). Write texts."
        ) from error


def _ordered(path: Path, name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """What says when: numbers and times as they are, texts as what all of them can be read as.

    Raises:
        SourceError: it can be read as neither.
    """
    values = _plain(values)
    kind = values.type
    if pa.types.is_string(kind):
        for wanted in _TEXTS_IN_ORDER:
            try:
                return values.cast(wanted)
            except pa.ArrowInvalid:
                continue
        values = _unlike_most(values)
    elif pa.types.is_decimal(kind) or pa.types.is_floating(kind):
        values = values.cast(pa.float64())
        return pc.if_else(pc.is_nan(values), None, values)
    elif pa.types.is_temporal(kind) or pa.types.is_integer(kind):
        return values
    example = next((one for one in values.to_pylist() if one is not None), None)
    raise SourceError(
        f"{path}: '{name}' is {kind}, such as {example!r}, which has no order in time. Write whole "
        "numbers, timestamps, or ISO 8601 texts such as 2014-09-30T12:00:00, all of them with an "
        "offset or none."
    )


def _unlike_most(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts that the reading which most of them allow does not allow, if the first show any."""
    some = values.slice(0, _NUM_SHOWN)
    unread = [some.filter(pc.invert(_reads(some, kind))) for kind in _TEXTS_IN_ORDER]
    least = min(unread, key=len)
    return least if len(least) else values


def _reads(values: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """bool[n]: which texts can be read so."""

    def reads(text: str | None) -> bool:
        try:
            pa.scalar(text).cast(kind)
        except pa.ArrowInvalid:
            return False
        return True

    return pa.array([text is None or reads(text) for text in values.to_pylist()])


def _refuse_nulls(path: Path, table: pa.Table, names: tuple[str, ...]) -> None:
    for name in names:
        if table.column(name).null_count:
            row = int(np.flatnonzero(np.asarray(pc.is_null(table.column(name))))[0])
            raise SourceError(
                f"{path}: row {row} has no '{name}'. Fill it in, or leave the row out."
            )
