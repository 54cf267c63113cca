"""The one encoder: canonical events to integers, in batch and at request time alike.

An encoded event depends on itself and, through its time fields, on the event before it: never on
what comes later. So encoding a longer history and cutting it gives what encoding the cut one gives.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from pipelines.contracts import AMOUNT, EVENT_ID, EVENT_TIME, EVENT_TYPE, QUANTITY
from pipelines.tokens.binning import (
    DAY_US,
    FIRST_IDX,
    HOUR_US,
    MISSING_IDX,
    PAD_IDX,
    PROBE_IDX,
    SESSION_GAP_US,
    UNKNOWN_IDX,
    Ints,
    Longs,
    bin_gaps,
    bin_numbers,
    word_slots,
)
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import TIME_KINDS, TokenField, TokenKind, Vocabulary

_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0


def encode(
    vocabulary: Vocabulary,
    events: pa.Table,
    user_ids: list[str],
    offsets: Longs,
) -> Histories:
    """Encode events that stand sorted by user, then (event_time, session_id, event_id).

    Args:
        vocabulary: The frozen vocabulary.
        events: N canonical events; absent nullable columns count as missing.
        user_ids: U users in the order of the rows.
        offsets: int64[U + 1]; the rows of user u are offsets[u]:offsets[u + 1].

    Returns:
        Histories of the U users.
    """
    times_us = _times_us(events)
    tokens = {
        field.name: _event_field(vocabulary, field, events)
        for field in vocabulary.fields
        if field.kind not in TIME_KINDS
    }
    tokens |= time_tokens(vocabulary, times_us, offsets)
    return Histories(
        user_ids=list(user_ids),
        offsets=offsets,
        times_us=times_us,
        event_hashes=hash_event_ids(events.column(EVENT_ID)),
        amounts=_floats(events, AMOUNT).astype(np.float32),
        quantities=_floats(events, QUANTITY).astype(np.float32),
        tokens={field.name: tokens[field.name] for field in vocabulary.fields},
    )


def time_tokens(vocabulary: Vocabulary, times_us: Longs, offsets: Longs) -> dict[str, Ints]:
    """Token fields that follow from the times of events alone, per user.

    Args:
        vocabulary: The frozen vocabulary.
        times_us: int64[N], ascending within each user.
        offsets: int64[U + 1].
    """
    gaps = np.diff(times_us, prepend=times_us[:1])
    first = offsets[:-1][np.diff(offsets) > 0]
    gaps[first] = -1
    return {
        field.name: _time_field(field.kind, times_us, gaps)
        for field in vocabulary.fields
        if field.kind in TIME_KINDS
    }


def probe_tokens(
    vocabulary: Vocabulary, last_times_us: Longs, prediction_times_us: Longs
) -> dict[str, Ints]:
    """Tokens of one probe per user: 'now', after the last event, before anything that follows.

    Args:
        vocabulary: The frozen vocabulary.
        last_times_us: int64[U], time of the last event, or -1 where a user has none.
        prediction_times_us: int64[U].

    Returns:
        int32[U] per token field; everything but the type and the time is missing.
    """
    gaps = np.where(last_times_us < 0, -1, prediction_times_us - last_times_us)
    tokens: dict[str, Ints] = {}
    for field in vocabulary.fields:
        if field.kind in TIME_KINDS:
            tokens[field.name] = _time_field(field.kind, prediction_times_us, gaps)
            continue
        fill = PAD_IDX if field.kind is TokenKind.ITEM else MISSING_IDX
        if field.name == EVENT_TYPE:
            fill = PROBE_IDX
        tokens[field.name] = np.full(len(gaps), fill, dtype=np.int32)
    return tokens


def hash_event_ids(event_ids: pa.ChunkedArray | pa.Array) -> Longs:
    """int64[N]: 63-bit hashes of event ids (SipHash), for de-duplication of live events."""
    texts = event_ids.to_numpy(zero_copy_only=False)
    hashes = hash_array(np.asarray(texts, dtype=object), categorize=False)
    return np.asarray(hashes >> 1, dtype=np.int64)


def _time_field(kind: TokenKind, times_us: Longs, gaps_us: Longs) -> Ints:
    if kind is TokenKind.GAP:
        return bin_gaps(gaps_us)
    if kind is TokenKind.HOUR:
        return (FIRST_IDX + (times_us % DAY_US) // HOUR_US).astype(np.int32)
    if kind is TokenKind.WEEKDAY:
        return (FIRST_IDX + (times_us // DAY_US + _EPOCH_WEEKDAY) % 7).astype(np.int32)
    return (FIRST_IDX + ((gaps_us < 0) | (gaps_us > SESSION_GAP_US))).astype(np.int32)


def _event_field(vocabulary: Vocabulary, field: TokenField, events: pa.Table) -> Ints:
    if field.column not in events.column_names:
        fill = PAD_IDX if field.kind is TokenKind.WORD and field.slot else MISSING_IDX
        return np.full(events.num_rows, fill, dtype=np.int32)
    column = events.column(field.column)
    if field.kind is TokenKind.ITEM:
        return _lookup(column, vocabulary.items)
    if field.kind is TokenKind.CATEGORICAL:
        found = _lookup(column, field.values)
        if field.name == EVENT_TYPE:  # a probe is made by `probe_tokens` alone
            found[found == PROBE_IDX] = UNKNOWN_IDX
        return found
    if field.kind is TokenKind.NUMBER:
        return bin_numbers(_floats(events, field.column), np.asarray(field.edges))
    return _words(column, field.slot)


def _lookup(column: pa.ChunkedArray, values: tuple[str, ...]) -> Ints:
    positions = pc.index_in(column, value_set=pa.array(values, type=pa.string()))
    found = pc.fill_null(pc.add(positions, FIRST_IDX), UNKNOWN_IDX)
    indices = pc.if_else(pc.is_null(column), MISSING_IDX, found)
    return np.array(indices.to_numpy(), dtype=np.int32)


def _words(column: pa.ChunkedArray, slot: int) -> Ints:
    distinct = column.combine_chunks().dictionary_encode()
    if isinstance(distinct, pa.ChunkedArray):
        distinct = distinct.combine_chunks()
    texts = [*distinct.dictionary.to_pylist(), None]
    table = np.asarray([word_slots(text)[slot] for text in texts], dtype=np.int32)
    positions = pc.fill_null(distinct.indices, len(table) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(table[positions], dtype=np.int32)


def _floats(events: pa.Table, name: str) -> npt.NDArray[np.float64]:
    if name not in events.column_names:
        return np.full(events.num_rows, np.nan)
    column = pc.cast(events.column(name), pa.float64())
    return np.asarray(pc.fill_null(column, np.nan).to_numpy(), dtype=np.float64)


def _times_us(events: pa.Table) -> Longs:
    column = pc.cast(events.column(EVENT_TIME), pa.timestamp("us", tz="UTC"))
    return np.asarray(pc.cast(column, pa.int64()).to_numpy(), dtype=np.int64)
