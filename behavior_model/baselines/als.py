"""Implicit ALS (Hu, Koren and Volinsky, 2008), users folded in exactly."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from behavior_model.baselines.item_knn import count_matrix
from behavior_model.baselines.tuning import best_columns, tuned
from behavior_model.context import ModelContext
from behavior_model.memory.factors import Floats, fit_factors, fold_in
from behavior_model.memory.purchases import Level, Longs, Purchases

KNOBS: Final = ((64, 0.1, 10.0), (128, 0.1, 10.0), (256, 0.1, 10.0), (64, 0.1, 100.0))
"""Factors, confidence per purchase, regularisation."""
_CHUNK_USERS: Final = 256


def rank(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: factors, confidence and regularisation are tuned on validation."""
    with threadpool_limits(1, "blas"):
        return tuned(context, level, k, partial(_rank, seed=seed), KNOBS)


def fold_users(
    purchases: Purchases, knob: tuple[int, float, float], *, seed: int
) -> tuple[Floats, Floats, Longs]:
    """Factors of users, float32[U, F], and of targets, float32[R, F], and int64[R], the targets."""
    num_factors, confidence, regularisation = knob
    counts, targets = count_matrix(purchases)
    settings = {"confidence": confidence, "regularisation": regularisation}
    factors = fit_factors(counts, num_factors=num_factors, seed=seed, **settings)
    return fold_in(counts, factors, **settings), factors, targets


def _rank(purchases: Purchases, knob: tuple[int, float, float], k: int, *, seed: int) -> Longs:
    users, factors, targets = fold_users(purchases, knob, seed=seed)
    parts = [
        best_columns(users[start : start + _CHUNK_USERS] @ factors.T, targets, k)
        for start in range(0, len(users), _CHUNK_USERS)
    ]
    return np.concatenate(parts)
