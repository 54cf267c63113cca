"""Histories: cutting, choosing, storing and merging."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.tokens.history import Histories, merge, stacked
from tests.tiny_histories import encode_rows, same


def rows(user: str, times: Sequence[int], prefix: str = "e") -> list[dict[str, object]]:
    return [
        {
            "event_id": f"{prefix}-{user}-{time}",
            "user_id": user,
            "event_time": time,
            "event_type": "purchase",
            "item_id": f"i{1 + time % 3}",
            "amount": float(time),
        }
        for time in times
    ]


def histories() -> Histories:
    return encode_rows([*rows("ada", [1, 2, 3]), *rows("bob", [2]), *rows("cyd", [5, 6])])


def test_before_is_strict_and_keeps_users() -> None:
    cut = histories().before(2)
    assert cut.user_ids == ["ada", "bob", "cyd"]
    assert cut.lengths.tolist() == [1, 0, 0]
    assert cut.times_us.tolist() == [1]
    assert cut.last_times_us.tolist() == [1, -1, -1]


def test_before_takes_one_time_per_user() -> None:
    cut = histories().before(np.asarray([3, 3, 6]))
    assert cut.lengths.tolist() == [2, 1, 1]


def test_tail_keeps_the_last_events() -> None:
    assert histories().tail(1).times_us.tolist() == [3, 2, 6]
    assert same(histories().tail(10), histories())


def test_select_and_only_choose_users_in_order() -> None:
    chosen = histories().select([2, 0])
    assert chosen.user_ids == ["cyd", "ada"]
    assert chosen.times_us.tolist() == [5, 6, 1, 2, 3]
    assert same(histories().only(["cyd", "nobody", "ada"]), chosen)
    assert len(histories().select([])) == 0


def test_non_empty_leaves_users_without_events_out() -> None:
    assert histories().before(2).non_empty().user_ids == ["ada"]


def test_bytes_and_arrow_bring_everything_back() -> None:
    content = histories().to_bytes("v1")
    restored, vocabulary_id = Histories.from_bytes(content)
    assert vocabulary_id == "v1"
    assert same(restored, histories())
    table = histories().before(2).to_arrow("v1")
    assert same(Histories.from_arrow(table), histories().before(2))


def test_merge_sorts_by_time_and_keeps_the_first_of_twins() -> None:
    stored = encode_rows([*rows("ada", [1, 3]), *rows("bob", [2])])
    live = encode_rows([*rows("ada", [1, 2]), *rows("zoe", [9])])
    merged = merge(stored, live)
    assert merged.user_ids == ["ada", "bob"]
    assert merged.times_us.tolist() == [1, 2, 3, 2]
    assert merged.lengths.tolist() == [3, 1]
    assert merged.amounts.tolist() == [1.0, 2.0, 3.0, 2.0]


def test_a_stored_event_that_was_corrected_to_a_later_time_stays() -> None:
    event = rows("ada", [200])[0]
    earlier = {**event, "event_time": 100, "amount": 1.0}
    between = {**event, "event_id": "other", "event_time": 150, "amount": 2.0}
    merged = merge(encode_rows([event]), encode_rows([earlier, between]))
    assert merged.times_us.tolist() == [150, 200]
    assert merged.amounts.tolist() == [2.0, 200.0]


def test_stacked_users_stand_behind_one_another() -> None:
    three = histories()
    assert same(stacked([three.select([0]), three.select([1, 2])]), three)
    assert same(stacked([three]), three)


def test_merge_with_nothing_changes_nothing() -> None:
    stored = histories()
    assert same(merge(stored, stored.select([])), stored)
    assert same(merge(stored, stored), stored)
