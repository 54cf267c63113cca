"""A handful of plain features from encoded histories: counts, recency, money."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_store.tables import (
    AS_OF_US,
    DAYS_SINCE_FIRST_EVENT,
    DAYS_SINCE_LAST_EVENT,
    NUM_EVENTS_28D,
    NUM_ITEMS,
    NUM_PURCHASES_28D,
    NUM_SESSIONS_28D,
    NUM_USERS,
    NUM_USERS_28D,
    SPEND_28D,
    STATE,
)
from pipelines.contracts import ITEM_ID, NUM_EVENTS, NUM_PURCHASES, PURCHASE, USER_ID
from pipelines.tokens.binning import DAY_US, FIRST_IDX, Longs
from pipelines.tokens.history import Histories
from pipelines.tokens.selection import is_event_type
from pipelines.tokens.vocabulary import TokenKind, Vocabulary

WINDOW_US: Final = 28 * DAY_US
SESSION_STARTED: Final = FIRST_IDX + 1

Mask = npt.NDArray[np.bool_]


def user_activity(vocabulary: Vocabulary, histories: Histories, as_of_us: int) -> pa.Table:
    """One row of `user_activity` per user.

    Args:
        vocabulary: The one that the histories were encoded with.
        histories: U users with at least one event each, all before `as_of_us`.
        as_of_us: Prediction time, UTC microseconds.
    """
    users, num_users = histories.user_positions, len(histories)
    recent = histories.times_us >= as_of_us - WINDOW_US
    bought = is_event_type(vocabulary, histories, PURCHASE)
    started = histories.tokens[_name(vocabulary, TokenKind.SESSION_START)] == SESSION_STARTED
    items = histories.tokens[vocabulary.item_field]

    def count(mask: Mask) -> Longs:
        return np.bincount(users[mask], minlength=num_users).astype(np.int64)

    spent = np.where(recent & bought, np.nan_to_num(histories.amounts), 0.0)
    first_us = histories.times_us[histories.offsets[:-1]]
    return pa.table(
        {
            USER_ID: pa.array(histories.user_ids, type=pa.string()),
            NUM_EVENTS: histories.lengths,
            NUM_PURCHASES: count(bought),
            NUM_ITEMS: _distinct(users, items, items >= FIRST_IDX, num_users),
            DAYS_SINCE_FIRST_EVENT: (as_of_us - first_us) / DAY_US,
            DAYS_SINCE_LAST_EVENT: (as_of_us - histories.last_times_us) / DAY_US,
            NUM_EVENTS_28D: count(recent),
            NUM_PURCHASES_28D: count(recent & bought),
            NUM_SESSIONS_28D: count(recent & started),
            SPEND_28D: np.bincount(users, weights=spent, minlength=num_users),
            AS_OF_US: np.full(num_users, as_of_us, dtype=np.int64),
        }
    )


def item_activity(vocabulary: Vocabulary, histories: Histories, as_of_us: int) -> pa.Table:
    """One row of `item_activity` per item with at least one event; arguments as above."""
    items = histories.tokens[vocabulary.item_field]
    known = items >= FIRST_IDX
    recent = known & (histories.times_us >= as_of_us - WINDOW_US)
    users, size = histories.user_positions, vocabulary.num_item_indices
    counts = np.bincount(items[known], minlength=size)
    seen = np.flatnonzero(counts)
    last = np.zeros(size, dtype=np.int64)
    np.maximum.at(last, items[known], histories.times_us[known])
    return pa.table(
        {
            ITEM_ID: pa.array([vocabulary.items[i - FIRST_IDX] for i in seen], type=pa.string()),
            NUM_EVENTS: counts[seen].astype(np.int64),
            NUM_USERS: _distinct(items, users, known, size)[seen],
            DAYS_SINCE_LAST_EVENT: (as_of_us - last[seen]) / DAY_US,
            NUM_EVENTS_28D: np.bincount(items[recent], minlength=size)[seen].astype(np.int64),
            NUM_USERS_28D: _distinct(items, users, recent, size)[seen],
            AS_OF_US: np.full(len(seen), as_of_us, dtype=np.int64),
        }
    )


def user_state(vocabulary: Vocabulary, histories: Histories, as_of_us: int) -> pa.Table:
    """One row of `user_state` per user."""
    states = [
        histories.select([i]).to_bytes(vocabulary.vocabulary_id) for i in range(len(histories))
    ]
    return pa.table(
        {
            USER_ID: pa.array(histories.user_ids, type=pa.string()),
            STATE: pa.array(states, type=pa.binary()),
            AS_OF_US: np.full(len(histories), as_of_us, dtype=np.int64),
        }
    )


def _name(vocabulary: Vocabulary, kind: TokenKind) -> str:
    return next(field.name for field in vocabulary.fields if field.kind is kind)


def _distinct(
    groups: npt.NDArray[np.integer], values: npt.NDArray[np.integer], mask: Mask, size: int
) -> Longs:
    """int64[size]: distinct values per group under a mask."""
    pairs = np.unique(np.stack([groups[mask], values[mask]], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=size).astype(np.int64)
