"""Rooms 1 to 4 once more, in plain Python: what the pipeline is held against."""

from __future__ import annotations

import bisect
import itertools
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pipelines.tokens.vocabulary import TokenField, TokenKind, Vocabulary

PAD, MISSING, UNKNOWN, FIRST = 0, 1, 2, 3
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Event = dict[str, Any]


def instant(local: datetime, zone: str) -> datetime:
    """A clock's time as an instant: the earlier of two; in a gap of clocks, moved forward by it."""
    return local.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)


def histories(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Events by user in the order of time, session (none first) and id."""
    found: dict[str, list[Event]] = {}
    for event in events:
        found.setdefault(event["user_id"], []).append(event)
    for rows in found.values():
        rows.sort(key=lambda e: (e["event_time"], e["session_id"] or "", e["event_id"]))
    return found


def tokens(vocabulary: Vocabulary, history: list[Event]) -> dict[str, list[int]]:
    """Token field -> one integer per event of one user."""
    times = [micros(event["event_time"]) for event in history]
    gaps = [None, *(later - sooner for sooner, later in itertools.pairwise(times))]
    return {
        field.name: [
            _token(field, vocabulary, event, time, gap)
            for event, time, gap in zip(history, times, gaps, strict=True)
        ]
        for field in vocabulary.fields
    }


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def _token(
    field: TokenField, vocabulary: Vocabulary, event: Event, time: int, gap: int | None
) -> int:
    value = event.get(field.column)
    if field.kind is TokenKind.ITEM:
        return _position(value, vocabulary.items)
    if field.kind is TokenKind.CATEGORICAL:
        return _position(value, field.values)
    if field.kind is TokenKind.NUMBER:
        return _number(value, field.edges)
    if field.kind is TokenKind.WORD:
        return _word(value, field.slot)
    return _time(field.kind, time, gap)


def _position(value: str | None, values: tuple[str, ...]) -> int:
    if value is None:
        return MISSING
    return FIRST + values.index(value) if value in values else UNKNOWN


def _number(value: float | None, edges: tuple[float, ...]) -> int:
    if value is None:
        return MISSING
    return FIRST if value == 0 else FIRST + 1 + bisect.bisect_right(edges, value)


def _word(text: str | None, slot: int) -> int:
    words = [] if text is None else text.lower().split()
    if text is None and slot == 0:
        return MISSING
    return FIRST + zlib.crc32(words[slot].encode()) % 4_096 if slot < len(words) else PAD


def _time(kind: TokenKind, time: int, gap: int | None) -> int:
    moment = EPOCH + timedelta(microseconds=time)
    if kind is TokenKind.HOUR:
        return FIRST + moment.hour
    if kind is TokenKind.WEEKDAY:
        return FIRST + moment.weekday()
    if kind is TokenKind.GAP:
        return MISSING if gap is None else FIRST + min(int(2 * math.log2(1 + gap / 60e6)), 41)
    return FIRST + (gap is None or gap > 30 * 60e6)


def labels(
    events: Iterable[Event], categories: Mapping[str, str], as_of: datetime, window: timedelta
) -> dict[tuple[str, datetime], dict[str, Any]]:
    """What every user with a past did in each of the seven windows that end with the last."""
    by_user = histories(events)
    found = {}
    for start in (as_of - k * window for k in range(7)):
        for user, history in by_user.items():
            if history[0]["event_time"] < start:
                inside = [e for e in history if start <= e["event_time"] < start + window]
                found[user, start] = _label(inside, categories)
    return found


def _label(inside: list[Event], categories: Mapping[str, str]) -> dict[str, Any]:
    bought = [event for event in inside if event["event_type"] == "purchase"]
    items = Counter(event["item_id"] for event in bought if event["item_id"] is not None)
    amount = 0.0
    for one in sorted(event["amount"] for event in bought if event["amount"] is not None):
        amount += one
    return {
        "num_events": len(inside),
        "num_purchases": len(bought),
        "amount": amount,
        "item_ids": sorted(items),
        "item_counts": [items[item] for item in sorted(items)],
        "categories": sorted({categories[item] for item in items if item in categories}),
    }
