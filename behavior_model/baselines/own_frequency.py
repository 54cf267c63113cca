"""Own most frequent: what the user bought most often, plain or with decay."""

from __future__ import annotations

from typing import Final

import numpy as np

from behavior_model.baselines.tuning import best_pairs, interactions_at, tuned
from behavior_model.context import ModelContext
from behavior_model.memory.interactions import Interactions, Level, Longs

HALF_LIVES_DAYS: Final = (56.0, 84.0, 112.0, 168.0)


def rank(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: visits in which the user bought it; ties by popularity. Has no knob."""
    del seed
    return _rank(interactions_at(context, level, context.test_time), None, k)


def rank_decayed(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: the same with exponential decay; the half-life is tuned on validation."""
    del seed
    return tuned(context, level, k, _rank, HALF_LIVES_DAYS)


def _rank(interactions: Interactions, half_life_days: float | None, k: int) -> Longs:
    """Each visit counts once per target."""
    stride = max(len(interactions.visit_users), 1)
    visits = np.unique(interactions.visits * interactions.num_targets + interactions.targets)
    visit, target = visits // interactions.num_targets, visits % interactions.num_targets
    weights = np.ones(len(visits))
    if half_life_days is not None:
        weights = 0.5 ** (interactions.visit_ages[visit] / half_life_days)
    raw = interactions.visit_users[visit] * interactions.num_targets + target
    keys, inverse = np.unique(raw, return_inverse=True)
    scores = np.bincount(inverse, weights, minlength=len(keys))
    popular = np.bincount(target, minlength=interactions.num_targets) / (stride + 1.0)
    return best_pairs(interactions, keys, scores + 1e-6 * popular[keys % len(popular)], k)
