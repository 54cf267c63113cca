"""Implicit ALS (Hu, Koren and Volinsky, 2008), users folded in exactly.

Legend: U users, F factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from behavior_model.benchmark.baselines.ranking import count_matrix, rank_users
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask, Ranked
from behavior_model.benchmark.baselines.tuning import tuned
from behavior_model.benchmark.interactions import Longs
from behavior_model.memory.factors import fit_factors, fold_in


@dataclass(frozen=True, kw_only=True)
class AlsKnob:
    """How tastes are factored.

    Args:
        num_factors: Width of a taste.
        confidence: Weight of one interaction above that of none, which is 1.
        regularisation: Ridge penalty.
    """

    num_factors: int
    confidence: float
    regularisation: float


KNOBS: Final = (
    AlsKnob(num_factors=256, confidence=40.0, regularisation=10.0),
    AlsKnob(num_factors=256, confidence=10.0, regularisation=1.0),
    AlsKnob(num_factors=64, confidence=10.0, regularisation=10.0),
)


def rank(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """Factors, confidence and regularisation are tuned on validation."""
    with threadpool_limits(1, "blas"):
        return tuned(task, k, partial(_rank, seed=seed), KNOBS)


def _rank(task: LeaveOneOutTask, knob: AlsKnob, k: int, *, seed: int) -> Longs:
    counts = count_matrix(task.history)
    settings = {"confidence": knob.confidence, "regularisation": knob.regularisation}
    factors = fit_factors(counts, num_factors=knob.num_factors, seed=seed, **settings)
    tastes = fold_in_quickly(counts, factors, **settings)
    return rank_users(task, k, lambda users: tastes[users] @ factors.T)


def fold_in_quickly(
    counts: sparse.csr_matrix, factors: Floats, *, confidence: float, regularisation: float
) -> Floats:
    """float32[U, F]: what `fold_in` gives, by Woodbury's identity where a history is short.

    A user of n items then costs a system of n equations, not of F.
    """
    wide = factors.astype(np.float64)
    base = np.linalg.inv(wide.T @ wide + regularisation * np.eye(wide.shape[1]))
    pulled = wide @ base
    tastes = np.zeros((counts.shape[0], wide.shape[1]), dtype=np.float32)
    lengths = np.diff(counts.indptr)
    for user in np.flatnonzero((lengths > 0) & (lengths < wide.shape[1])):
        span = slice(counts.indptr[user], counts.indptr[user + 1])
        items = counts.indices[span]
        extra = confidence * counts.data[span].astype(np.float64)
        shared = pulled[items] @ wide[items].T
        strengths = np.linalg.solve(np.diag(1.0 / extra) + shared, shared @ (1.0 + extra))
        tastes[user] = (1.0 + extra - strengths) @ pulled[items]
    long = np.flatnonzero(lengths >= wide.shape[1])
    tastes[long] = fold_in(
        counts[long], factors, confidence=confidence, regularisation=regularisation
    )
    return tastes
