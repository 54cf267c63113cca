"""Typed queries: what is taken after them, who is told of, and what like words lead to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from behavior_model.memory.queries import MIN_TYPISTS, QueryMemory
from behavior_model.typed_queries import MAX_TAKEN, TypedQueries, find_typed_queries
from tests.tiny_histories import encode_rows, events_table, tiny_vocabulary

MINUTE_US = 60_000_000
FIRST, SECOND, THIRD = 3, 4, 5


def happened(user: str, minute: float, **columns: Any) -> dict[str, Any]:
    event = f"{user} at {minute}"
    return {"event_id": event, "user_id": user, "event_time": int(minute * MINUTE_US), **columns}


def typed(user: str, minute: float, text: str) -> dict[str, Any]:
    return happened(user, minute, event_type="search", query=text)


def took(user: str, minute: float, item: str) -> dict[str, Any]:
    return happened(user, minute, event_type="purchase", item_id=item)


def found(rows: list[dict[str, Any]]) -> TypedQueries:
    events = events_table(rows)
    with_query = events.filter(pc.is_valid(events.column("query")))
    return find_typed_queries(encode_rows(rows), tiny_vocabulary(), with_query)


def of(*cases: tuple[str, str, list[int]]) -> TypedQueries:
    users, texts, taken = zip(*cases, strict=True)
    return TypedQueries(
        user_ids=list(users),
        times_us=np.arange(len(users), dtype=np.int64),
        texts=list(texts),
        taken=[np.asarray(items, dtype=np.int64) for items in taken],
    )


def test_what_is_taken_is_what_comes_before_the_next_words_or_a_silence() -> None:
    queries = found(
        [
            took("a", 0, "i3"),
            typed("a", 1, "Red  MILK!"),
            took("a", 2, "i2"),
            took("a", 3, "i1"),
            took("a", 4, "i1"),
            typed("a", 5, "bread"),
            took("a", 6, "i3"),
            took("a", 36, "i2"),  # 30 minutes are no silence
            took("a", 67, "i1"),  # 31 are
            typed("b", 1, "milk"),
            took("c", 2, "i1"),
        ]
    )
    assert queries.user_ids == ["a", "a"]
    assert queries.texts == ["red milk", "bread"]
    assert [items.tolist() for items in queries.taken] == [[FIRST, SECOND], [SECOND, THIRD]]
    assert queries.times_us.tolist() == [MINUTE_US, 5 * MINUTE_US]
    assert queries.between(2 * MINUTE_US, 6 * MINUTE_US).texts == ["bread"]


def test_words_without_letters_and_unknown_products_lead_nowhere_and_end_what_was_typed() -> None:
    queries = found(
        [
            typed("a", 1, "milk"),
            typed("a", 2, "?!"),
            took("a", 3, "i1"),
            typed("a", 4, "tea"),
            took("a", 5, "never seen"),
        ]
    )
    assert len(queries) == 0


def test_an_event_may_carry_the_words_and_the_product() -> None:
    rows = [
        happened("a", 1, event_type="purchase", query="milk", item_id="i1"),
        happened("a", 2, event_type="purchase", query="milk", item_id="i2"),
    ]
    assert [items.tolist() for items in found(rows).taken] == [[FIRST], [SECOND]]


def test_strolling_is_not_put_down_to_a_query() -> None:
    rows = [typed("a", 0, "milk"), *(took("a", 1 + i / 10, "i1") for i in range(MAX_TAKEN))]
    assert found([*rows, took("a", 9, "i2")]).taken[0].tolist() == [FIRST]


def test_users_are_counted_and_not_how_often_they_type() -> None:
    memory = QueryMemory.fit(
        of(
            ("a", "milk", [FIRST]),
            ("a", "milk", [FIRST, SECOND]),
            ("b", "milk", [FIRST]),
        )
    )
    taken = memory.taken("MILK")
    assert taken.item_idx.tolist() == [FIRST, SECOND]
    np.testing.assert_allclose(taken.shares, [2 / 3, 1 / 3], rtol=1e-5)


def test_words_of_one_person_are_not_kept() -> None:
    names = ["jane doe"] * (MIN_TYPISTS - 1) + ["milk"] * MIN_TYPISTS
    memory = QueryMemory.fit(of(*((f"u{i}", text, [FIRST]) for i, text in enumerate(names))))
    assert memory.texts == ["milk"]
    again = QueryMemory.fit(of(*(("same person", "jane doe", [FIRST]) for _ in range(9))))
    assert again.texts == []
    assert "jane" not in again.to_arrow().to_pandas().to_string()


@pytest.mark.parametrize("query", ["orange juce", "ornage juice", "orangejuice", "Juice, orange"])
def test_a_slip_leads_where_the_word_leads(query: str) -> None:
    cases = [(user, "orange juice", [FIRST]) for user in "abc"]
    cases += [(user, "ground coffee", [SECOND]) for user in "abc"]
    taken = QueryMemory.fit(of(*cases)).taken(query)
    assert taken.item_idx[np.argmax(taken.shares)] == FIRST
    assert taken.shares.max() > 5 * taken.shares[taken.item_idx == SECOND].sum()


def test_the_fewer_typed_it_the_less_is_believed() -> None:
    few = QueryMemory.fit(of(*((user, "milk", [FIRST]) for user in "ab")))
    many = QueryMemory.fit(of(*((user, "milk", [FIRST]) for user in "abcdefgh")))
    assert few.taken("milk").shares[0] == pytest.approx(2 / 3, rel=1e-5)
    assert many.taken("milk").shares[0] == pytest.approx(8 / 9, rel=1e-5)


def test_shares_of_categories() -> None:
    cases = [("a", "milk", [FIRST, THIRD]), ("b", "milk", [SECOND]), ("c", "milk", [FIRST])]
    taken = QueryMemory.fit(of(*cases)).taken("milk")
    categories, shares = taken.by_category(tiny_vocabulary().category_by_item_idx, 2)
    assert categories.tolist() == [0], "the second product has none"
    np.testing.assert_allclose(shares, [3 / 4], rtol=1e-5)


@pytest.mark.parametrize("query", ["", "  ", "?!", "\ud800", "zebra", "x" * 10_000])
def test_odd_words_lead_nowhere(query: str) -> None:
    for memory in (QueryMemory.empty(), QueryMemory.fit(of(*((u, "milk", [3]) for u in "ab")))):
        memory.warm()
        taken = memory.taken(query)
        assert len(taken.item_idx) == len(taken.shares) == 0
        categories, _ = taken.by_category(tiny_vocabulary().category_by_item_idx, 2)
        assert len(categories) == 0


def test_a_memory_comes_back_as_it_was_saved() -> None:
    cases = [(user, text, [FIRST, SECOND]) for user in "ab" for text in ("milk", "white bread")]
    for memory in (QueryMemory.empty(), QueryMemory.fit(of(*cases))):
        again = QueryMemory.from_arrow(memory.to_arrow())
        assert again.texts == memory.texts
        for name in ("typists", "offsets", "item_idx", "takers"):
            np.testing.assert_array_equal(getattr(again, name), getattr(memory, name))
            assert getattr(again, name).dtype == np.int64
