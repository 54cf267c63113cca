"""Own most frequent: what the user bought, or met at all, most often; plain or with decay."""

from __future__ import annotations

from typing import Final

import numpy as np

from behavior_model.baselines.tuning import best_pairs, interactions_at, tuned
from behavior_model.context import ModelContext
from behavior_model.memory.purchases import Doubles, Level, Longs, Purchases

HALF_LIVES_DAYS: Final = (56.0, 84.0, 112.0, 168.0)
EVENT_HALF_LIVES_DAYS: Final = (1.0, 7.0, 28.0, 84.0, 168.0)


def rank(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: visits in which the user bought it; ties by popularity. Has no knob."""
    del seed
    return _rank(interactions_at(context, level, context.test_time), None, k)


def rank_decayed(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: the same with exponential decay; the half-life is tuned on validation."""
    del seed
    return tuned(context, level, k, _rank, HALF_LIVES_DAYS)


def rank_events(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: events of any kind, views and carts too, with decay; the half-life is tuned."""
    del seed
    return tuned(context, level, k, _rank_events, EVENT_HALF_LIVES_DAYS)


def _rank(purchases: Purchases, half_life_days: float | None, k: int) -> Longs:
    """Each visit counts once per target."""
    visits = np.unique(purchases.visits * purchases.num_targets + purchases.targets)
    visit, target = visits // purchases.num_targets, visits % purchases.num_targets
    weights = np.ones(len(visits))
    if half_life_days is not None:
        weights = 0.5 ** (purchases.visit_ages[visit] / half_life_days)
    return _most(purchases, purchases.visit_users[visit], target, weights, k)


def _rank_events(purchases: Purchases, half_life_days: float, k: int) -> Longs:
    users = np.concatenate([purchases.users, purchases.seen_users])
    targets = np.concatenate([purchases.targets, purchases.seen_targets])
    ages = np.concatenate([purchases.ages, purchases.seen_ages])
    return _most(purchases, users, targets, 0.5 ** (ages / half_life_days), k)


def _most(purchases: Purchases, users: Longs, targets: Longs, weights: Doubles, k: int) -> Longs:
    """int64[U, k] by sums of weights; of equal sums the more popular target comes first."""
    keys, inverse = np.unique(users * purchases.num_targets + targets, return_inverse=True)
    scores = np.bincount(inverse, weights, minlength=len(keys))
    named = keys % purchases.num_targets
    popular = np.bincount(targets, minlength=purchases.num_targets)[named]
    places = np.empty(len(keys))
    places[np.lexsort((-named, popular, scores))] = np.arange(len(keys))
    return best_pairs(purchases, keys, places, k)
