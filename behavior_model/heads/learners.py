"""The learners of one user task and the weights that mix them.

Statistics are read by a linear model and by gradient-boosted trees, the embedding with the
backbone's readings by a linear model. Trees on the embedding were tried and added nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from behavior_model.heads.scorers import LinearScorer, Standardiser, TreeScorer, signed_log
from behavior_model.heads.user_inputs import UserInputs

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MIXTURE_PENALTY: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class LinearPart:
    """A linear model behind its own standardiser."""

    standardiser: Standardiser
    linear: LinearScorer

    @classmethod
    def fit(cls, inputs: Doubles, targets: Doubles, *, binary: bool) -> LinearPart:
        """Fit on float64[N, F] and float64[N]."""
        standardiser = Standardiser.fit(inputs)
        ready = standardiser.apply(inputs)
        return cls(
            standardiser=standardiser, linear=LinearScorer.fit(ready, targets, binary=binary)
        )

    def raw(self, inputs: Doubles) -> Doubles:
        """float64[N]."""
        return self.linear.raw(self.standardiser.apply(inputs))

    def to_tensors(self, name: str) -> dict[str, Doubles]:
        """Named arrays for a safetensors file."""
        return {
            f"{name}.mean": self.standardiser.mean,
            f"{name}.scale": self.standardiser.scale,
            f"{name}.weights": self.linear.weights,
            f"{name}.bias": self.linear.bias,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Doubles], name: str) -> LinearPart | None:
        """What `to_tensors` gave, None where there is no such part."""
        if f"{name}.mean" not in tensors:
            return None
        mean, scale, weights, bias = (
            tensors[f"{name}.{part}"] for part in ("mean", "scale", "weights", "bias")
        )
        return cls(
            standardiser=Standardiser(mean=mean, scale=scale),
            linear=LinearScorer(weights=weights, bias=bias),
        )


@dataclass(frozen=True, kw_only=True)
class Learners:
    """Up to three learners; those whose inputs are not used are None.

    Args:
        statistics: Linear, on statistics on a signed log scale.
        trees: On plain statistics.
        embedding: Linear, on embedding and readings.
    """

    statistics: LinearPart | None
    trees: TreeScorer | None
    embedding: LinearPart | None

    @classmethod
    def fit(cls, inputs: UserInputs, targets: Doubles, *, binary: bool, seed: int) -> Learners:
        """Fit on N rows and float64[N] targets."""
        statistics = trees = embedding = None
        if inputs.statistics.shape[1]:
            tame = signed_log(inputs.statistics)
            statistics = LinearPart.fit(tame, targets, binary=binary)
            trees = TreeScorer.fit(inputs.statistics, targets, binary=binary, seed=seed)
        if inputs.embedding.shape[1]:
            embedding = LinearPart.fit(inputs.states, targets, binary=binary)
        return cls(statistics=statistics, trees=trees, embedding=embedding)

    def raw(self, inputs: UserInputs) -> Doubles:
        """float64[N, M]: log odds, or predicted targets, of each learner there is."""
        columns = []
        if self.statistics is not None:
            columns.append(self.statistics.raw(signed_log(inputs.statistics)))
        if self.trees is not None:
            columns.append(self.trees.raw(inputs.statistics))
        if self.embedding is not None:
            columns.append(self.embedding.raw(inputs.states))
        return np.stack(columns, axis=1)

    def standardise(self, inputs: UserInputs) -> Doubles:
        """float64[N, F]: all inputs that are used, without NaN."""
        columns = []
        if self.statistics is not None:
            columns.append(self.statistics.standardiser.apply(signed_log(inputs.statistics)))
        if self.embedding is not None:
            columns.append(self.embedding.standardiser.apply(inputs.states))
        return np.concatenate(columns, axis=1)

    def save(self, trees_path: Path) -> dict[str, Doubles]:
        """Write the trees; named arrays of the rest for a safetensors file."""
        tensors: dict[str, Doubles] = {}
        for name in ("statistics", "embedding"):
            part: LinearPart | None = getattr(self, name)
            tensors |= {} if part is None else part.to_tensors(name)
        if self.trees is not None:
            self.trees.booster.save_model(str(trees_path))
        return tensors

    @classmethod
    def load(cls, tensors: dict[str, Doubles], trees_path: Path) -> Learners:
        """What `save` wrote."""
        trees = None
        if trees_path.is_file():
            trees = TreeScorer(booster=lgb.Booster(model_file=str(trees_path)))
        return cls(
            statistics=LinearPart.from_tensors(tensors, "statistics"),
            trees=trees,
            embedding=LinearPart.from_tensors(tensors, "embedding"),
        )


def fit_mixture(raw: Doubles, targets: Doubles, *, binary: bool) -> Doubles:
    """float64[M + 1]: weights of M learners, none negative, and a constant (Breiman, 1996).

    Args:
        raw: float64[N, M], out-of-sample raw scores.
        targets: float64[N].
        binary: Log loss on log odds, else squared loss.
    """
    rows = np.column_stack([raw, np.ones(len(raw))])
    num_learners = raw.shape[1]
    prior = np.append(np.full(num_learners, 1.0 / num_learners), 0.0)

    def loss(weights: Doubles) -> tuple[float, Doubles]:
        scores = rows @ weights
        if binary:
            value = np.mean(np.logaddexp(0.0, scores) - targets * scores)
            slope = 1.0 / (1.0 + np.exp(-scores)) - targets
        else:
            value = np.mean((scores - targets) ** 2) / 2
            slope = scores - targets
        away = weights - prior
        penalised = value + MIXTURE_PENALTY * away @ away
        return float(penalised), rows.T @ slope / len(rows) + 2 * MIXTURE_PENALTY * away

    bounds = [(0.0, None)] * num_learners + [(None, None)]
    found = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x, dtype=np.float64)
