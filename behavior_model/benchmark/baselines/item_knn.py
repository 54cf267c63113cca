"""Item-kNN: items like those that the user took, by cosine of their weighted takers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from implicit.nearest_neighbours import BM25Recommender, TFIDFRecommender
from implicit.utils import ParameterWarning
from scipy import sparse

from behavior_model.benchmark.baselines.ranking import count_matrix, dense_scores, rank_users
from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked
from behavior_model.benchmark.baselines.tuning import tuned
from behavior_model.benchmark.interactions import Longs

_MODELS: Final = {"tf-idf": TFIDFRecommender, "bm25": BM25Recommender}


@dataclass(frozen=True, kw_only=True)
class ItemKnnKnob:
    """What makes items neighbours.

    Args:
        weighting: How a taker counts for an item, "tf-idf" or "bm25".
        num_neighbours: Neighbours kept per item.
    """

    weighting: str
    num_neighbours: int


KNOBS: Final = tuple(
    ItemKnnKnob(weighting=weighting, num_neighbours=num)
    for weighting in _MODELS
    for num in (100, 400)
)


def rank(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """Weighting and number of neighbours are tuned on validation."""
    del seed
    return tuned(task, k, rank_by_likeness, KNOBS)


def rank_by_likeness(task: LeaveOneOutTask, knob: ItemKnnKnob, k: int) -> Longs:
    """int64[U, k] with the given weighting and number of neighbours."""
    tastes = count_matrix(task.history)
    model = _MODELS[knob.weighting](K=knob.num_neighbours, num_threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)
        model.fit(tastes, show_progress=False)
    likeness = sparse.csr_matrix(model.similarity, dtype=np.float32)
    tastes.data = np.log1p(tastes.data)
    return rank_users(task, k, lambda users: dense_scores(tastes[users] @ likeness))
