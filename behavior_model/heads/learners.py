"""The learners of one user task, averaged: a linear model and gradient-boosted trees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from behavior_model.heads.scorers import LinearScorer, Projection, Standardiser, TreeScorer
from behavior_model.heads.user_inputs import UserInputs

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Learners:
    """A linear model on all inputs and trees on statistics, readings and principal components.

    Args:
        standardiser: Of all inputs.
        projection: Of the standardised embedding.
        linear: On standardised inputs.
        trees: On components, readings and statistics.
    """

    standardiser: Standardiser
    projection: Projection
    linear: LinearScorer
    trees: TreeScorer

    @classmethod
    def fit(cls, inputs: UserInputs, targets: Doubles, *, binary: bool, seed: int) -> Learners:
        """Fit on N rows and float64[N] targets."""
        standardiser = Standardiser.fit(inputs.tame)
        tame = standardiser.apply(inputs.tame)
        projection = Projection.fit(tame[:, : inputs.embedding.shape[1]])
        trees = TreeScorer.fit(
            _for_trees(inputs, tame, projection), targets, binary=binary, seed=seed
        )
        return cls(
            standardiser=standardiser,
            projection=projection,
            linear=LinearScorer.fit(tame, targets, binary=binary),
            trees=trees,
        )

    def raw(self, inputs: UserInputs) -> Doubles:
        """float64[N]: mean log odds, or the mean predicted target."""
        tame = self.standardise(inputs)
        trees = self.trees.raw(_for_trees(inputs, tame, self.projection))
        return (self.linear.raw(tame) + trees) / 2

    def standardise(self, inputs: UserInputs) -> Doubles:
        """float64[N, E + R + F] without NaN."""
        return self.standardiser.apply(inputs.tame)

    def to_tensors(self) -> dict[str, Doubles]:
        """Named arrays for a safetensors file; the trees have their own."""
        return {
            "standardiser.mean": self.standardiser.mean,
            "standardiser.scale": self.standardiser.scale,
            "projection.components": self.projection.components,
            "linear.weights": self.linear.weights,
            "linear.bias": self.linear.bias,
        }

    @classmethod
    def from_files(cls, tensors: dict[str, npt.NDArray[np.float64]], trees: Path) -> Learners:
        """What `to_tensors` and the booster's `save_model` wrote."""
        return cls(
            standardiser=Standardiser(
                mean=tensors["standardiser.mean"], scale=tensors["standardiser.scale"]
            ),
            projection=Projection(components=tensors["projection.components"]),
            linear=LinearScorer(weights=tensors["linear.weights"], bias=tensors["linear.bias"]),
            trees=TreeScorer(booster=lgb.Booster(model_file=str(trees))),
        )


def _for_trees(inputs: UserInputs, tame: Doubles, projection: Projection) -> Doubles:
    components = projection.apply(tame[:, : inputs.embedding.shape[1]])
    return np.concatenate([components, inputs.readings, inputs.statistics], axis=1)
