"""The chance that a customer buys from each of the largest categories in the window ahead.

One model answers for all of these categories: boosted trees over what the memories say of a user
and a category, beside what the user does altogether, mixed with the transformer's opinion and
calibrated. Unlike a ranking, its answers compare between users: they pick an audience.

Legend: U users, T categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from behavior_model.context import ModelContext
from behavior_model.embedding import UserStates
from behavior_model.heads.calibration import Calibration
from behavior_model.heads.documents import read_document
from behavior_model.heads.pair_features import FeatureTable, Memories, pair_features
from behavior_model.heads.ranking_trees import RankingTrees
from behavior_model.heads.recommendation import transformer_scores
from behavior_model.heads.user_inputs import log_odds
from behavior_model.memory.collective import CollectiveMemory
from behavior_model.memory.purchases import Level, Longs, Purchases, read_purchases
from behavior_model.user_features import feature_matrix, user_features
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import write_json_atomically

Doubles = npt.NDArray[np.float64]

SCHEMA_VERSION: Final = 2
LEVEL: Final = Level.CATEGORY
INACTIVE: Final = "transformer/inactive"
TRANSFORMER_INPUTS: Final = ("transformer/logit", INACTIVE)
_JSON: Final = "propensity.json"
_TENSORS: Final = "propensity.safetensors"
_TREES: Final = "trees"


@dataclass(frozen=True, eq=False)
class Propensities:
    """Chances of U users to buy from T categories in the window ahead.

    Args:
        categories: T names.
        scores: float64[U, T], calibrated.
        lowers: float64[U, T], see `heads.calibration.calibrate_rate` for what the interval covers;
            users of the one window that is learned from are drawn, so that what differs between
            months is not in it.
        uppers: float64[U, T].
    """

    categories: list[str]
    scores: Doubles
    lowers: Doubles
    uppers: Doubles


@dataclass(frozen=True, kw_only=True, eq=False)
class PropensityHead:
    """Chances per user and category.

    Args:
        vocabulary: The vocabulary that histories are encoded with.
        memories: Fitted before the test cut.
        targets: int64[T], ascending, positions in `Vocabulary.categories`.
        trees: Over memories and user features; None where no window was left to learn from.
        mixture: float64[1 + trees + TRANSFORMER_INPUTS], a constant and the inputs' weights.
        calibration: From the mixture to a chance and its interval.
    """

    vocabulary: Vocabulary
    memories: Memories
    targets: Longs
    trees: RankingTrees | None
    mixture: Doubles
    calibration: Calibration

    @classmethod
    def fit(cls, context: ModelContext, *, seed: int = 0) -> PropensityHead:
        """Fit on windows that end at or before the test cut."""
        from behavior_model.heads.propensity_fitting import fit

        return fit(context, seed=seed)

    def predict(
        self, histories: Histories, states: UserStates, prediction_times_us: int | Longs
    ) -> Propensities:
        """Chances of U users, each independent of the others.

        Args:
            histories: U users, events before the prediction time only.
            states: The backbone's states of the same users at that time.
            prediction_times_us: One time for all, or int64[U]; UTC microseconds.
        """
        purchases = read_purchases(histories, self.vocabulary, LEVEL, prediction_times_us)
        times = np.broadcast_to(np.asarray(prediction_times_us, dtype=np.int64), len(histories))
        features = user_features(self.vocabulary, histories, times)
        table = propensity_table(purchases, self.memories, self.targets, features, states)
        found = self.calibration.apply(mix(self.mixture, inputs_of(table, self.trees)))
        categories = [self.vocabulary.categories[target] for target in self.targets]
        shape = (len(histories), len(categories))
        return Propensities(categories, *(values.reshape(shape) for values in found))

    def save(self, folder: Path) -> None:
        """Write safetensors, LightGBM's text and, last, JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self.memories.collective.save(folder)
        if self.trees is not None:
            self.trees.save(folder / _TREES)
        tensors = {
            "targets": self.targets,
            "mixture": self.mixture,
            **self.calibration.to_tensors(),
        }
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / _TENSORS)
        trees = self.trees
        document = {
            "schema_version": SCHEMA_VERSION,
            "vocabulary_id": self.vocabulary.vocabulary_id,
            "trees": trees and {"names": list(trees.names), "members": len(trees.members)},
        }
        write_json_atomically(folder / _JSON, document)

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> PropensityHead:
        """Read what `save` wrote.

        Raises:
            BundleError: nothing here, a part is missing, or it is of another schema version.
            VocabularyMismatchError: fitted with another vocabulary.
        """
        raw = read_document(folder, _JSON, SCHEMA_VERSION, vocabulary, _TENSORS)
        tensors = load_file(folder / _TENSORS)
        trees = raw["trees"] and RankingTrees.load(
            folder / _TREES, raw["trees"]["names"], raw["trees"]["members"]
        )
        return cls(
            vocabulary=vocabulary,
            memories=Memories(CollectiveMemory.load(folder), LEVEL.groups_of(vocabulary), None),
            targets=tensors["targets"],
            trees=trees,
            mixture=tensors["mixture"],
            calibration=Calibration.from_tensors(tensors),
        )


def propensity_table(
    purchases: Purchases,
    memories: Memories,
    targets: Longs,
    features: dict[str, Doubles],
    states: UserStates,
) -> FeatureTable:
    """All U * T pairs by user and category, with everything that is known of them.

    Args:
        purchases: U users at their prediction times.
        memories: Fitted memories.
        targets: int64[T], ascending.
        features: Hand-made features of the users, float64[U] each.
        states: The backbone's states of the users.
    """
    scores = transformer_scores(LEVEL, states, None)
    table = pair_features(purchases, memories, scores, targets=targets)
    inactive = log_odds(states.inactive.astype(np.float64))
    names = [*(f"user/{name}" for name in features), INACTIVE]
    values = np.concatenate([feature_matrix(features), inactive[:, None]], axis=1)
    return table.with_users(names, values.astype(np.float32))


def inputs_of(table: FeatureTable, trees: RankingTrees | None) -> Doubles:
    """float64[P, M]: what the mixture weighs."""
    columns = [table.column(name).astype(np.float64) for name in TRANSFORMER_INPUTS]
    if trees is not None:
        columns.insert(0, trees.logits(table))
    return np.nan_to_num(np.stack(columns, axis=1))


def mix(weights: Doubles, inputs: Doubles) -> Doubles:
    """float64[P]: a constant and the weighted inputs, row by row."""
    return np.asarray(weights[0] + np.einsum("ij,j->i", inputs, weights[1:]), dtype=np.float64)
