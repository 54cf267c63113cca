"""Search: words to products, ranked by text, meaning and behaviour; personal when a user is given.

Candidates come from the lexical index (words, misspellings), from texts of like meaning, from what
others took after words like these, and from what the user bought and matches. A conditional logit
mixes their scores by a few weights that are learned on the validation window. For a user with a
history the best of them are looked at again, with what the ranking of products says of this user
and each. How well the best candidate matches, held against queries of the validation window, tells
when a query is unlike anything that is sold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.feather
from safetensors.numpy import load_file, save_file

from behavior_model.embedding import UserStates
from behavior_model.heads.documents import read_document
from behavior_model.heads.item_counts import OwnCounts, own_counts
from behavior_model.heads.lexical_index import ItemTexts, LexicalIndex
from behavior_model.heads.recommendation import RecommendationHead
from behavior_model.heads.search_candidates import (
    FEATURES,
    Candidates,
    PersonalSearch,
    match,
    rank,
)
from behavior_model.items import ItemContent
from behavior_model.memory.queries import QueryMemory
from behavior_model.text_encoder import TextEncoder
from behavior_model.unit_rows import unit_rows
from pipelines.errors import BundleError
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import write_json_atomically

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

NUM_REFINED: Final = 200
"""Candidates that are looked at again for a user."""
NUM_LIKE_TEXTS: Final = 10
MAX_ITEMS_PER_TEXT: Final = 50
"""Candidates that share meaning but no word: the most bought items of the likest texts."""
NUM_CATEGORIES_TAKEN: Final = 2
MAX_ITEMS_PER_CATEGORY: Final = 50
"""Candidates of the categories that are taken from after words like these: the most bought."""
SHARE_UNIT: Final = 0.01
"""Shares are told apart from here on, by their logarithm."""
SCHEMA_VERSION: Final = 3
_JSON: Final = "search.json"
_TENSORS: Final = "search.safetensors"
_TEXTS: Final = "search_texts.arrow"
_QUERIES: Final = "search_queries.arrow"
_PERSONAL: Final = "personal_weights"
_TEXT_SCHEMA: Final = pa.schema([("name", pa.string()), ("details", pa.string())])


@dataclass(frozen=True, eq=False)
class SearchHead:
    """A fitted search head.

    Args:
        vocabulary: What item indices mean.
        index: Full-text index over all items.
        content: Content of all items, for likeness of meaning.
        encoder: The text encoder that made the content.
        popularity: float32[num_item_indices], log(1 + decayed purchases).
        queries: What was typed, and taken then.
        weights: float64[len(FEATURES)].
        matches: float64[M], ascending quantiles of `match` over queries of the validation window.
        item_embeddings: float32[num_item_indices, D + 1], the backbone's, or None without one.
        personal: The second look for users with a history; None where it does not help.
    """

    vocabulary: Vocabulary
    index: LexicalIndex
    content: ItemContent
    encoder: TextEncoder
    popularity: Floats
    queries: QueryMemory
    weights: npt.NDArray[np.float64]
    matches: npt.NDArray[np.float64]
    item_embeddings: Floats | None = None
    personal: PersonalSearch | None = None

    def predict(
        self,
        queries: Sequence[str],
        k: int,
        *,
        histories: Histories | None = None,
        prediction_times_us: int | Longs | None = None,
        states: UserStates | None = None,
    ) -> tuple[Longs, Floats, npt.NDArray[np.float64]]:
        """The best products per query, best first.

        Args:
            queries: Q texts.
            k: Length of the lists.
            histories: Q users, one per query, events before the prediction time; None when unknown.
            prediction_times_us: One time for all, or int64[Q]; needed with histories.
            states: The backbone's states of the same users; optional.

        Returns:
            int64[Q, k] item indices (-1 fills short lists), float32[Q, k] scores, and float64[Q]
            familiarities: the share of usual queries that match at most as well; 0 is unlike all.
        """
        ranked = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        familiarities = np.zeros(len(queries))
        meanings = self.encode(queries)
        for row, query in enumerate(queries):
            if histories is None or prediction_times_us is None:
                found, weights = self.candidates(query, meanings[row], None), self.weights
            else:
                time = _time(prediction_times_us, row)
                found, weights = self._personal(
                    query, meanings[row], histories, row, time, states, k
                )
            best, values = rank(found, weights, k)
            ranked[row, : len(best)] = best
            scores[row, : len(best)] = values
            familiarities[row] = self._familiarity(found)
        return ranked, scores, familiarities

    def _familiarity(self, found: Candidates) -> float:
        levels = np.linspace(0.0, 1.0, len(self.matches))
        return float(np.interp(match(found, self.weights), self.matches, levels))

    def _personal(
        self,
        query: str,
        meaning: Floats,
        histories: Histories,
        user: int,
        time: int,
        states: UserStates | None,
        k: int,
    ) -> tuple[Candidates, npt.NDArray[np.float64]]:
        """Candidates for a user, at least k if there are, and the weights that rank them."""
        own = own_counts(self.vocabulary, histories, user, time)
        item_query = None if states is None else states.item_query[user]
        found = self.candidates(query, meaning, own, item_query)
        if self.personal is None or not len(own.item_idx):
            return found, self.weights
        best = found.best(self.weights, max(NUM_REFINED, k))
        return self.personal.refine(best, histories, user, time, states), self.personal.weights

    def encode(self, queries: Sequence[str]) -> Floats:
        """float32[Q, T1]: unit embeddings of queries in the space of the item texts."""
        width = self.content.descriptors.shape[1]
        rows = self.content.encode_texts(self.encoder, list(queries), is_query=True)[:, :width]
        return unit_rows(rows)

    def candidates(
        self, query: str, meaning: Floats, own: OwnCounts | None, item_query: Floats | None = None
    ) -> Candidates:
        """Candidates of a query with their features.

        Args:
            query: What was typed.
            meaning: float32[T1], its unit embedding.
            own: What the user did, or None.
            item_query: float32[D + 1], where the backbone sees the user go, or None.
        """
        hits = self.index.search(query, () if own is None else own.item_idx.tolist())
        likeness = self._unit_descriptors @ meaning
        taken = self.queries.taken(query)
        category_of = self.vocabulary.category_by_item_idx
        categories, category_shares = taken.by_category(category_of, NUM_CATEGORIES_TAKEN)
        item_idx = np.unique(
            np.concatenate(
                [
                    hits.item_idx,
                    self._like(likeness),
                    taken.item_idx,
                    *(self._items_of_category[category] for category in categories.tolist()),
                ]
            )
        )
        features = np.zeros((len(item_idx), len(FEATURES)), dtype=np.float32)
        at = np.searchsorted(item_idx, hits.item_idx)
        features[at, 0] = hits.word_scores
        features[at, 1] = hits.gram_scores
        features[at, 2] = hits.detail_scores
        features[:, 3] = likeness[self.content.descriptor_idx[item_idx]]
        features[:, 4] = self.popularity[item_idx]
        if own is not None:
            features[:, 5] = own.lookup(item_idx, own.totals)
            features[:, 6] = own.lookup(item_idx, own.decayed)
            owned = features[:, 5] > 0
            features[:, 7] = owned * features[:, 0]
            features[:, 8] = owned * features[:, 4]
        features[np.searchsorted(item_idx, taken.item_idx), 9] = _log_share(taken.shares)
        for category, share in zip(categories, category_shares, strict=True):
            features[category_of[item_idx] == category, 10] = _log_share(share)
        if item_query is not None and self.item_embeddings is not None:
            features[:, 11] = self.item_embeddings[item_idx] @ item_query
        return Candidates(item_idx, features)

    def _like(self, likeness: Floats) -> Longs:
        count = min(NUM_LIKE_TEXTS, len(likeness))
        best = np.argpartition(-likeness, count - 1)[:count]
        return np.concatenate([self._items_of_text[text] for text in best.tolist()])

    def warm(self) -> None:
        """Make now what the first query would otherwise wait for."""
        self.index.warm()
        self.queries.warm()
        _ = self._unit_descriptors, self._items_of_text, self._items_of_category

    @cached_property
    def _unit_descriptors(self) -> Floats:
        return unit_rows(self.content.descriptors)

    @cached_property
    def _items_of_text(self) -> list[Longs]:
        """Per distinct text its items, the most bought first, at most MAX_ITEMS_PER_TEXT."""
        order = np.argsort(self.content.descriptor_idx[FIRST_IDX:], kind="stable") + FIRST_IDX
        texts = np.arange(1, len(self.content.descriptors))
        ends = np.searchsorted(self.content.descriptor_idx[order], texts)
        return [items[:MAX_ITEMS_PER_TEXT] for items in np.split(order, ends)]

    @cached_property
    def _items_of_category(self) -> list[Longs]:
        """Per category its items, the most bought first, at most MAX_ITEMS_PER_CATEGORY."""
        category_of = self.vocabulary.category_by_item_idx
        order = np.argsort(category_of, kind="stable")
        starts = np.searchsorted(category_of[order], np.arange(len(self.vocabulary.categories) + 1))
        return [
            order[start : min(stop, start + MAX_ITEMS_PER_CATEGORY)]
            for start, stop in pairwise(starts.tolist())
        ]

    def save(self, folder: Path) -> None:
        """Write weights, popularity, item texts and typed queries into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, npt.NDArray[Any]] = {
            "weights": self.weights,
            "matches": self.matches,
            "popularity": self.popularity,
        }
        if self.personal is not None:
            arrays[_PERSONAL] = self.personal.weights
        save_file(arrays, folder / _TENSORS)
        texts = self.index.texts
        table = pa.table({"name": texts.names, "details": texts.details}, schema=_TEXT_SCHEMA)
        pa.feather.write_feather(table, folder / _TEXTS, compression="zstd")
        pa.feather.write_feather(self.queries.to_arrow(), folder / _QUERIES, compression="zstd")
        facts = {
            "features": list(FEATURES),
            "schema_version": SCHEMA_VERSION,
            "vocabulary_id": self.vocabulary.vocabulary_id,
            "encoder": self.encoder.name,
        }
        write_json_atomically(folder / _JSON, facts)

    @classmethod
    def load(
        cls,
        folder: Path,
        vocabulary: Vocabulary,
        content: ItemContent,
        encoder: TextEncoder,
        item_embeddings: Floats | None = None,
        ranker: RecommendationHead | None = None,
    ) -> SearchHead:
        """Read what `save` wrote; the full-text index is made from its texts by `warm`, or at
        the first query.

        Raises:
            BundleError: a file is missing, of another schema version, or the features differ.
            VocabularyMismatchError: the head was fitted with another vocabulary.
        """
        facts = read_document(folder, _JSON, SCHEMA_VERSION, vocabulary, _TENSORS, _TEXTS, _QUERIES)
        if tuple(facts["features"]) != FEATURES:
            raise BundleError(
                f"{folder / _JSON}: features {facts['features']} came, {list(FEATURES)} are read. "
                "Make it again with: bfm heads --workspace DIR"
            )
        tensors = load_file(folder / _TENSORS)
        personal = None
        if ranker is not None and _PERSONAL in tensors:
            personal = PersonalSearch(ranker, tensors[_PERSONAL])
        table = pa.feather.read_table(folder / _TEXTS)
        names, details = (table.column(name).to_pylist() for name in _TEXT_SCHEMA.names)
        return cls(
            vocabulary=vocabulary,
            index=LexicalIndex(ItemTexts(names=names, details=details)),
            content=content,
            encoder=encoder,
            popularity=tensors["popularity"],
            queries=QueryMemory.from_arrow(pa.feather.read_table(folder / _QUERIES)),
            weights=tensors["weights"],
            matches=tensors["matches"],
            item_embeddings=item_embeddings,
            personal=personal,
        )


def _log_share(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.log1p(shares / SHARE_UNIT)


def _time(prediction_times_us: int | Longs, row: int) -> int:
    times = np.asarray(prediction_times_us)
    return int(times) if times.ndim == 0 else int(times[row])
