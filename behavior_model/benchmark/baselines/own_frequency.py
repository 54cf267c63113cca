"""Own most frequent: what the user took most often, the last times counting most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from behavior_model.benchmark.baselines.ranking import dense_scores, rank_users, weight_matrix
from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked
from behavior_model.benchmark.baselines.tuning import tuned
from behavior_model.benchmark.interactions import Longs


@dataclass(frozen=True, kw_only=True)
class DecayKnob:
    """How fast an own interaction loses weight.

    Args:
        half_life_places: Places from the end of the history over which a weight halves.
    """

    half_life_places: float


KNOBS: Final = tuple(DecayKnob(half_life_places=n) for n in (2.0, 5.0, 10.0, 20.0, 50.0, 200.0))
_MIN_WEIGHT: Final = 1e-30
"""An item taken long ago still comes before one never taken."""


def rank(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """Decay is tuned on validation; popular items fill up."""
    del seed
    return tuned(task, k, rank_decayed, KNOBS)


def obstacle(task: LeaveOneOutTask) -> str | None:
    """Where own items are masked nothing is left to count."""
    return "the user's own items are masked" if task.mask_history else None


def rank_decayed(task: LeaveOneOutTask, knob: DecayKnob, k: int) -> Longs:
    """int64[U, k] with the given half-life."""
    decayed = 0.5 ** (task.history.places_from_end / knob.half_life_places)
    weights = np.maximum(decayed, _MIN_WEIGHT).astype(np.float32)
    matrix = weight_matrix(task.history, weights)
    return rank_users(task, k, lambda users: dense_scores(matrix[users]))
