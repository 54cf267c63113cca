"""Boosted trees on 21 hand-made features of a user and a target: no transformer, no neighbours.

Candidates are what the user bought and the 60 most popular targets. Trained on three
windows that end by the test cut, the last of them that of validation, as a practitioner would.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from lightgbm import Booster, Dataset, train

from behavior_model.baselines.tuning import best_pairs, interactions_at
from behavior_model.context import ModelContext
from behavior_model.largest import largest_in_groups
from behavior_model.memory.own import MISSING_PAIR, own_groups, own_pairs, own_users
from behavior_model.memory.purchases import Doubles, Level, Longs, Purchases

Floats = npt.NDArray[np.float32]

NUM_POPULAR: Final = 60
NUM_OWN: Final = 100
NUM_TIMES: Final = 3
NUM_TREES: Final = 150
PAIR_FEATURES: Final = (
    "count", "decayed_14d", "decayed_28d", "decayed_56d", "decayed_112d", "visits", "recency",
    "age", "gap", "overdue", "per_visit", "share", "quantity",
)  # fmt: skip
USER_FEATURES: Final = ("visits", "events", "basket", "visits_56d")
GROUP_FEATURES: Final = ("count", "decayed_56d")
_TREES: Final = {
    "objective": "binary", "learning_rate": 0.07, "num_leaves": 31, "min_data_in_leaf": 100,
    "feature_fraction": 0.6, "bagging_fraction": 0.7, "bagging_freq": 1, "max_bin": 63,
    "num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip


def rank(context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
    """int64[U, k]."""
    groups = level.groups_of(context.vocabulary)
    times = [context.validation_time, *context.training_times[: NUM_TIMES - 1]]
    inputs, labels = [], []
    for time in times:
        past = interactions_at(context, level, time)
        keys = _candidates(past)
        values = pair_values(past, groups, keys)
        truths = level.truths_of(context.futures(time))
        true = np.concatenate([u * past.num_targets + t for u, t in enumerate(truths)])
        active = np.asarray([len(t) > 0 for t in truths])[keys // past.num_targets]
        inputs.append(values[active])
        labels.append(np.isin(keys[active], true))
    trees = fit_trees(np.concatenate(inputs), np.concatenate(labels), seed=seed)
    past = interactions_at(context, level, context.test_time)
    keys = _candidates(past)
    values = pair_values(past, groups, keys)
    scores = np.asarray(trees.predict(values, num_threads=1))
    return best_pairs(past, keys, scores, k)


def fit_trees(inputs: Floats, labels: npt.NDArray[np.bool_], *, seed: int) -> Booster:
    """Trees over float32[P, F] and bool[P], whether the pair came true."""
    data = Dataset(inputs, labels.astype(np.int8))
    return train({**_TREES, "seed": seed}, data, NUM_TREES)


def pair_values(past: Purchases, groups: Longs, keys: Longs) -> Floats:
    """float32[P, 21]: the features of pairs `user * T + target`."""
    own = own_pairs(past)
    popular = _popular(past)
    total = np.bincount(past.targets, minlength=past.num_targets)
    users, targets = keys // past.num_targets, keys % past.num_targets
    pairs, per_user = own.at(keys, MISSING_PAIR), own_users(past)
    num_groups = int(groups.max(initial=0)) + 1
    group_keys = np.where(groups[targets] >= 0, users * num_groups + groups[targets], -1)
    grouped = own_groups(past, groups, num_groups).at(group_keys, {})
    columns = [
        *(pairs[name] for name in PAIR_FEATURES),
        *(per_user[name][users] for name in USER_FEATURES),
        *(grouped[name] for name in GROUP_FEATURES),
        popular[targets],
        total[targets],
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _popular(past: Purchases) -> Doubles:
    weights = 0.5 ** (past.ages / 28.0)
    return np.bincount(past.targets, weights, past.num_targets).astype(np.float64)


def _candidates(past: Purchases) -> Longs:
    own = own_pairs(past)
    users = own.keys // past.num_targets
    rows, _ = largest_in_groups(users, own.columns["decayed_112d"], own.keys, NUM_OWN)
    best = np.argsort(-_popular(past), kind="stable")[:NUM_POPULAR]
    everyone = np.arange(past.num_users)[:, None] * past.num_targets + best
    return np.union1d(own.keys[rows], everyone.ravel())
