"""Which events of histories are meant: by type, by value, or as what a company lives from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipelines.contracts import CATEGORY, EVENT_TYPE, ITEM_ID, PURCHASE
from pipelines.errors import UnknownNameError
from pipelines.tokens.binning import FIRST_IDX, Longs
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import PROBE_TYPE, TokenKind, Vocabulary

Bools = npt.NDArray[np.bool_]


def sells(vocabulary: Vocabulary) -> bool:
    """Whether anybody bought anything before the vocabulary was fitted."""
    return PURCHASE in vocabulary.field(EVENT_TYPE).values


def is_event_type(vocabulary: Vocabulary, histories: Histories, event_type: str) -> Bools:
    """bool[N]: which events are of a type; none where the vocabulary does not know it."""
    values = vocabulary.field(EVENT_TYPE).values
    if event_type not in values:
        return np.zeros(histories.num_events, dtype=np.bool_)
    found: Bools = histories.tokens[EVENT_TYPE] == FIRST_IDX + values.index(event_type)
    return found


def counted_events(vocabulary: Vocabulary, histories: Histories) -> Bools:
    """bool[N]: the events that say whether a user is there: purchases where the company has any;
    else events with an item, where there are such; else all."""
    if sells(vocabulary):
        return is_event_type(vocabulary, histories, PURCHASE)
    if any(vocabulary.item_counts):
        return np.asarray(histories.tokens[vocabulary.item_field] >= FIRST_IDX)
    return np.ones(histories.num_events, dtype=np.bool_)


def count_by_user(histories: Histories, chosen: Bools) -> Longs:
    """int64[U]: how many of the chosen events each user has."""
    users = histories.user_positions[chosen]
    return np.bincount(users, minlength=len(histories)).astype(np.int64)


def money_by_user(histories: Histories, chosen: Bools) -> npt.NDArray[np.float64]:
    """float64[U]: money of the chosen events; a missing amount is none."""
    users = histories.user_positions[chosen]
    money = np.nan_to_num(histories.amounts[chosen].astype(np.float64))
    return np.bincount(users, weights=money, minlength=len(histories)).astype(np.float64)


def events_where(vocabulary: Vocabulary, histories: Histories, values: Mapping[str, str]) -> Bools:
    """bool[N]: which events have all of some values.

    Args:
        vocabulary: What the token indices mean.
        histories: N events.
        values: Value by field: any categorical field of events (`event_type`, `channel`, your
            own), `item_id`, or `category` of the item.

    Raises:
        UnknownNameError: no such field, or no event before the training cut had such a value; the
            message lists what is known.
    """
    chosen = np.ones(histories.num_events, dtype=np.bool_)
    for name, value in values.items():
        chosen &= _has_value(vocabulary, histories, name, value)
    return chosen


def _has_value(vocabulary: Vocabulary, histories: Histories, name: str, value: str) -> Bools:
    items = histories.tokens[vocabulary.item_field]
    if name == CATEGORY:
        place = _place(name, value, vocabulary.categories)
        return np.asarray(vocabulary.category_by_item_idx[items] == place)
    if name == ITEM_ID:
        if value not in vocabulary.item_idx_of:
            raise UnknownNameError("item", value, [*vocabulary.items[:5], "..."])
        return np.asarray(items == vocabulary.item_idx_of[value])
    fields = {one.name: one for one in vocabulary.fields if one.kind is TokenKind.CATEGORICAL}
    if name not in fields:
        raise UnknownNameError("field of events", name, (*fields, CATEGORY, ITEM_ID))
    place = _place(name, value, fields[name].values)
    return np.asarray(histories.tokens[name] == FIRST_IDX + place)


def _place(name: str, value: str, values: tuple[str, ...]) -> int:
    known = [one for one in values if one != PROBE_TYPE]
    if value not in known:
        raise UnknownNameError(name, value, known)
    return values.index(value)
