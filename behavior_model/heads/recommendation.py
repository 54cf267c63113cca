"""What each user buys in the window ahead, products or categories, repeats and novelties alike.

Candidates come from all memories and the transformer, boosted trees read what each says of a
candidate, and a few weights mix the trees' logit with the transformer's. The trees learn from
prediction times whose windows ended before the validation window; the weights, and whether trees
or a plain linear mixture is kept, are decided on the validation window; then the trees are fitted
once more with that window included. Memories are rebuilt from the history before every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save

from behavior_model.context import ModelContext
from behavior_model.embedding import UserStates
from behavior_model.heads.documents import read_document
from behavior_model.heads.mixture import TRANSFORMER, Mixture
from behavior_model.heads.pair_features import FeatureTable, Memories, pair_features
from behavior_model.heads.ranking_trees import RankingTrees
from behavior_model.heads.transformer_scores import CategoryScores, ItemScores, TransformerScores
from behavior_model.largest import largest_in_groups
from behavior_model.memory.collective import CollectiveMemory
from behavior_model.memory.content import ContentMemory
from behavior_model.memory.purchases import Level, Longs, Purchases, read_purchases
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import write_bytes_atomically, write_json_atomically

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SCHEMA_VERSION: Final = 1
K: Final = 10
_JSON: Final = "recommendation.json"
_ITEMS: Final = "item_embeddings.safetensors"
_TREES: Final = "trees"


@dataclass(frozen=True, eq=False)
class RankedTargets:
    """Ranked lists, flat: R rows by user, best first.

    Args:
        users: int64[R], position of the user.
        targets: int64[R], item index or position of the category.
        scores: float64[R], comparable between the rows of one user.
        ranks: int64[R], from 1.
        fallbacks: bool[U], nothing was known of the user and the answer is what is popular.
    """

    users: Longs
    targets: Longs
    scores: Doubles
    ranks: Longs
    fallbacks: Bools

    def of(self, user: int) -> tuple[Longs, Doubles]:
        """Targets and scores of the user at one position, best first."""
        rows = slice(*np.searchsorted(self.users, [user, user + 1]))
        return self.targets[rows], self.scores[rows]

    def padded(self, k: int) -> Longs:
        """int64[U, k]: targets by rank, -1 where a list is shorter."""
        lists = np.full((len(self.fallbacks), k), -1, dtype=np.int64)
        kept = self.ranks <= k
        lists[self.users[kept], self.ranks[kept] - 1] = self.targets[kept]
        return lists


@dataclass(frozen=True, kw_only=True, eq=False)
class RecommendationHead:
    """Ranks items or categories for users.

    Args:
        level: What is ranked.
        vocabulary: The vocabulary that histories are encoded with.
        memories: Collective and content memory, fitted before the test cut.
        mixture: The ranking that is served.
        alone: Linear mixture of each memory's features alone, by memory, and of all ("linear").
        items: float32[num_item_indices, D + 1], outputs of the transformer; None for categories.
        selection: NDCG@10 on the validation window of each kind of mixture, when it was chosen.
    """

    level: Level
    vocabulary: Vocabulary
    memories: Memories
    mixture: Mixture
    alone: dict[str, Mixture]
    items: Floats | None
    selection: dict[str, float]

    @classmethod
    def fit(
        cls, context: ModelContext, level: Level, *, seed: int = 0, use_transformer: bool = True
    ) -> RecommendationHead:
        """Fit on windows that end at or before the test cut.

        Args:
            context: The company's model at one test cut.
            level: What is ranked.
            seed: Seed of the trees and of the taste factors.
            use_transformer: Whether the mixture listens to the backbone.
        """
        from behavior_model.heads.recommendation_fitting import fit

        return fit(context, level, seed=seed, use_transformer=use_transformer)

    @property
    def reads_transformer(self) -> bool:
        """Whether the mixture gives the transformer a weight."""
        return TRANSFORMER in self.alone

    @property
    def num_rankable(self) -> int:
        """Targets that an answer may hold."""
        if self.level is Level.ITEM:
            return len(self.vocabulary.items)
        return len(self.vocabulary.categories)

    def candidates(
        self,
        histories: Histories,
        states: UserStates | None,
        prediction_times_us: int | Longs,
        k: int = K,
        *,
        exclude_owned: bool = False,
    ) -> tuple[Purchases, FeatureTable]:
        """What U users did, and their candidates with everything that is known of them."""
        purchases = read_purchases(histories, self.vocabulary, self.level, prediction_times_us)
        scores = transformer_scores(self.level, states, self.items)
        table = pair_features(purchases, self.memories, scores, k, exclude_owned=exclude_owned)
        return purchases, table

    def rank(
        self,
        histories: Histories,
        states: UserStates | None,
        prediction_times_us: int | Longs,
        k: int,
        *,
        exclude_owned: bool = False,
    ) -> RankedTargets:
        """The first k targets of each of U users; each user's answer depends on no other's.

        Args:
            histories: U users; a user without events gets what is popular.
            states: The backbone's states of the same users.
            prediction_times_us: One time for all or int64[U].
            k: Length of the lists.
            exclude_owned: Leave out what the user bought before.
        """
        purchases, table = self.candidates(
            histories, states, prediction_times_us, k, exclude_owned=exclude_owned
        )
        return self.rank_candidates(purchases, table, k)

    def rank_candidates(self, purchases: Purchases, table: FeatureTable, k: int) -> RankedTargets:
        """The first k of each user's candidates."""
        fallbacks = purchases.empty_users
        values = self.mixture.score(table)
        unknown = fallbacks[table.users]
        values[unknown] = _popularity(self.memories.collective, purchases, table.rows(unknown))
        return top_k(table, values, k, fallbacks)

    def save(self, folder: Path) -> None:
        """Write safetensors, LightGBM's text and, last, JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self.memories.collective.save(folder)
        if self.memories.content is not None:
            self.memories.content.save(folder)
        if self.items is not None:
            tensors = {"items": self.items.astype(np.float16)}
            write_bytes_atomically(folder / _ITEMS, save(tensors))
        trees = self.mixture.trees
        if trees is not None:
            trees.save(folder / _TREES)
        document = {
            "schema_version": SCHEMA_VERSION,
            "vocabulary_id": self.vocabulary.vocabulary_id,
            "level": self.level.value,
            "has_content": self.memories.content is not None,
            "weights": dict(self.mixture.weights),
            "trees": None
            if trees is None
            else {"names": list(trees.names), "members": len(trees.members)},
            "alone": {name: dict(mixture.weights) for name, mixture in self.alone.items()},
            "selection": self.selection,
        }
        write_json_atomically(folder / _JSON, document)

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> RecommendationHead:
        """Read what `save` wrote.

        Raises:
            BundleError: nothing here, a part is missing, or it is of another schema version.
            VocabularyMismatchError: fitted with another vocabulary.
        """
        raw = read_document(folder, _JSON, SCHEMA_VERSION, vocabulary)
        level = Level(raw["level"])
        trees = None
        if raw["trees"] is not None:
            names, members = raw["trees"]["names"], raw["trees"]["members"]
            trees = RankingTrees.load(folder / _TREES, names, members)
        items = None
        if (folder / _ITEMS).is_file():
            items = load_file(folder / _ITEMS)["items"].astype(np.float32)
        memories = Memories(
            collective=CollectiveMemory.load(folder),
            group_of_target=level.groups_of(vocabulary),
            content=ContentMemory.load(folder) if raw["has_content"] else None,
        )
        return cls(
            level=level,
            vocabulary=vocabulary,
            memories=memories,
            mixture=Mixture(weights=raw["weights"], trees=trees),
            alone={name: Mixture(weights=weights) for name, weights in raw["alone"].items()},
            items=items,
            selection=raw["selection"],
        )


def top_k(table: FeatureTable, values: Doubles, k: int, fallbacks: Bools) -> RankedTargets:
    """The k largest values of each user; ties go to the smaller target."""
    rows, places = largest_in_groups(table.users, values, table.targets, k)
    return RankedTargets(
        table.users[rows], table.targets[rows], values[rows], places + 1, fallbacks
    )


def transformer_scores(
    level: Level, states: UserStates | None, items: Floats | None
) -> TransformerScores | None:
    """What the transformer says, where it was asked; `items` are needed to rank items."""
    if states is None:
        return None
    if level is Level.CATEGORY:
        return CategoryScores(states.category_logits)
    if items is None:
        return None
    return ItemScores(states.item_query, items, states.category_logits)


def _popularity(collective: CollectiveMemory, purchases: Purchases, table: FeatureTable) -> Doubles:
    """float64[P]: 1 for the most popular target of the user's market, less for those behind."""
    markets = purchases.markets[table.users]
    lists = collective.popular[np.where(markets < len(collective.popular), markets, 0)]
    hits = lists == table.targets[:, None]
    return np.where(hits.any(axis=1), 1.0 / (1.0 + hits.argmax(axis=1)), 0.0)
