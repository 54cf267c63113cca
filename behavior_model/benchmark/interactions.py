"""Interactions of a benchmark: who took what, in which order, and what is written about it.

Legend: U users, N items, E interactions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.contracts import EVENT_TIME
from pipelines.errors import SourceError

Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Times = npt.NDArray[Any]
"""Event times in the type of the file: datetime64, or whatever else of it that has an order."""

POSITION: Final = "position"
NO_ITEM: Final = -1
REPEATS_ARE_RARE: Final = 0.01


@dataclass(frozen=True, eq=False)
class Interactions:
    """What U users took, each in order, from a catalogue of N items.

    Args:
        user_ids: U outside ids, ascending; text or whole numbers, as in the file.
        item_ids: N outside ids likewise, ascending; taken or not.
        texts: N texts, "" where nothing is written about an item.
        offsets: int64[U + 1]; the interactions of user u are offsets[u]:offsets[u + 1].
        items: int64[E], position in `item_ids`, oldest first within a user.
        event_times: [E], when each interaction happened; None where the file says only what came
            first.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    texts: Sequence[str]
    offsets: Longs
    items: Longs
    event_times: Times | None = None

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.item_ids)

    @property
    def num_events(self) -> int:
        """E."""
        return len(self.items)

    @property
    def lengths(self) -> Longs:
        """int64[U]: interactions per user."""
        return np.diff(self.offsets)

    @cached_property
    def users(self) -> Longs:
        """int64[E]: position of the user of each interaction."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def places_from_end(self) -> Longs:
        """int64[E]: 0 for the last interaction of a user, 1 for the one before it."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(self.num_events)

    @cached_property
    def counts(self) -> Longs:
        """int64[N]: interactions per item."""
        return np.bincount(self.items, minlength=self.num_items).astype(np.int64)

    @cached_property
    def num_copies(self) -> int:
        """Interactions that repeat user, item and time of another; 0 where no times are known."""
        if self.event_times is None:
            return 0
        keys = (self.event_times, self.items, self.users)
        order = np.lexsort(keys)
        same = [key[order][1:] == key[order][:-1] for key in keys]
        return int(np.logical_and.reduce(same).sum())

    @property
    def has_texts(self) -> bool:
        """Whether anything is written about any item."""
        return any(self.texts)

    def of(self, user: int) -> Longs:
        """int64[n]: items of the user at one position, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def last(self, back: int = 0) -> Longs:
        """int64[U]: the item `back` places before the last, NO_ITEM where a user has none."""
        return self._items_at(self.offsets[1:] - 1 - back)

    @property
    def share_tied_at_end(self) -> float:
        """Share of users whose last two interactions have one time; 0 where no times are known."""
        if self.event_times is None or not len(self):
            return 0.0
        ends = self.offsets[1:][self.lengths > 1] - 1
        return float(np.sum(self.event_times[ends] == self.event_times[ends - 1]) / len(self))

    def first_after(self, history: Interactions) -> Longs:
        """int64[U]: the item right after what is known of each user, NO_ITEM where nothing follows.

        Args:
            history: The first interactions of each of the same users.
        """
        return self._items_at(self.offsets[:-1] + history.lengths)

    def without_last(self, num: int = 1) -> Interactions:
        """The same users without their last `num` interactions."""
        return self.where(self.places_from_end >= num)

    def before(self, time: Any) -> Interactions:
        """The same users with what happened before a time alone.

        Raises:
            SourceError: the file says only what came first.
        """
        return self.where(self.known_times() < time)

    def known_times(self) -> Times:
        """[E]: `event_times`.

        Raises:
            SourceError: the file says only what came first.
        """
        if self.event_times is None:
            raise SourceError(
                f"The interactions have no '{EVENT_TIME}', only '{POSITION}', which is no clock "
                f"that users share. Add '{EVENT_TIME}' to split by time, or use "
                f"`bfm bench leave-one-out`, which needs no more than an order."
            )
        return self.event_times

    def select(self, users: Longs) -> Interactions:
        """Users at the given positions, in that order."""
        lengths = self.lengths[users]
        offsets = _offsets(lengths)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[users] - offsets[:-1], lengths)
        chosen = self.user_ids.take(pa.array(users))
        return replace(self._rows(rows, offsets), user_ids=chosen)

    def where(self, kept: Bools) -> Interactions:
        """The same users and catalogue with some of the interactions: bool[E]."""
        lengths = np.bincount(self.users[kept], minlength=len(self))
        return self._rows(np.flatnonzero(kept), _offsets(lengths))

    def _rows(self, rows: Longs, offsets: Longs) -> Interactions:
        times = None if self.event_times is None else self.event_times[rows]
        return replace(self, offsets=offsets, items=self.items[rows], event_times=times)

    def _items_at(self, rows: Longs) -> Longs:
        """int64[U]: the item of each user's row, NO_ITEM where the row is not the user's."""
        own = (rows >= self.offsets[:-1]) & (rows < self.offsets[1:])
        found = self.items[np.where(own, rows, 0)] if self.num_events else rows
        return np.where(own, found, NO_ITEM)


def masks_history(history: Interactions) -> bool:
    """Whether users take nothing twice; the same at the same time is a row that was sent twice."""
    pairs = history.users * history.num_items + history.items
    repeats = history.num_events - history.num_copies - len(np.unique(pairs))
    return repeats < REPEATS_ARE_RARE * max(history.num_events, 1)


def _offsets(lengths: Longs) -> Longs:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
