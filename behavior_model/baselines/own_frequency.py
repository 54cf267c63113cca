"""Own most frequent: what the user bought most often, plain or with decay."""

from __future__ import annotations

from typing import Final

import numpy as np

from behavior_model.baselines.tuning import best_pairs, interactions_at, tuned
from behavior_model.context import ModelContext
from behavior_model.memory.purchases import Level, Longs, Purchases

HALF_LIVES_DAYS: Final = (56.0, 84.0, 112.0, 168.0)


def rank(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: visits in which the user bought it; ties by popularity. Has no knob."""
    del seed
    return _rank(interactions_at(context, level, context.test_time), None, k)


def rank_decayed(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: the same with exponential decay; the half-life is tuned on validation."""
    del seed
    return tuned(context, level, k, _rank, HALF_LIVES_DAYS)


def _rank(purchases: Purchases, half_life_days: float | None, k: int) -> Longs:
    """Each visit counts once per target; of equal counts the more popular target comes first."""
    visits = np.unique(purchases.visits * purchases.num_targets + purchases.targets)
    visit, target = visits // purchases.num_targets, visits % purchases.num_targets
    weights = np.ones(len(visits))
    if half_life_days is not None:
        weights = 0.5 ** (purchases.visit_ages[visit] / half_life_days)
    raw = purchases.visit_users[visit] * purchases.num_targets + target
    keys, inverse = np.unique(raw, return_inverse=True)
    scores = np.bincount(inverse, weights, minlength=len(keys))
    targets = keys % purchases.num_targets
    popular = np.bincount(target, minlength=purchases.num_targets)[targets]
    places = np.empty(len(keys))
    places[np.lexsort((-targets, popular, scores))] = np.arange(len(keys))
    return best_pairs(purchases, keys, places, k)
