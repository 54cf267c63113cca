"""Which items are like an item or a text: as behaviour sees it, or as their texts tell.

Legend: Q things asked about, N item indices, R known items (bought often enough to say something),
D width of item embeddings, F taste factors, T width of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from behavior_model.embedding import text_embeddings
from behavior_model.item_index import ItemIndex
from behavior_model.items import ItemContent
from behavior_model.largest import largest_columns
from behavior_model.memory.collective import CollectiveMemory
from behavior_model.model.backbone import Backbone
from behavior_model.text_encoder import TextEncoder
from behavior_model.unit_rows import unit_rows
from pipelines.errors import UnknownNameError

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
Likeness = Literal["behavior", "content"]

TOGETHER_WEIGHT: Final = 0.15
SPACE_WEIGHT: Final = 0.25
"""Beside taste, which has 1."""
NUM_NEAREST: Final = 10


@dataclass(frozen=True, eq=False)
class BehaviourLikeness:
    """Items that the same people take, together, and in the same place of the backbone's space.

    Each of the three is counted in its own standard deviations over the known items. The weights
    were chosen on two windows before the demo's test cut (docs/ablations.md). An item that is not
    known, or a text, stands where its nearest known items do, and its place in the space, which is
    all that is known of it, counts in full.

    Args:
        memory: Collective memory of items.
        embeddings: float32[R, D] of length 1, the backbone's, of the known items.
    """

    memory: CollectiveMemory
    embeddings: Floats

    def to_embeddings(
        self, embeddings: Floats, item_idx: Longs, count: int
    ) -> tuple[Longs, Floats]:
        """The likest known items, best first; an item is not like itself.

        Args:
            embeddings: float32[Q, D] of length 1.
            item_idx: int64[Q], item indices; -1 for a text.
            count: Length of the lists, R at most.

        Returns:
            int64[Q, count] item indices and float32[Q, count], comparable within a list.
        """
        scores = self._scores(embeddings, item_idx)
        best, values = _best(scores, min(count, scores.shape[1]))
        return self.memory.known[best], values

    def _scores(self, embeddings: Floats, item_idx: Longs) -> Floats:
        """float32[Q, R], -inf for an item itself."""
        space = np.asarray(embeddings @ self.embeddings.T, dtype=np.float32)
        position = np.where(item_idx >= 0, self.memory.position[item_idx], -1)
        stands = _stands_at(space, position)
        tastes = unit_rows(np.asarray(stands @ self._tastes)) @ self._tastes.T
        together = np.asarray((stands @ self.memory.neighbours.accompany).todense())
        own = self.memory.known == item_idx[:, None]
        mixed = _spread(tastes, own) + TOGETHER_WEIGHT * _spread(together, own)
        mixed += np.where(position >= 0, SPACE_WEIGHT, 1.0)[:, None] * _spread(space, own)
        return np.where(own, -np.inf, mixed).astype(np.float32)

    @cached_property
    def _tastes(self) -> Floats:
        return unit_rows(self.memory.factors)


@dataclass(frozen=True, eq=False)
class ItemLikeness:
    """Nearest items by behaviour or by texts.

    Args:
        backbone: In evaluation mode.
        content: Of all items.
        index: The backbone's space of items.
        encoder: The text encoder that made the content.
        memory: Collective memory of items; None: the backbone's space alone.
    """

    backbone: Backbone
    content: ItemContent
    index: ItemIndex
    encoder: TextEncoder
    memory: CollectiveMemory | None

    def to_items(self, item_idx: Longs, count: int, by: Likeness) -> tuple[Longs, Floats]:
        """Nearest items, best first; the item itself may be among them.

        Returns:
            int64[Q, count], item indices, and float32[Q, count], their likeness. By behaviour
            there may be fewer columns: items that hardly anybody took are like nothing.

        Raises:
            UnknownNameError: no item has a text to be likened by.
        """
        if by == "behavior":
            return self._by_behaviour(self.index.embeddings(item_idx), item_idx, count)
        return self._nearest_texts(self._unit_texts[item_idx], count)

    def to_texts(self, texts: Sequence[str], count: int, by: Likeness) -> tuple[Longs, Floats]:
        """The same for Q texts."""
        encoded = self.content.encode_texts(self.encoder, list(texts))
        if by == "behavior":
            embeddings = text_embeddings(self.backbone, encoded)
            return self._by_behaviour(embeddings, np.full(len(texts), -1), count)
        return self._nearest_texts(unit_rows(encoded), count)

    def _by_behaviour(
        self, embeddings: Floats, item_idx: Longs, count: int
    ) -> tuple[Longs, Floats]:
        if self._behaviour is None:
            return self.index.nearest(embeddings, count)
        return self._behaviour.to_embeddings(embeddings, item_idx, count)

    @cached_property
    def _behaviour(self) -> BehaviourLikeness | None:
        if self.memory is None or len(self.memory.known) == 0:
            return None
        return BehaviourLikeness(self.memory, self.index.embeddings(self.memory.known))

    @cached_property
    def _unit_texts(self) -> Floats:
        """float32[N, T]; rows of items without a text are zero."""
        return unit_rows(self.content.text)

    def _nearest_texts(self, queries: Floats, count: int) -> tuple[Longs, Floats]:
        if not self._unit_texts.any():
            raise UnknownNameError("likeness", "content", ("behavior",))
        return _best(queries @ self._unit_texts.T, count)


def _stands_at(space: Floats, position: Longs) -> sparse.csr_matrix:
    """float32[Q, R], rows summing to one: the item itself, or its nearest known items alike.

    Args:
        space: float32[Q, R], products in the backbone's space.
        position: int64[Q], of the item among the known ones; -1 where it is none of them.
    """
    nearest = largest_columns(space, min(NUM_NEAREST, space.shape[1]))
    places = [
        near if place < 0 else np.asarray([place])
        for near, place in zip(nearest, position.tolist(), strict=True)
    ]
    rows = np.repeat(np.arange(len(places)), [len(one) for one in places])
    weights = np.concatenate([np.full(len(one), 1 / len(one)) for one in places])
    columns = np.concatenate(places)
    return sparse.csr_matrix((weights, (rows, columns)), shape=space.shape, dtype=np.float32)


def _best(scores: Floats, count: int) -> tuple[Longs, Floats]:
    """int64[Q, count] columns of the largest scores of each row, best first, and the scores."""
    best = largest_columns(scores, count)
    return best, np.take_along_axis(scores, best, axis=1)


def _spread(scores: Floats, own: npt.NDArray[np.bool_]) -> Floats:
    """Each row in standard deviations from its mean, without the item itself."""
    others = np.ma.masked_array(scores, own)
    deviation = np.maximum(others.std(axis=1, keepdims=True), 1e-6)
    return np.asarray((scores - others.mean(axis=1, keepdims=True)) / deviation)
