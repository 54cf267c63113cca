"""What a query might mean: candidates with features, how well they fit its words, and the second
look at them for a user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.embedding import UserStates
from behavior_model.heads.pair_features import pair_features
from behavior_model.heads.recommendation import RecommendationHead, transformer_scores
from behavior_model.memory.purchases import Level, read_purchases
from pipelines.tokens.history import Histories

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

FEATURES: Final = (
    "words",
    "spelling",
    "details",
    "meaning",
    "popularity",
    "own",
    "own_recent",
    "owned_match",
    "owned_popularity",
    "taken",
    "category_taken",
    "backbone",
)
MATCHING: Final = ("words", "spelling", "details", "meaning", "taken", "category_taken")
"""What says how well a product fits a query, whoever asks and however much it is bought."""
RECOMMENDED: Final = "recommended"
PERSONAL_FEATURES: Final = (*FEATURES, RECOMMENDED)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What one query might mean.

    Args:
        item_idx: int64[C].
        features: float32[C, len(FEATURES)], or one more after a second look.
    """

    item_idx: Longs
    features: Floats

    def best(self, weights: npt.NDArray[np.float64], count: int) -> Candidates:
        """The best so many, best first; of equals the one bought more in training first."""
        values = self.features.astype(np.float64) @ weights
        rows = np.argsort(-values, kind="stable")[:count]
        return Candidates(self.item_idx[rows], self.features[rows])


@dataclass(frozen=True, eq=False)
class PersonalSearch:
    """The second look: what was asked for, and what the user is likely to buy.

    Args:
        ranker: Ranks items for users.
        weights: float64[len(PERSONAL_FEATURES)].
    """

    ranker: RecommendationHead
    weights: npt.NDArray[np.float64]

    def refine(
        self,
        found: Candidates,
        histories: Histories,
        user: int,
        prediction_time_us: int,
        states: UserStates | None,
    ) -> Candidates:
        """Candidates with PERSONAL_FEATURES.

        Args:
            found: Candidates with FEATURES.
            histories: U users.
            user: Position of the one who asks.
            prediction_time_us: UTC microseconds.
            states: The backbone's states of the U users, if it is listened to.
        """
        ranker, one = self.ranker, histories.select([user])
        past = read_purchases(one, ranker.vocabulary, Level.ITEM, prediction_time_us)
        opinion = transformer_scores(Level.ITEM, states, ranker.items)
        if opinion is not None:
            opinion = opinion.users_between(user, user + 1)
        order = np.argsort(found.item_idx)
        targets = found.item_idx[order]
        table = pair_features(past, ranker.memories, opinion, targets=targets)
        scores = np.zeros(len(order), dtype=np.float32)
        scores[order] = ranker.mixture.score(table)
        return Candidates(found.item_idx, np.column_stack([found.features, scores]))


def rank(candidates: Candidates, weights: npt.NDArray[np.float64], k: int) -> tuple[Longs, Floats]:
    """The best k candidates, best first; of equals the one bought more in training stands first."""
    best = candidates.best(weights, k)
    return best.item_idx, (best.features.astype(np.float64) @ weights).astype(np.float32)


def match(candidates: Candidates, weights: npt.NDArray[np.float64]) -> float:
    """How well the candidate that fits the words best fits them; without candidates not at all.

    What fits better never counts less, although of few queries weights below 0 may be learned.

    Args:
        candidates: After one look or two.
        weights: float64[len(FEATURES)].
    """
    if not len(candidates.item_idx):
        return -np.inf
    columns = [FEATURES.index(name) for name in MATCHING]
    fits = np.maximum(weights[columns], 0.0)
    return float((candidates.features[:, columns].astype(np.float64) @ fits).max())
