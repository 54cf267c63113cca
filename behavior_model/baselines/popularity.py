"""Popularity: what everybody buys lately, the same list for everyone."""

from __future__ import annotations

from typing import Final

import numpy as np

from behavior_model.context import ModelContext
from behavior_model.memory.interactions import Level, Longs, read_interactions

HALF_LIFE_DAYS: Final = 28.0


def rank(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: purchases decayed with a half-life of four weeks. Has no knob."""
    del seed
    time = context.test_time
    past = read_interactions(context.histories(time), context.vocabulary, level, time)
    weights = 0.5 ** (past.ages / HALF_LIFE_DAYS)
    totals = np.bincount(past.targets, weights, minlength=past.num_targets)
    best = np.lexsort((np.arange(len(totals)), -totals))[:k]
    return np.tile(np.where(totals[best] > 0, best, -1), (past.num_users, 1))
