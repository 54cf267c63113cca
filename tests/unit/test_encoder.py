"""The encoder on a few events whose tokens are known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pipelines.tokens.binning import FIRST_IDX, MISSING_IDX, PAD_IDX, PROBE_IDX, UNKNOWN_IDX
from pipelines.tokens.encoder import encode, hash_event_ids, probe_tokens
from pipelines.tokens.vocabulary import PROBE_TYPE
from tests.tiny_histories import encode_rows, events_table, tiny_vocabulary

MONDAY = datetime(2024, 1, 1, 23, 30, tzinfo=UTC)
ROWS = [
    {
        "event_id": "e1",
        "user_id": "ada",
        "event_time": MONDAY,
        "event_type": "purchase",
        "item_id": "i2",
        "amount": 5.0,
        "quantity": 2.0,
        "store": "north",
    },
    {
        "event_id": "e2",
        "user_id": "ada",
        "event_time": MONDAY + timedelta(minutes=31),
        "event_type": "gift",
        "item_id": "i9",
        "store": "moon",
    },
    {
        "event_id": "e3",
        "user_id": "bob",
        "event_time": MONDAY,
        "event_type": "search",
        "query": "Red shoes",
    },
]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("event_type", [FIRST_IDX + 1, UNKNOWN_IDX, FIRST_IDX + 2]),
        ("item", [FIRST_IDX + 1, UNKNOWN_IDX, MISSING_IDX]),
        ("amount", [FIRST_IDX + 3, MISSING_IDX, MISSING_IDX]),
        ("store", [FIRST_IDX, UNKNOWN_IDX, MISSING_IDX]),
        ("gap", [MISSING_IDX, FIRST_IDX + 10, MISSING_IDX]),
        ("hour", [FIRST_IDX + 23, FIRST_IDX, FIRST_IDX + 23]),
        ("weekday", [FIRST_IDX, FIRST_IDX + 1, FIRST_IDX]),
        ("session_start", [FIRST_IDX + 1, FIRST_IDX + 1, FIRST_IDX + 1]),
    ],
)
def test_fields(field: str, expected: list[int]) -> None:
    assert encode_rows(ROWS).tokens[field].tolist() == expected


def test_queries_fill_word_slots() -> None:
    tokens = encode_rows(ROWS).tokens
    assert tokens["query_0"][:2].tolist() == [MISSING_IDX, MISSING_IDX]
    assert tokens["query_1"][:2].tolist() == [PAD_IDX, PAD_IDX]
    assert tokens["query_0"][2] >= FIRST_IDX
    assert tokens["query_0"][2] != tokens["query_1"][2]


def test_raw_values_stay_beside_the_tokens() -> None:
    histories = encode_rows(ROWS)
    assert np.array_equal(histories.amounts, [5.0, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(histories.quantities, [2.0, np.nan, np.nan], equal_nan=True)
    assert histories.lengths.tolist() == [2, 1]
    assert histories.times_us[0] == round(MONDAY.timestamp() * 1e6)


def test_absent_columns_count_as_missing() -> None:
    table = events_table(ROWS).select(["event_id", "user_id", "event_time", "event_type"])
    offsets = np.asarray([0, 2, 3])
    tokens = encode(tiny_vocabulary(), table, ["ada", "bob"], offsets).tokens
    for name in ("item", "amount", "store", "query_0"):
        assert set(tokens[name].tolist()) == {MISSING_IDX}
    assert set(tokens["query_1"].tolist()) == {PAD_IDX}


def test_no_events_encode_to_no_positions() -> None:
    empty = encode(tiny_vocabulary(), events_table([]), [], np.asarray([0]))
    assert len(empty) == 0
    assert empty.num_events == 0


def test_a_probe_says_nothing_but_the_time() -> None:
    last = np.asarray([0, -1])
    tokens = probe_tokens(tiny_vocabulary(), last, np.asarray([3_600_000_000, 3_600_000_000]))
    assert tokens["event_type"].tolist() == [PROBE_IDX, PROBE_IDX]
    assert tokens["item"].tolist() == [PAD_IDX, PAD_IDX]
    assert tokens["store"].tolist() == [MISSING_IDX, MISSING_IDX]
    assert tokens["gap"].tolist() == [FIRST_IDX + 11, MISSING_IDX]
    assert tokens["hour"].tolist() == [FIRST_IDX + 1] * 2
    assert tokens["session_start"].tolist() == [FIRST_IDX + 1] * 2


def test_no_event_of_a_table_is_a_probe() -> None:
    tokens = encode_rows([{**ROWS[0], "event_type": PROBE_TYPE}]).tokens
    assert tokens["event_type"].tolist() == [UNKNOWN_IDX]


def test_hashes_are_the_same_in_every_process() -> None:
    hashes = hash_event_ids(events_table(ROWS).column("event_id"))
    stored = [3_372_405_403_994_951_042, 6_695_973_548_293_634_880, 6_742_774_526_825_910_286]
    assert hashes.tolist() == stored
