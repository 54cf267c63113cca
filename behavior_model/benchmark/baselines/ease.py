"""EASE (Steck, 2019): items from items by ridge regression, closed form, none from itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg.lapack import spotrf, spotri

from behavior_model.benchmark.baselines.ranking import count_matrix, rank_users
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask, Ranked
from behavior_model.benchmark.baselines.tuning import tuned
from behavior_model.benchmark.interactions import Longs

MAX_ITEMS: Final = 20_000
"""One float32[N, N] then takes 1.6 GB and its inverse about a minute and a half on a core."""

_BLOCK: Final = 1024


@dataclass(frozen=True, kw_only=True)
class EaseKnob:
    """How strongly weights are pulled to 0.

    Args:
        regularisation: Ridge penalty, in interactions.
    """

    regularisation: float


KNOBS: Final = tuple(EaseKnob(regularisation=penalty) for penalty in (30.0, 100.0, 300.0))


def rank(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """The penalty is tuned on validation."""
    del seed
    return tuned(task, k, _rank, KNOBS)


def obstacle(task: LeaveOneOutTask) -> str | None:
    """The closed form inverts a matrix of items by items."""
    if task.history.num_items <= MAX_ITEMS:
        return None
    return f"{task.history.num_items:,} items, more than {MAX_ITEMS:,}"


def _rank(task: LeaveOneOutTask, knob: EaseKnob, k: int) -> Longs:
    taken = count_matrix(task.history)
    taken.data = np.ones_like(taken.data)
    gram = (taken.T @ taken).toarray()
    gram[np.diag_indices_from(gram)] += knob.regularisation
    weights = item_weights(gram)
    return rank_users(task, k, lambda users: taken[users] @ weights)


def item_weights(gram: Floats) -> Floats:
    """float32[N, N]: weight of each taken item (row) for each item (column), 0 on the diagonal.

    Args:
        gram: float32[N, N], users that took both, the penalty added on the diagonal; lost.
    """
    factor, _ = spotrf(np.asfortranarray(gram), lower=1, overwrite_a=1)
    lower, _ = spotri(factor, lower=1, overwrite_c=1)
    # LAPACK fills one triangle, by columns; the transpose stands by rows, as sparse rows need it.
    inverse = lower.T
    for start in range(0, len(inverse), _BLOCK):
        rows, after = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
        inverse[after, rows] = inverse[rows, after].T
        corner = np.triu(inverse[rows, rows])
        inverse[rows, rows] = corner + np.triu(corner, 1).T
    inverse /= -np.diagonal(inverse)
    np.fill_diagonal(inverse, 0.0)
    return np.asarray(inverse, dtype=np.float32)
