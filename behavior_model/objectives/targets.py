"""What comes after a probe: the labels of the window ahead, read off the sequence itself.

A window counts only when it ends at or before the training cut; the time to the next event is
censored at the cut. Legend: P probes, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from behavior_model.model.window_head import EVENT_TIME_EDGES_DAYS, NUM_AMOUNT_BINS, NUM_COUNT_BINS
from pipelines.tokens.binning import DAY_US, FIRST_IDX, SESSION_GAP_US
from pipelines.tokens.history import Histories
from pipelines.tokens.selection import counted_events
from pipelines.tokens.vocabulary import Vocabulary

Longs = npt.NDArray[np.int64]

MAX_WINDOW_ITEMS: Final = 16
"""Distinct items of a window that a step learns from, drawn at random."""


@dataclass(frozen=True, kw_only=True)
class WindowTargets:
    """Labels of P probes.

    Args:
        valid_P: bool, whether the whole window is known.
        item_probes: int64[T], probe of each (probe, item) pair of the window; valid probes only.
        items: int64[T], item index.
        positive: bool[T], pairs drawn to be learned from; the others are no negatives.
        categories_PC: float32, 1 where the category is bought in the window.
        activity: int64[P] bins by name, see `ACTIVITY_SIZES`.
        event_bin_P: int64, time bin of the next event or of the censoring.
        censored_P: bool, no next event is known.
    """

    valid_P: Tensor
    item_probes: Tensor
    items: Tensor
    positive: Tensor
    categories_PC: Tensor
    activity: dict[str, Tensor]
    event_bin_P: Tensor
    censored_P: Tensor


class WindowLabeller:
    """Labels probes from the histories of a shard.

    Counts purchases where the company has any; else events with an item; else all events.

    Args:
        vocabulary: The vocabulary of the histories.
        histories: Cut at the training cut.
        cut_us: The training cut.
        window_us: Length of the window.
    """

    def __init__(
        self, vocabulary: Vocabulary, histories: Histories, cut_us: int, window_us: int
    ) -> None:
        self._category_of = vocabulary.category_by_item_idx
        self._num_categories = len(vocabulary.categories)
        self._cut_us = cut_us
        self._window_us = window_us
        rows = np.flatnonzero(counted_events(vocabulary, histories))
        users = histories.user_positions[rows]
        self._times = histories.times_us[rows]
        self._offsets = np.searchsorted(users, np.arange(len(histories) + 1))
        item = vocabulary.item_field
        self._items = histories.tokens[item][rows].astype(np.int64)
        self._amounts = np.nan_to_num(histories.amounts[rows].astype(np.float64))
        gaps = np.diff(self._times, prepend=0)
        starts = (gaps > SESSION_GAP_US) | (np.diff(users, prepend=-1) != 0)
        self._sessions_before = np.concatenate([[0], np.cumsum(starts)])

    def label(self, users: Longs, times_us: Longs, rng: np.random.Generator) -> WindowTargets:
        """Labels of P probes.

        Args:
            users: int64[P], positions in the histories.
            times_us: int64[P], probe times.
            rng: Draws which items are learned from.
        """
        low = self._find(users, times_us)
        high = self._find(users, times_us + self._window_us)
        valid = times_us + self._window_us <= self._cut_us
        probes, items = self._window_items(low, np.where(valid, high, low))
        categories = np.zeros((len(users), self._num_categories), dtype=np.float32)
        positions = self._category_of[items]
        categories[probes[positions >= 0], positions[positions >= 0]] = 1.0
        pairs = np.unique(np.stack([probes, items], axis=1), axis=0)
        event_bin, censored = self._next_event(users, times_us, low)
        return WindowTargets(
            valid_P=torch.from_numpy(valid),
            item_probes=torch.from_numpy(pairs[:, 0]),
            items=torch.from_numpy(pairs[:, 1]),
            positive=torch.from_numpy(_draw(pairs[:, 0], MAX_WINDOW_ITEMS, rng)),
            categories_PC=torch.from_numpy(categories),
            activity=self._activity(low, high),
            event_bin_P=torch.from_numpy(event_bin),
            censored_P=torch.from_numpy(censored),
        )

    def _find(self, users: Longs, times_us: Longs) -> Longs:
        """First counted event of the user at or after a time."""
        found = np.empty(len(users), dtype=np.int64)
        for i, (user, time) in enumerate(zip(users, times_us, strict=True)):
            start, stop = self._offsets[user], self._offsets[user + 1]
            found[i] = start + np.searchsorted(self._times[start:stop], time, side="left")
        return found

    def _window_items(self, low: Longs, high: Longs) -> tuple[Longs, Longs]:
        counts = high - low
        probes = np.repeat(np.arange(len(low)), counts)
        ends = np.cumsum(counts)
        rows = np.arange(int(counts.sum())) + np.repeat(low - (ends - counts), counts)
        items = self._items[rows]
        known = items >= FIRST_IDX
        return probes[known], items[known]

    def _activity(self, low: Longs, high: Longs) -> dict[str, Tensor]:
        spent = np.concatenate([[0.0], np.cumsum(self._amounts)])
        # A window that begins inside a session counts that session too.
        sessions = self._sessions_before[high] - self._sessions_before[low]
        sessions = np.maximum(sessions, (high > low).astype(np.int64))
        bins = {
            "purchases": count_bins(high - low),
            "sessions": count_bins(sessions),
            "amount": amount_bins(spent[high] - spent[low]),
        }
        return {name: torch.from_numpy(values) for name, values in bins.items()}

    def _next_event(
        self, users: Longs, times_us: Longs, low: Longs
    ) -> tuple[Longs, npt.NDArray[np.bool_]]:
        censored = low >= self._offsets[users + 1]
        following = np.append(self._times, 0)[low]
        waits = np.where(censored, self._cut_us, following) - times_us
        edges = np.asarray(EVENT_TIME_EDGES_DAYS) * DAY_US
        return np.searchsorted(edges, waits, side="right").astype(np.int64), censored


def count_bins(counts: Longs) -> Longs:
    """Zero, then octaves."""
    octaves = np.floor(np.log2(np.maximum(counts, 1))).astype(np.int64) + 1
    return np.where(counts == 0, 0, np.minimum(octaves, NUM_COUNT_BINS - 1))


def amount_bins(amounts: npt.NDArray[np.float64]) -> Longs:
    """Zero, then half octaves of 1 + money."""
    octaves = np.floor(2 * np.log2(1.0 + np.maximum(amounts, 0.0))).astype(np.int64) + 1
    return np.where(amounts <= 0, 0, np.minimum(octaves, NUM_AMOUNT_BINS - 1))


def _draw(groups: Longs, limit: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """bool[T]: at most `limit` members of each group, drawn at random. Groups are ascending."""
    keys = rng.random(len(groups))
    order = np.lexsort((keys, groups))
    first = np.searchsorted(groups, groups)
    drawn = np.zeros(len(groups), dtype=np.bool_)
    drawn[order] = np.arange(len(groups)) - first < limit
    return drawn
