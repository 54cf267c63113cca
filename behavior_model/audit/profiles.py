"""What the frozen embedding knows of people's profiles, which it was never told.

Pretraining reads events alone. Each profile field is guessed from the user embedding by a linear
model on top of it, and, for comparison, from hand-made features and from both together. What can be
guessed is useful where it is wanted and a risk where it is not: a head can act on it unseen.

Legend: U users with a known value, E width of inputs, C values of a field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from behavior_model.heads.scorers import signed_log
from behavior_model.metrics import macro_auc

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

MIN_USERS: Final = 30
"""Users of a value below which it is left out."""
NUM_FOLDS: Final = 5
NUM_REPEATS: Final = 3
PENALTIES: Final = tuple(10.0**power for power in range(1, 6))
_TREES: Final = {
    "objective": "multiclass", "learning_rate": 0.05, "num_leaves": 7, "min_data_in_leaf": 20,
    "feature_fraction": 0.3, "lambda_l2": 10.0, "max_bin": 63, "num_threads": 1,
    "deterministic": True, "force_row_wise": True, "verbosity": -1,
}  # fmt: skip
NUM_TREES: Final = 60

EMBEDDING: Final = "embedding"
FEATURES: Final = "hand-made features"
BOOSTED: Final = "hand-made features, boosted trees"
BOTH: Final = "both"
SHUFFLED: Final = "embedding, values shuffled"


@dataclass(frozen=True, kw_only=True)
class Guess:
    """How well a profile field can be guessed.

    Args:
        field: The profile field.
        num_users: U.
        values: C values with at least `MIN_USERS` users each.
        aucs: Per input the mean over repeats of the macro one-against-the-rest AUC; .5 is chance.
        deviations: Per input the standard deviation over repeats.
    """

    field: str
    num_users: int
    values: Sequence[str]
    aucs: Mapping[str, float]
    deviations: Mapping[str, float]


def usable(values: Sequence[str | None]) -> tuple[Longs, list[str]]:
    """int64[all users]: position of each user's value among the usable ones, -1 without one.

    A value is usable with `MIN_USERS` users, a field with two usable values; else nothing is.
    """
    known = sorted({value for value in values if value is not None})
    counts = {name: sum(value == name for value in values) for name in known}
    kept = [name for name in known if counts[name] >= MIN_USERS]
    if len(kept) < 2:
        return np.full(len(values), -1, dtype=np.int64), []
    position = {name: i for i, name in enumerate(kept)}
    codes = [-1 if value is None else position.get(value, -1) for value in values]
    return np.asarray(codes, dtype=np.int64), kept


def guess(
    field: str, values: Sequence[str | None], embedding: Doubles, features: Doubles, *, seed: int
) -> Guess | None:
    """How well a field can be guessed, out of fold; None where it has no two usable values.

    Five folds over users, three repeats with other folds; ridge classifiers whose penalty is chosen
    inside the training folds, and LightGBM for the hand-made features.

    Args:
        field: Its name.
        values: Per user, None where unknown.
        embedding: float64[all users, E].
        features: float64[all users, F], NaN where missing.
        seed: Seed of folds, trees and the shuffled control.
    """
    codes, kept = usable(values)
    chosen = codes >= 0
    if not kept:
        return None
    labels = codes[chosen]
    states, plain = embedding[chosen], np.nan_to_num(signed_log(features[chosen]))
    shuffled = np.random.default_rng(seed).permutation(labels)
    runs: dict[str, list[float]] = {}
    for repeat in range(NUM_REPEATS):
        own = seed * NUM_REPEATS + repeat  # no other seed's repeat has it
        folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=own)
        tasks = {
            EMBEDDING: _linear(states, labels, folds),
            FEATURES: _linear(plain, labels, folds),
            BOOSTED: _boosted(features[chosen], labels, folds, own),
            BOTH: _linear(np.concatenate([states, plain], axis=1), labels, folds),
        }
        for name, scores in tasks.items():
            runs.setdefault(name, []).append(_one_against_rest(labels, scores))
        control = _linear(states, shuffled, folds)
        runs.setdefault(SHUFFLED, []).append(_one_against_rest(shuffled, control))
    return Guess(
        field=field,
        num_users=len(labels),
        values=kept,
        aucs={name: float(np.mean(found)) for name, found in runs.items()},
        deviations={name: float(np.std(found, ddof=1)) for name, found in runs.items()},
    )


def _one_against_rest(labels: Longs, scores: Doubles) -> float:
    """Mean over values of the AUC of one value against the rest (int64[U], float64[U, C])."""
    return macro_auc(labels[:, None] == np.arange(scores.shape[1]), scores)


def _linear(inputs: Doubles, labels: Longs, folds: StratifiedKFold) -> Doubles:
    """float64[U, C], each row from models that have not seen the user."""
    scores = np.zeros((len(labels), int(labels.max()) + 1))
    for train, test in folds.split(inputs, labels):
        model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=PENALTIES))
        model.fit(inputs[train], labels[train])
        found = model.decision_function(inputs[test])
        scores[test] = np.stack([-found, found], axis=1) if found.ndim == 1 else found
    return scores


def _boosted(inputs: Doubles, labels: Longs, folds: StratifiedKFold, seed: int) -> Doubles:
    num_values = int(labels.max()) + 1
    settings = {**_TREES, "num_class": num_values, "seed": seed}
    scores = np.zeros((len(labels), num_values))
    for train, test in folds.split(inputs, labels):
        trees = lgb.train(settings, lgb.Dataset(inputs[train], labels[train]), NUM_TREES)
        scores[test] = trees.predict(inputs[test], num_threads=1)
    return scores
