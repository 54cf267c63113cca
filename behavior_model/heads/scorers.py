"""What a user task learns with: standardised inputs, a linear model, gradient-boosted trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, Ridge

Doubles = npt.NDArray[np.float64]

INVERSE_PENALTY: Final = 0.01
RIDGE_PENALTY: Final = 300.0
NUM_TREES: Final = 250
NUM_THREADS: Final = 1
"""Data this small gains nothing from a second thread and loses much when cores are shared."""
_TREES: Final[dict[str, Any]] = {
    "num_leaves": 7,
    "learning_rate": 0.03,
    "min_data_in_leaf": 50,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "feature_fraction": 0.3,
    "lambda_l2": 10.0,
    "max_bin": 63,
    "num_threads": NUM_THREADS,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


def signed_log(values: Doubles) -> Doubles:
    """sign(x) log(1 + |x|): tames the tails of counts and money."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)), dtype=np.float64)


def signed_root(values: Doubles) -> Doubles:
    """sign(x) sqrt(|x|): numbers are learned on this scale, where money and counts spread about as
    much at large values as at small ones."""
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Standardiser:
    """Zero mean and unit deviation per input; a missing value becomes the mean.

    Args:
        mean: float64[F].
        scale: float64[F], one where an input never varies.
    """

    mean: Doubles
    scale: Doubles

    @classmethod
    def fit(cls, inputs: Doubles) -> Standardiser:
        """Fit on float64[N, F], NaN where missing. An input that is never there is left at zero."""
        known = ~np.isnan(inputs)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, inputs, 0.0).sum(axis=0) / count
        square = np.where(known, (inputs - mean) ** 2, 0.0).sum(axis=0) / count
        scale = np.sqrt(square)
        return cls(mean=mean, scale=np.where(scale > 1e-9, scale, 1.0))

    def apply(self, inputs: Doubles) -> Doubles:
        """float64[N, F] without NaN."""
        return np.nan_to_num((inputs - self.mean) / self.scale)


@dataclass(frozen=True, kw_only=True)
class LinearScorer:
    """Logistic or ridge regression on standardised inputs.

    Args:
        weights: float64[F].
        bias: float64[1].
    """

    weights: Doubles
    bias: Doubles

    @classmethod
    def fit(cls, inputs: Doubles, targets: Doubles, *, binary: bool) -> LinearScorer:
        """Fit on float64[N, F] standardised inputs and float64[N] targets.

        Where only one class was ever seen, its smoothed log odds are the answer for everybody.
        """
        if binary and np.ptp(targets) == 0:
            rate = (targets.sum() + 0.5) / (len(targets) + 1.0)
            bias = np.asarray([np.log(rate / (1.0 - rate))])
            return cls(weights=np.zeros(inputs.shape[1]), bias=bias)
        model = (
            LogisticRegression(C=INVERSE_PENALTY, max_iter=1_000)
            if binary
            else Ridge(alpha=RIDGE_PENALTY)
        )
        model.fit(inputs, targets)
        return cls(weights=np.ravel(model.coef_), bias=np.atleast_1d(model.intercept_))

    def raw(self, inputs: Doubles) -> Doubles:
        """float64[N]: log odds, or the predicted target."""
        return np.asarray(inputs @ self.weights + self.bias, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class TreeScorer:
    """LightGBM (Ke et al., 2017), kept as its own text format."""

    booster: lgb.Booster

    @classmethod
    def fit(cls, inputs: Doubles, targets: Doubles, *, binary: bool, seed: int) -> TreeScorer:
        """Fit on float64[N, F] inputs, NaN where missing, and float64[N] targets."""
        settings = _TREES | {"objective": "binary" if binary else "regression", "seed": seed}
        data = lgb.Dataset(inputs, label=targets, params={"max_bin": 63, "verbosity": -1})
        return cls(booster=lgb.train(settings, data, num_boost_round=NUM_TREES))

    def raw(self, inputs: Doubles) -> Doubles:
        """float64[N]: log odds, or the predicted target."""
        raw = self.booster.predict(inputs, raw_score=True, num_threads=NUM_THREADS)
        return np.asarray(raw, dtype=np.float64)
