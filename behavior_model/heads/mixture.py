"""The mixture: a few weights over what memories, trees and transformer say of a candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.heads.choice import fit_choice_weights
from behavior_model.heads.pair_features import FeatureTable
from behavior_model.heads.ranking_trees import RankingTrees

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TREES: Final = "trees/logit"
TRANSFORMER: Final = "transformer"
CONSTANT: Final = "constant"
MEMORY_FEATURES: Final[Mapping[str, tuple[str, ...]]] = {
    "own": (
        "own/decayed_112d", "own/decayed_28d", "own/decayed_visits_0.97", "own/visits",
        "own/periods", "own/per_visit", "own/group_decayed_share", "own/seen",
    ),
    "collective": (
        "collective/popular_28d", "collective/popular_7d", "collective/follow",
        "collective/accompany", "collective/taste", "collective/repeat_rate",
    ),
    "content": ("content/likeness", "content/kind_decayed_56d", "content/kind_days"),
    TRANSFORMER: ("transformer/log_share", "transformer/group_logit"),
}  # fmt: skip
"""Features of each memory that enter a linear mixture, by memory."""

_LOGITS: Final = (TRANSFORMER, TREES)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A linear score over named inputs, some of which may be trees.

    Args:
        weights: Weight per input; an input is a feature (counts as logarithms) or `TREES`.
        trees: Behind the input `TREES`.
    """

    weights: Mapping[str, float]
    trees: RankingTrees | None = field(default=None, repr=False)

    @classmethod
    def fit(
        cls,
        tables: Sequence[FeatureTable],
        bought: Sequence[Bools],
        inputs: Sequence[str],
        trees: RankingTrees | None = None,
    ) -> Mixture:
        """Weights under which what was bought stands out among each user's candidates.

        Args:
            tables: Candidates per prediction time, none of which the trees were fitted on.
            bought: bool[P] per table.
            inputs: Names of the inputs; those that a table lacks are left out.
            trees: Needed when `TREES` is among the inputs.
        """
        known = [n for n in inputs if n == TREES or n in tables[0].names]
        values = np.concatenate([_values(table, known, trees) for table in tables])
        offsets = _offsets(tables)
        fitted = fit_choice_weights(
            values, np.concatenate(bought), offsets, columns=range(len(known))
        )
        weights = {name: float(weight) for name, weight in zip(known, fitted, strict=True)}
        return cls(weights=weights, trees=trees)

    def score(self, table: FeatureTable) -> Doubles:
        """float64[P], comparable between candidates of one user."""
        weights = np.asarray(list(self.weights.values()))
        values = _values(table, list(self.weights), self.trees)
        return np.asarray(np.einsum("ij,j->i", values, weights), dtype=np.float64)

    def contributions(self, table: FeatureTable) -> dict[str, Doubles]:
        """float64[P] per feature of the table: what it adds to the score; with `CONSTANT` its sum.

        Trees are taken apart into their features.
        """
        found = {name: np.zeros(len(table)) for name in (*table.names, CONSTANT)}
        for name, weight in self.weights.items():
            if name != TREES:
                found[name] = found.get(name, 0.0) + weight * _value(table, name, self.trees)
            elif self.trees is not None:
                parts = weight * self.trees.contributions(table)
                for feature, values in zip((*self.trees.names, CONSTANT), parts.T, strict=True):
                    found[feature] = found[feature] + values
        return found

    def by_member(self) -> list[Mixture]:
        """The same weights with each seed's trees alone; nothing where there are no trees."""
        if self.trees is None:
            return []
        return [replace(self, trees=one) for one in self.trees.by_member()]


def _offsets(tables: Sequence[FeatureTable]) -> npt.NDArray[np.int64]:
    lengths = [np.bincount(table.users) for table in tables]
    nonempty = np.concatenate([length[length > 0] for length in lengths])
    return np.concatenate([[0], np.cumsum(nonempty)]).astype(np.int64)


def _values(
    table: FeatureTable, inputs: Sequence[str], trees: RankingTrees | None
) -> npt.NDArray[np.float64]:
    columns = [_value(table, name, trees) for name in inputs]
    return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0))


def _value(table: FeatureTable, name: str, trees: RankingTrees | None) -> Doubles:
    if name == TREES:
        if trees is None:
            raise ValueError(f"input '{TREES}' needs trees")
        return trees.logits(table)
    if name not in table.names:
        return np.zeros(len(table))
    raw = np.nan_to_num(table.column(name).astype(np.float64))
    if name.startswith(_LOGITS):
        return raw
    return np.asarray(np.sign(raw) * np.log1p(np.abs(raw)))
