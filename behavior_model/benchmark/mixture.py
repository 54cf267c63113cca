"""The mixture: what transformer and memories say of a candidate, weighed on validation alone.

Three mixtures compete: a conditional logit with a weight per score, boosted trees that rank
(LambdaMART: Burges, 2010; LightGBM: Ke et al., 2017), and the sum of both. Each is judged on the
half of the validation users that it was not fitted on; the best one is fitted again on all of them.
Where few users are judged, a score by itself may beat all three, and then it stands alone.
Legend: U users, P candidate pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from behavior_model.benchmark.baselines.tuning import mean_ndcg
from behavior_model.benchmark.features import POPULAR, SHOWN_ALONE
from behavior_model.benchmark.interactions import NO_ITEM, Bools, Longs
from behavior_model.heads.choice import fit_choice_weights
from behavior_model.heads.pair_features import FeatureTable
from behavior_model.largest import largest_in_groups

Doubles = npt.NDArray[np.float64]
Scorer = Callable[[FeatureTable], Doubles]
Fit = Callable[[FeatureTable, Bools, int], Scorer]

BOTH: Final = "both"
NUM_TREES: Final = 200
NUM_MEMBERS: Final = 2
_COUNTED: Final = ("follow/", "accompany/")
_TREES: Final[dict[str, Any]] = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 20,
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 63,
    "num_threads": 2,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True, eq=False)
class FittedMixture:
    """A mixture that was chosen on validation.

    Args:
        name: "linear", "trees", "both", or the name of the score that stands alone.
        score: float64[P] for a table of candidates.
        selection: NDCG@10 of each mixture, and of each score alone, on validation users that it was
            not fitted on.
        reach: Share of validation users whose true item is a candidate; no list can do better.
    """

    name: str
    score: Scorer
    selection: dict[str, float]
    reach: float


def fit_mixture(table: FeatureTable, truth: Longs, *, seed: int = 0) -> FittedMixture:
    """Choose and fit; where there are too few users to choose by, weights are fitted unchosen.

    Where no true item of anybody is a candidate, there is nothing to learn from: what is popular
    stands first.

    Args:
        table: Candidates of U users at validation.
        truth: int64[U], NO_ITEM where a user has none.
        seed: Seed of the halves and of the trees.
    """
    learned = _found(table, truth, np.ones(len(truth), dtype=np.bool_))
    if len(learned) == 0:
        return FittedMixture(POPULAR, lambda asked: alone(asked, POPULAR), {}, 0.0)
    reach = len(np.unique(learned.users)) / np.count_nonzero(truth != NO_ITEM)
    selection = _selection(table, truth, seed)
    best = max(selection, key=lambda name: selection[name], default="linear")
    if best in SHOWN_ALONE:
        return FittedMixture(best, lambda asked: alone(asked, best), selection, reach)
    is_true = _is_true(learned, truth)
    scorers = [fit(learned, is_true, seed) for name, fit in FITS.items() if best in (name, BOTH)]

    def score(asked: FeatureTable) -> Doubles:
        return _sum(asked, [one(asked) for one in scorers])

    return FittedMixture(best, score, selection, reach)


def _selection(table: FeatureTable, truth: Longs, seed: int) -> dict[str, float]:
    """NDCG@10 of each mixture on the half of the users that it was not fitted on, and of each score
    alone; of equals the mixture comes first."""
    half = np.random.default_rng(seed).random(len(truth)) < 0.5
    folds = [(_found(table, truth, fold), ~fold[table.users]) for fold in (half, ~half)]
    if any(len(learned) == 0 for learned, _ in folds):
        return {}
    values = {name: np.zeros(len(table)) for name in (*FITS, BOTH)}
    for learned, rest in folds:
        is_true, asked = _is_true(learned, truth), table.rows(rest)
        scores = {name: fit(learned, is_true, seed)(asked) for name, fit in FITS.items()}
        scores[BOTH] = _sum(asked, list(scores.values()))
        for name, one in scores.items():
            values[name][rest] = one
    values |= {name: alone(table, name) for name in SHOWN_ALONE if name in table.names}
    return {
        name: mean_ndcg(top_lists(table, one, len(truth), 10), truth)
        for name, one in values.items()
    }


def _sum(table: FeatureTable, scores: Sequence[Doubles]) -> Doubles:
    """float64[P]: the sum of scores, each in standard deviations over a user's candidates."""
    if len(scores) == 1:
        return scores[0]
    counts = np.maximum(np.bincount(table.users), 1)
    total = np.zeros(len(table))
    for one in scores:
        centred = one - (np.bincount(table.users, one) / counts)[table.users]
        spread = np.sqrt(np.bincount(table.users, centred**2) / counts)
        total += centred / np.maximum(spread, 1e-9)[table.users]
    return total


def top_lists(table: FeatureTable, values: Doubles, num_users: int, k: int) -> Longs:
    """int64[U, k]: candidates by value, ties by item; NO_ITEM fills lists that are too short."""
    rows, places = largest_in_groups(table.users, values, table.targets, k)
    lists = np.full((num_users, k), NO_ITEM, dtype=np.int64)
    lists[table.users[rows], places] = table.targets[rows]
    return lists


def _is_true(table: FeatureTable, truth: Longs) -> Bools:
    return np.asarray(table.targets == truth[table.users], dtype=np.bool_)


def _found(table: FeatureTable, truth: Longs, chosen: Bools) -> FeatureTable:
    """Rows of the chosen users whose true item is among their candidates."""
    found = np.zeros(len(truth), dtype=np.bool_)
    found[table.users[_is_true(table, truth)]] = True
    return table.rows((found & chosen)[table.users])


def _linear_inputs(table: FeatureTable) -> Doubles:
    """float64[P, F]: scores as they are; sums of counts by their root as well."""
    values = np.nan_to_num(table.values.astype(np.float64))
    counted = [i for i, name in enumerate(table.names) if name.startswith(_COUNTED)]
    return np.concatenate([values, np.sqrt(np.maximum(values[:, counted], 0.0))], axis=1)


def _fit_linear(table: FeatureTable, chosen: Bools, seed: int) -> Scorer:
    del seed
    inputs = _linear_inputs(table)
    weights = fit_choice_weights(
        inputs.astype(np.float32), chosen, _offsets(table), columns=range(inputs.shape[1])
    )
    return lambda asked: np.asarray(_linear_inputs(asked) @ weights, dtype=np.float64)


def _fit_trees(table: FeatureTable, chosen: Bools, seed: int) -> Scorer:
    data = lgb.Dataset(
        table.values,
        chosen.astype(np.int8),
        group=np.diff(_offsets(table)),
        params=_TREES,
        free_raw_data=False,
    )
    first = seed * NUM_MEMBERS
    members: Sequence[lgb.Booster] = [
        lgb.train({**_TREES, "seed": first + one}, data, NUM_TREES) for one in range(NUM_MEMBERS)
    ]

    def score(asked: FeatureTable) -> Doubles:
        raw = [one.predict(asked.values, num_threads=2) for one in members]
        return np.asarray(np.mean(raw, axis=0), dtype=np.float64)

    return score


def _offsets(table: FeatureTable) -> Longs:
    lengths = np.bincount(table.users)
    return np.concatenate([[0], np.cumsum(lengths[lengths > 0])]).astype(np.int64)


FITS: Final[dict[str, Fit]] = {"linear": _fit_linear, "trees": _fit_trees}


def alone(table: FeatureTable, name: str) -> Doubles:
    """float64[P]: one score by itself, the least where it is unknown."""
    return np.nan_to_num(table.column(name).astype(np.float64), nan=-np.inf)
