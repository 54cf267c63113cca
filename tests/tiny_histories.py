"""A small vocabulary, and canonical events to encode with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import PROBE_TYPE, TIME_KINDS, TokenField, TokenKind, Vocabulary

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("event_time", pa.timestamp("us", tz="UTC")),
        ("event_type", pa.string()),
        ("item_id", pa.string()),
        ("quantity", pa.float64()),
        ("amount", pa.float64()),
        ("query", pa.string()),
        ("store", pa.string()),
    ]
)


def tiny_vocabulary() -> Vocabulary:
    """Three items, two stores, a number, a query of two words, and all time fields."""
    return Vocabulary(
        company="tiny-company",
        fitted_before="2024-01-01T00:00:00+00:00",
        fields=(
            TokenField(
                name="event_type",
                kind=TokenKind.CATEGORICAL,
                column="event_type",
                values=(PROBE_TYPE, "purchase", "search"),
            ),
            TokenField(name="item", kind=TokenKind.ITEM, column="item_id"),
            TokenField(name="amount", kind=TokenKind.NUMBER, column="amount", edges=(1.0, 5.0)),
            TokenField(
                name="store", kind=TokenKind.CATEGORICAL, column="store", values=("north", "south")
            ),
            *(
                TokenField(name=f"query_{slot}", kind=TokenKind.WORD, column="query", slot=slot)
                for slot in range(2)
            ),
            *(TokenField(name=kind.value, kind=kind) for kind in TIME_KINDS),
        ),
        items=("i1", "i2", "i3"),
        item_counts=(5, 2, 0),
        categories=("food",),
        item_categories=(0, -1, 0),
    )


def events_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Canonical events; `event_time` as int microseconds or datetime, absent columns null."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def encode_rows(rows: Sequence[dict[str, Any]], vocabulary: Vocabulary | None = None) -> Histories:
    """Encode rows that stand sorted by user and time."""
    users = [row["user_id"] for row in rows]
    starts = [i for i, user in enumerate(users) if i == 0 or users[i - 1] != user]
    offsets = np.asarray([*starts, len(users)], dtype=np.int64)
    names = [users[i] for i in starts]
    return encode(vocabulary or tiny_vocabulary(), events_table(rows), names, offsets)


def same(left: Histories, right: Histories) -> bool:
    """Whether two histories hold the same bits (NaN equals NaN)."""
    names = ("offsets", "times_us", "event_hashes", "amounts", "quantities")
    pairs = [(getattr(left, name), getattr(right, name)) for name in names]
    pairs += [(left.tokens[name], right.tokens[name]) for name in left.tokens]
    return (
        left.user_ids == right.user_ids
        and list(left.tokens) == list(right.tokens)
        and all(
            np.array_equal(a, b, equal_nan=np.issubdtype(a.dtype, np.floating)) for a, b in pairs
        )
    )
