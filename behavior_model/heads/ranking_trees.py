"""Boosted trees over pair features: the chance that a candidate is bought in the window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from behavior_model.heads.pair_features import FeatureTable
from pipelines.errors import BundleError
from pipelines.workspace import write_bytes_atomically

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NUM_TREES: Final = 200
SEEDS: Final = (0, 1, 2)
_TREES: Final[dict[str, Any]] = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "max_bin": 63,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
_SMALLEST_LEAF: Final = 5


@dataclass(frozen=True, eq=False)
class RankingTrees:
    """An average of boosted trees (LightGBM, Ke et al., 2017) that differ in their seed alone.

    Args:
        names: Names of the features, in the order of the trees' inputs.
        members: One booster per seed.
    """

    names: tuple[str, ...]
    members: tuple[lgb.Booster, ...]

    @classmethod
    def fit(
        cls,
        tables: Sequence[FeatureTable],
        bought: Sequence[Bools],
        names: Sequence[str],
        *,
        seeds: Sequence[int] = SEEDS,
        num_trees: int = NUM_TREES,
    ) -> RankingTrees:
        """Fit on candidates of several prediction times.

        Args:
            tables: Candidates and features per prediction time.
            bought: bool[P] per table.
            names: The features to use.
            seeds: One member each.
            num_trees: Trees per member.
        """
        inputs = np.concatenate([_inputs(table, names) for table in tables])
        labels = np.concatenate(bought).astype(np.int8)
        leaf = min(_TREES["min_data_in_leaf"], max(len(labels) // 100, _SMALLEST_LEAF))
        parameters = {**_TREES, "min_data_in_leaf": leaf}
        data = lgb.Dataset(inputs, labels, params=parameters, free_raw_data=False)
        members = tuple(lgb.train({**parameters, "seed": seed}, data, num_trees) for seed in seeds)
        return cls(tuple(names), members)

    def logits(self, table: FeatureTable) -> Doubles:
        """float64[P]: mean raw score of the members."""
        inputs = _inputs(table, self.names)
        if len(inputs) == 0:
            return np.zeros(0)
        raw = [one.predict(inputs, raw_score=True, num_threads=1) for one in self.members]
        return np.asarray(np.mean(raw, axis=0), dtype=np.float64)

    def contributions(self, table: FeatureTable) -> Doubles:
        """float64[P, F + 1]: what each feature adds to a logit, the constant last; rows sum to it.

        Exact Shapley values of trees (Lundberg et al., arXiv 1802.03888), the mean of the members.
        """
        inputs = _inputs(table, self.names)
        parts = [one.predict(inputs, pred_contrib=True, num_threads=1) for one in self.members]
        return np.asarray(np.mean(parts, axis=0), dtype=np.float64)

    def by_member(self) -> list[RankingTrees]:
        """Each seed's trees alone."""
        return [RankingTrees(self.names, (member,)) for member in self.members]

    def save(self, folder: Path) -> None:
        """Write each member as LightGBM's text."""
        for number, member in enumerate(self.members):
            text = member.model_to_string(num_iteration=-1)
            write_bytes_atomically(_member_path(folder, number), text.encode())

    @classmethod
    def load(cls, folder: Path, names: Sequence[str], num_members: int) -> RankingTrees:
        """Read what `save` wrote.

        Raises:
            BundleError: a member is missing.
        """
        members = []
        for number in range(num_members):
            path = _member_path(folder, number)
            if not path.is_file():
                raise BundleError(f"{path}: trees are missing. Make them with: bfm heads")
            members.append(lgb.Booster(model_str=path.read_text(encoding="utf-8")))
        return cls(tuple(names), tuple(members))


def seeds_of(seed: int) -> list[int]:
    """A seed for each member; runs of different seeds have none in common."""
    return [seed * len(SEEDS) + member for member in SEEDS]


def _inputs(table: FeatureTable, names: Sequence[str]) -> npt.NDArray[np.float32]:
    return table.values[:, [table.names.index(name) for name in names]]


def _member_path(folder: Path, number: int) -> Path:
    return folder / f"trees_{number}.txt"
