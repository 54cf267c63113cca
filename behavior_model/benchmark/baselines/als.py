"""Implicit ALS (Hu, Koren and Volinsky, 2008), users folded in exactly.

Legend: U users, F factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

from threadpoolctl import threadpool_limits

from behavior_model.benchmark.baselines.ranking import count_matrix, rank_users
from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked
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
    tastes = fold_in(counts, factors, **settings)
    return rank_users(task, k, lambda users: tastes[users] @ factors.T)
