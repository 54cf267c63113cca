"""Fitting the propensity head: trees, mixture and calibration.

Trees learn from the memories at prediction times whose windows ended before the validation window;
the transformer, which was pretrained on those windows, joins on the validation window alone, where
the mixture and the calibration are fitted. Then the trees are fitted once more with that
window, one more than those of the recommendation head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from behavior_model.context import ModelContext
from behavior_model.heads.calibration import calibrate_rate
from behavior_model.heads.pair_features import FeatureTable
from behavior_model.heads.propensity import (
    LEVEL,
    PropensityHead,
    inputs_of,
    mix,
    propensity_table,
)
from behavior_model.heads.ranking_trees import RankingTrees, seeds_of
from behavior_model.heads.recommendation_fitting import (
    MAX_LEARNED_USERS,
    NUM_TRAINING_TIMES,
    fit_memories,
)
from behavior_model.memory.purchases import Bools, Longs, read_purchases
from behavior_model.user_draw import drawn_users
from behavior_model.user_features import user_features

MAX_TARGETS: Final = 50


def largest_targets(context: ModelContext) -> Longs:
    """int64[T], ascending: the categories with most purchases before the training cut."""
    time = context.validation_time
    past = read_purchases(context.histories(time), context.vocabulary, LEVEL, time)
    counts = np.bincount(past.targets, minlength=past.num_targets)
    order = np.argsort(-counts, kind="stable")[:MAX_TARGETS]
    return np.sort(order[counts[order] > 0])


def can_be_learned(context: ModelContext) -> bool:
    """Whether, in the newest window to learn from, some bought from a category and some did not."""
    bought = LEVEL.bought(context.futures(context.validation_time), largest_targets(context))
    return bool(bought.any() and not bought.all())


def fit(context: ModelContext, *, seed: int) -> PropensityHead:
    """Fit on windows that end at or before the test cut; see `PropensityHead.fit`."""
    with threadpool_limits(1, "blas"):
        return _fit(context, seed)


def _fit(context: ModelContext, seed: int) -> PropensityHead:
    targets, seeds = largest_targets(context), seeds_of(seed)
    latest = _window(context, context.validation_time, targets, seed)
    earlier = [
        _window(context, time, targets, seed)
        for time in context.training_times[:NUM_TRAINING_TIMES]
    ]
    trees = again = None
    if earlier:
        trees = _fit_trees(earlier, seeds[:1])
        again = _fit_trees([latest, *earlier], seeds)
    inputs = inputs_of(latest.table, trees)
    model = LogisticRegression(max_iter=1_000).fit(inputs, latest.bought)
    mixture = np.concatenate([model.intercept_, model.coef_[0]])
    calibration = calibrate_rate(
        mix(mixture, inputs),
        latest.bought.astype(np.float64),
        latest.table.users,
        np.zeros(len(latest.table), dtype=np.int64),
        seed=seed,
    )
    return PropensityHead(
        vocabulary=context.vocabulary,
        memories=fit_memories(context, LEVEL, context.test_time, content=None, seed=seed)[1],
        targets=targets,
        trees=again,
        mixture=mixture,
        calibration=calibration,
    )


@dataclass(frozen=True, eq=False)
class _Window:
    """Users with all targets at one prediction time, and which of them were bought."""

    table: FeatureTable
    bought: Bools


def _window(context: ModelContext, time: int, targets: Longs, seed: int) -> _Window:
    """All users, or a draw of `MAX_LEARNED_USERS`; memories are counted over all."""
    memories = fit_memories(context, LEVEL, time, content=None, seed=seed)[1]
    everybody = np.arange(len(context.histories(time)))
    learned = drawn_users(everybody, MAX_LEARNED_USERS, seed=seed)
    histories = context.histories(time).select(learned)
    purchases = read_purchases(histories, context.vocabulary, LEVEL, time)
    times = np.full(len(histories), time, dtype=np.int64)
    features = user_features(context.vocabulary, histories, times)
    states = context.states(time).select(learned)
    table = propensity_table(purchases, memories, targets, features, states)
    return _Window(table, LEVEL.bought(context.futures(time), targets)[learned].ravel())


def _fit_trees(windows: Sequence[_Window], seeds: Sequence[int]) -> RankingTrees:
    names = [n for n in windows[0].table.names if not n.startswith("transformer/")]
    tables, bought = [w.table for w in windows], [w.bought for w in windows]
    return RankingTrees.fit(tables, bought, names, seeds=seeds)
