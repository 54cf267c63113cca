"""Item-kNN: targets like those that the user bought, by cosine of their BM25-weighted buyers."""

from __future__ import annotations

import warnings
from typing import Final

import numpy as np
from implicit.nearest_neighbours import BM25Recommender
from implicit.utils import ParameterWarning
from scipy import sparse

from behavior_model.baselines.tuning import best_columns, tuned
from behavior_model.context import ModelContext
from behavior_model.memory.purchases import Level, Longs, Purchases

NUM_NEIGHBOURS: Final = (100, 400)
MIN_COUNT: Final = 5
_CHUNK_USERS: Final = 256


def rank(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]: the number of neighbours is tuned on validation."""
    del seed
    return tuned(context, level, k, _rank, NUM_NEIGHBOURS)


def count_matrix(purchases: Purchases) -> tuple[sparse.csr_matrix, Longs]:
    """float32[U, R] of purchases and int64[R], the targets bought at least MIN_COUNT times."""
    totals = np.bincount(purchases.targets, minlength=purchases.num_targets)
    targets = np.flatnonzero(totals >= min(MIN_COUNT, totals.max(initial=1)))
    position = np.full(purchases.num_targets, -1, dtype=np.int64)
    position[targets] = np.arange(len(targets))
    columns = position[purchases.targets]
    kept = columns >= 0
    counts = sparse.csr_matrix(
        (np.ones(kept.sum(), np.float32), (purchases.users[kept], columns[kept])),
        shape=(purchases.num_users, len(targets)),
    )
    counts.sum_duplicates()
    return counts, targets


def tastes_and_likeness(
    purchases: Purchases, num_neighbours: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix, Longs]:
    """float[U, R] and float[R, R], whose product scores users for targets, and int64[R], those."""
    counts, targets = count_matrix(purchases)
    model = BM25Recommender(K=num_neighbours, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)
        model.fit(counts, show_progress=False)
    tastes = counts.copy()
    tastes.data = np.log1p(tastes.data)
    return tastes, sparse.csr_matrix(model.similarity), targets


def _rank(purchases: Purchases, num_neighbours: int, k: int) -> Longs:
    tastes, likeness, targets = tastes_and_likeness(purchases, num_neighbours)
    parts = [
        best_columns((tastes[start : start + _CHUNK_USERS] @ likeness).toarray(), targets, k)
        for start in range(0, purchases.num_users, _CHUNK_USERS)
    ]
    return np.concatenate(parts)
