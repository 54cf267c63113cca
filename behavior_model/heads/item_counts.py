"""Decayed counts of events with items: everybody's and one user's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.tokens.binning import DAY_US, FIRST_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

HALF_LIFE_US: Final = 28 * DAY_US


def popularity(vocabulary: Vocabulary, histories: Histories, prediction_time_us: int) -> Floats:
    """float32[num_item_indices]: log(1 + events with each item, halved every four weeks)."""
    items, ages = _item_events(vocabulary, histories, prediction_time_us)
    decayed = np.bincount(
        items, weights=0.5 ** (ages / HALF_LIFE_US), minlength=vocabulary.num_item_indices
    )
    return np.log1p(decayed).astype(np.float32)


@dataclass(frozen=True, eq=False)
class OwnCounts:
    """What one user did with items.

    Args:
        item_idx: int64[C], ascending.
        totals: float32[C], log(1 + events).
        decayed: float32[C], log(1 + events halved every four weeks).
    """

    item_idx: Longs
    totals: Floats
    decayed: Floats

    def lookup(self, item_idx: Longs, values: Floats) -> Floats:
        """float32: `values` at the given items, 0 where the user did nothing."""
        found = np.zeros(len(item_idx), dtype=np.float32)
        if len(self.item_idx):
            at = np.minimum(np.searchsorted(self.item_idx, item_idx), len(self.item_idx) - 1)
            found = np.where(self.item_idx[at] == item_idx, values[at], found)
        return found.astype(np.float32)


def own_counts(
    vocabulary: Vocabulary, histories: Histories, user: int, prediction_time_us: int
) -> OwnCounts:
    """What the user at a position did before a prediction time."""
    one = histories.select([user])
    items, ages = _item_events(vocabulary, one, prediction_time_us)
    item_idx, place = np.unique(items, return_inverse=True)
    totals = np.bincount(place, minlength=len(item_idx))
    decayed = np.bincount(place, weights=0.5 ** (ages / HALF_LIFE_US), minlength=len(item_idx))
    return OwnCounts(
        item_idx=item_idx.astype(np.int64),
        totals=np.log1p(totals).astype(np.float32),
        decayed=np.log1p(decayed).astype(np.float32),
    )


def _item_events(
    vocabulary: Vocabulary, histories: Histories, prediction_time_us: int
) -> tuple[Longs, npt.NDArray[np.float64]]:
    name = vocabulary.item_field
    items = histories.tokens[name].astype(np.int64)
    known = items >= FIRST_IDX
    return items[known], (prediction_time_us - histories.times_us[known]).astype(np.float64)
