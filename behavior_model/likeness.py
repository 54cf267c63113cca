"""Which items are like an item or a text: as behaviour sees it, or as their texts tell.

Legend: Q things asked about, N item indices, D width of item embeddings, T width of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from behavior_model.embedding import text_embeddings
from behavior_model.item_index import ItemIndex
from behavior_model.items import ItemContent
from behavior_model.largest import largest_columns
from behavior_model.model.backbone import Backbone
from behavior_model.text_encoder import TextEncoder
from pipelines.errors import UnknownNameError

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
Likeness = Literal["behavior", "content"]


@dataclass(frozen=True, eq=False)
class ItemLikeness:
    """Nearest items by the space of item embeddings or by that of texts.

    Args:
        backbone: In evaluation mode.
        content: Of all items.
        index: Nearest items by behaviour.
        encoder: The text encoder that made the content.
    """

    backbone: Backbone
    content: ItemContent
    index: ItemIndex
    encoder: TextEncoder

    def to_items(self, item_idx: Longs, count: int, by: Likeness) -> tuple[Longs, Floats]:
        """Nearest items, the item itself among them, best first.

        Returns:
            int64[Q, count], item indices, and float32[Q, count], their likeness.

        Raises:
            UnknownNameError: no item has a text to be likened by.
        """
        if by == "behavior":
            return self.index.nearest(self.index.embeddings(item_idx), count)
        return self._nearest_texts(self._unit_texts[item_idx], count)

    def to_texts(self, texts: Sequence[str], count: int, by: Likeness) -> tuple[Longs, Floats]:
        """The same for Q texts."""
        encoded = self.content.encode_texts(self.encoder, list(texts))
        if by == "behavior":
            return self.index.nearest(text_embeddings(self.backbone, encoded), count)
        return self._nearest_texts(_unit(encoded), count)

    @cached_property
    def _unit_texts(self) -> Floats:
        """float32[N, T]; rows of items without a text are zero."""
        return _unit(self.content.text)

    def _nearest_texts(self, queries: Floats, count: int) -> tuple[Longs, Floats]:
        if not self._unit_texts.any():
            raise UnknownNameError("likeness", "content", ("behavior",))
        products = queries @ self._unit_texts.T
        best = largest_columns(products, count)
        values = np.take_along_axis(products, best, axis=1)
        order = np.lexsort((best, -values), axis=1)
        return np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-6), dtype=np.float32)
