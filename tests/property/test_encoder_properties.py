"""What holds for every history: the past decides, and live events encode as stored ones do."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tokens.encoder import time_tokens
from pipelines.tokens.history import Histories, merge
from tests.tiny_histories import encode_rows, same, tiny_vocabulary

MAX_TIME_US = 2 * 10**15  # year 2033
texts = st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.none() | st.floats(0, 1e9, allow_nan=False)
event = st.fixed_dictionaries(
    {
        "event_time": st.integers(0, MAX_TIME_US),
        "event_type": st.sampled_from(["purchase", "search", "other"]),
        "item_id": st.none() | st.sampled_from(["i1", "i2", "unknown"]),
        "amount": numbers,
        "quantity": numbers,
        "query": texts,
        "store": texts,
    }
)


@st.composite
def user_rows(draw: st.DrawFn, user_id: str = "ada", min_size: int = 1) -> list[dict[str, Any]]:
    """Sorted events of one user, at distinct times."""
    events = draw(
        st.lists(event, min_size=min_size, max_size=12, unique_by=lambda e: e["event_time"])
    )
    events.sort(key=lambda e: e["event_time"])
    return [{**e, "event_id": f"{user_id}-{e['event_time']}", "user_id": user_id} for e in events]


def remade(histories: Histories) -> Histories:
    """Histories with their time tokens made again, as serving does after a merge."""
    times = time_tokens(tiny_vocabulary(), histories.times_us, histories.offsets)
    tokens = {name: times.get(name, column) for name, column in histories.tokens.items()}
    return Histories(**{**vars(histories), "tokens": tokens})


@given(rows=user_rows(), data=st.data())
def test_a_prefix_encodes_to_the_prefix_of_the_encoding(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    num = data.draw(st.integers(1, len(rows)))
    whole, part = encode_rows(rows), encode_rows(rows[:num])
    for name, column in whole.tokens.items():
        assert column[:num].tolist() == part.tokens[name].tolist(), name
    assert whole.event_hashes[:num].tolist() == part.event_hashes.tolist()


@given(rows=user_rows(), data=st.data())
def test_cutting_the_encoding_is_encoding_the_cut(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    cut = data.draw(st.sampled_from([row["event_time"] for row in rows])) + 1
    before = [row for row in rows if row["event_time"] < cut]
    assert same(encode_rows(rows).before(cut), encode_rows(before))


@given(rows=user_rows(), data=st.data())
def test_live_events_merge_to_the_encoding_of_all(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    live = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    live[0] = False
    stored_rows = [row for row, is_live in zip(rows, live, strict=True) if not is_live]
    live_rows = [row for row, is_live in zip(rows, live, strict=True) if is_live]
    stored = encode_rows(stored_rows)
    fresh = encode_rows(live_rows) if live_rows else stored.select([])
    assert same(remade(merge(stored, fresh)), encode_rows(rows))


@given(rows=user_rows())
def test_events_sent_twice_count_once(rows: list[dict[str, Any]]) -> None:
    stored = encode_rows(rows)
    assert same(remade(merge(stored, stored)), stored)


@given(ada=user_rows("ada"), bob=user_rows("bob"))
def test_users_do_not_see_each_other(ada: list[dict[str, Any]], bob: list[dict[str, Any]]) -> None:
    both = encode_rows([*ada, *bob])
    assert same(both.only(["ada"]), encode_rows(ada))
    assert same(both.only(["bob"]), encode_rows(bob))


@given(rows=user_rows())
def test_every_token_is_an_index_of_its_table(rows: list[dict[str, Any]]) -> None:
    vocabulary = tiny_vocabulary()
    for name, column in encode_rows(rows).tokens.items():
        field = vocabulary.field(name)
        size = vocabulary.num_item_indices if name == "item" else field.size
        assert column.dtype == np.int32
        assert 0 <= column.min() <= column.max() < size, name


@given(rows=user_rows())
def test_bytes_bring_everything_back(rows: list[dict[str, Any]]) -> None:
    histories = encode_rows(rows)
    restored, _ = Histories.from_bytes(histories.to_bytes("v"))
    assert same(restored, histories)
