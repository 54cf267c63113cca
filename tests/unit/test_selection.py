"""Which events are meant: by value, or as what a company lives from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.contracts import EVENT_TYPE
from pipelines.errors import UnknownNameError
from pipelines.tokens.binning import MISSING_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.selection import (
    count_by_user,
    counted_events,
    events_where,
    money_by_user,
    sells,
)
from pipelines.tokens.vocabulary import PROBE_TYPE, Vocabulary
from serving.live_events import encode_events
from tests.small_shop import purchase, stack, vocabulary


def shop() -> Histories:
    """Ada buys a food in the north, a tool in the south, and looks at the tool; Bob buys a food."""
    events = [
        purchase("ada", 0, 0),
        {**purchase("ada", 1, 1), "store": "south", "amount": 4.0},
        {**purchase("ada", 2, 1), "event_type": "page_view", "amount": None},
    ]
    ada = encode_events(vocabulary(), "ada", events)
    return stack([ada, encode_events(vocabulary(), "bob", [purchase("bob", 0, 2)])])


@pytest.mark.parametrize(
    ("values", "counts", "money"),
    [
        ({}, [3, 1], [6.5, 2.5]),
        ({"event_type": "purchase"}, [2, 1], [6.5, 2.5]),
        ({"event_type": "page_view"}, [1, 0], [0.0, 0.0]),
        ({"store": "south"}, [1, 0], [4.0, 0.0]),
        ({"category": "food"}, [1, 1], [2.5, 2.5]),
        ({"item_id": "item-01"}, [2, 0], [4.0, 0.0]),
        ({"item_id": "item-01", "event_type": "purchase"}, [1, 0], [4.0, 0.0]),
        ({"category": "food", "store": "south"}, [0, 0], [0.0, 0.0]),
    ],
)
def test_events_are_chosen_by_all_values(
    values: dict[str, str], counts: list[int], money: list[float]
) -> None:
    chosen = events_where(vocabulary(), shop(), values)
    assert count_by_user(shop(), chosen).tolist() == counts
    assert money_by_user(shop(), chosen).tolist() == money


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"event_typ": "purchase"}, "field of events 'event_typ'.*Did you mean 'event_type'"),
        ({"amount": "3"}, "field of events 'amount'. Known: category, event_type, item_id, store"),
        ({"event_type": "purchases"}, "event_type 'purchases'.*Did you mean 'purchase'"),
        ({"event_type": PROBE_TYPE}, "Unknown event_type"),
        ({"category": "Food"}, "category 'Food'. Known: food, tools"),
        ({"item_id": "item-99"}, "item 'item-99'"),
    ],
)
def test_what_is_unknown_is_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        events_where(vocabulary(), shop(), values)


def without_purchases(item_counts: tuple[int, ...]) -> Vocabulary:
    known = vocabulary()
    types = replace(known.field(EVENT_TYPE), values=(PROBE_TYPE, "shift", "sick_day"))
    fields = tuple(types if one.name == EVENT_TYPE else one for one in known.fields)
    return replace(known, fields=fields, item_counts=item_counts)


def test_purchases_count_where_the_company_has_any() -> None:
    assert sells(vocabulary())
    assert counted_events(vocabulary(), shop()).tolist() == [True, True, False, True]


def test_without_purchases_events_with_an_item_count_else_all() -> None:
    nothing = np.array([MISSING_IDX], dtype=np.int32)
    histories = shop()
    items = np.concatenate([nothing, histories.tokens["item"][1:]])
    histories = replace(histories, tokens={**histories.tokens, "item": items})
    known = vocabulary().item_counts
    assert counted_events(without_purchases(known), histories).tolist() == [False, True, True, True]
    bare = without_purchases(tuple(0 for _ in known))
    assert not sells(bare)
    assert counted_events(bare, histories).all()
