"""Popularity: the same items for everyone, of all time or of late."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np

from behavior_model.benchmark.baselines.ranking import filled, popular_items
from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked
from behavior_model.benchmark.baselines.tuning import tuned
from behavior_model.benchmark.interactions import NO_ITEM, Longs


@dataclass(frozen=True, kw_only=True)
class RecencyKnob:
    """How fast an interaction loses weight.

    Args:
        half_life_places: Places from the end of a user's history over which a weight halves.
    """

    half_life_places: float


RECENT_KNOBS: Final = tuple(RecencyKnob(half_life_places=n) for n in (1.0, 2.0, 4.0, 8.0, 16.0))


def rank(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """By how often an item was taken. Has no knob."""
    del seed
    started = perf_counter()
    lists = filled(task, _nothing(task, k), popular_items(task.history))
    return Ranked(lists=lists, seconds=perf_counter() - started)


def rank_recent(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """By how often an item stands near the end of a history; needs no times."""
    del seed
    return tuned(task, k, _rank_recent, RECENT_KNOBS)


def _rank_recent(task: LeaveOneOutTask, knob: RecencyKnob, k: int) -> Longs:
    history = task.history
    weights = 0.5 ** (history.places_from_end / knob.half_life_places)
    totals = np.bincount(history.items, weights, minlength=history.num_items)
    return filled(task, _nothing(task, k), np.argsort(-totals, kind="stable"))


def _nothing(task: LeaveOneOutTask, k: int) -> Longs:
    return np.full((len(task.history), k), NO_ITEM, dtype=np.int64)
