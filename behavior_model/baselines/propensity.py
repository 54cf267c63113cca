"""Baselines of propensity: scores of every user for some targets, compared between users.

Knobs are chosen by macro AUC on the validation window. Trees on hand-made features learn from the
same windows as the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from behavior_model.baselines import als, boosted_ranker, item_knn, own_frequency
from behavior_model.baselines.tuning import interactions_at
from behavior_model.context import ModelContext
from behavior_model.memory.purchases import Doubles, Level, Longs, Purchases
from behavior_model.metrics import macro_auc
from behavior_model.user_features import feature_matrix, user_features

Knob = TypeVar("Knob")
Scorer = Callable[[Purchases, Knob], Doubles]

LEVEL: Final = Level.CATEGORY
NUM_TRAINING_TIMES: Final = 4
HAND_MADE: Final = "hand-made features, LightGBM"


class PropensityBaseline(Protocol):
    """Scores all users at the test cut, having looked at nothing after it."""

    def __call__(self, context: ModelContext, targets: Longs, *, seed: int = 0) -> Doubles:
        """float64[U, T] for the users of `context.histories(context.test_time)`."""


def popularity(context: ModelContext, targets: Longs, *, seed: int = 0) -> Doubles:
    """How many bought it: alike for all users, so that it tells none of them apart."""
    del seed
    past = interactions_at(context, LEVEL, context.test_time)
    totals = np.bincount(past.targets, minlength=past.num_targets).astype(np.float64)
    return np.repeat(totals[targets][None], past.num_users, axis=0)


def own_frequency_decayed(context: ModelContext, targets: Longs, *, seed: int = 0) -> Doubles:
    """The user's own purchases of it, decayed; the half-life is tuned."""
    del seed
    scorer = partial(_own, targets=targets)
    return _tuned(context, targets, scorer, (None, *own_frequency.HALF_LIVES_DAYS))


def nearest_items(context: ModelContext, targets: Longs, *, seed: int = 0) -> Doubles:
    """Item-kNN; the number of neighbours is tuned."""
    del seed

    def score(past: Purchases, num_neighbours: int) -> Doubles:
        tastes, likeness, known = item_knn.tastes_and_likeness(past, num_neighbours)
        return _at(targets, known, (tastes @ likeness).toarray())

    return _tuned(context, targets, score, item_knn.NUM_NEIGHBOURS)


def alternating_least_squares(context: ModelContext, targets: Longs, *, seed: int = 0) -> Doubles:
    """Implicit ALS; factors, confidence and regularisation are tuned."""

    def score(past: Purchases, knob: tuple[int, float, float]) -> Doubles:
        users, factors, known = als.fold_users(past, knob, seed=seed)
        return _at(targets, known, users @ factors.T)

    return _tuned(context, targets, score, als.KNOBS)


def hand_made_trees(context: ModelContext, targets: Longs, *, seed: int = 0) -> Doubles:
    """Boosted trees on hand-made features of the user, and of the user and the target."""
    times = [context.validation_time, *context.training_times][:NUM_TRAINING_TIMES]
    inputs = [_hand_made(context, time, targets) for time in times]
    labels = [LEVEL.bought(context.futures(time), targets).ravel() for time in times]
    trees = boosted_ranker.fit_trees(np.concatenate(inputs), np.concatenate(labels), seed=seed)
    now = _hand_made(context, context.test_time, targets)
    scores = np.asarray(trees.predict(now, num_threads=1), dtype=np.float64)
    return scores.reshape(-1, len(targets))


PROPENSITY_BASELINES: Final[dict[str, PropensityBaseline]] = {
    "popularity": popularity,
    "own_frequency_decayed": own_frequency_decayed,
    "item_knn": nearest_items,
    "als": alternating_least_squares,
    HAND_MADE: hand_made_trees,
}


def _tuned(
    context: ModelContext, targets: Longs, score: Scorer[Knob], knobs: Sequence[Knob]
) -> Doubles:
    past = interactions_at(context, LEVEL, context.validation_time)
    labels = LEVEL.bought(context.futures(context.validation_time), targets)
    found = [macro_auc(labels, score(past, knob)) for knob in knobs]
    return score(interactions_at(context, LEVEL, context.test_time), knobs[int(np.argmax(found))])


def _own(past: Purchases, half_life_days: float | None, *, targets: Longs) -> Doubles:
    weights = np.ones(len(past.ages))
    if half_life_days is not None:
        weights = 0.5 ** (past.ages / half_life_days)
    cells = past.num_users * past.num_targets
    counts = np.bincount(past.keys, weights, cells).reshape(past.num_users, past.num_targets)
    return np.asarray(counts[:, targets], dtype=np.float64)


def _at(targets: Longs, known: Longs, scores: npt.NDArray[np.floating]) -> Doubles:
    """float64[U, T]: columns of the targets; those that are not known score lowest."""
    found = np.full((len(scores), len(targets)), scores.min(initial=0.0), dtype=np.float64)
    columns = {int(target): column for column, target in enumerate(known)}
    for place, target in enumerate(targets):
        if int(target) in columns:
            found[:, place] = scores[:, columns[int(target)]]
    return found


def _hand_made(context: ModelContext, time: int, targets: Longs) -> npt.NDArray[np.float32]:
    past = interactions_at(context, LEVEL, time)
    pairs = boosted_ranker.pair_values(
        past, LEVEL.groups_of(context.vocabulary), past.keys_of_all(targets)
    )
    histories = context.histories(time)
    times = np.full(len(histories), time, dtype=np.int64)
    users = feature_matrix(user_features(context.vocabulary, histories, times))
    repeated = np.repeat(users, len(targets), axis=0).astype(np.float32)
    return np.concatenate([pairs, repeated], axis=1)
