"""Popularity: what everybody buys lately, the same list for everyone."""

from __future__ import annotations

from typing import Final

import numpy as np

from behavior_model.baselines.tuning import best_columns, interactions_at
from behavior_model.context import ModelContext
from behavior_model.memory.purchases import Level, Longs

HALF_LIFE_DAYS: Final = 28.0


def rank(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: visits that bought it, with a half-life of four weeks. Has no knob."""
    del seed
    past = interactions_at(context, level, context.test_time)
    visited = np.unique(past.visits * past.num_targets + past.targets)
    weights = 0.5 ** (past.visit_ages[visited // past.num_targets] / HALF_LIFE_DAYS)
    targets = visited % past.num_targets
    totals = np.bincount(targets, weights, past.num_targets).astype(np.float64)
    best = best_columns(totals[None], np.arange(len(totals)), k)
    return np.repeat(best, past.num_users, axis=0)
