"""The transformer's opinion of targets, item or category alike.

Legend: U users, T targets, R known targets, P pairs, D width, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from behavior_model.memory.purchases import Longs

Floats = npt.NDArray[np.float32]


class TransformerScores(Protocol):
    """Logits of users for targets."""

    def users_between(self, start: int, stop: int) -> TransformerScores:
        """Of users at positions start to stop (exclusive)."""

    def of_targets(self, targets: Longs) -> Floats:
        """float32[U, len(targets)]: all users for some targets."""

    def of_pairs(self, users: Longs, targets: Longs) -> Floats:
        """float32[P]: single pairs."""

    def of_groups(self, users: Longs, groups: Longs) -> Floats:
        """float32[P]: users for the wider groups of targets, NaN where there is none."""


@dataclass(frozen=True, eq=False)
class ItemScores:
    """Products of item queries and item embeddings; groups are categories.

    Args:
        queries: float32[U, D + 1].
        items: float32[T, D + 1].
        category_logits: float32[U, C].
    """

    queries: Floats
    items: Floats
    category_logits: Floats

    def users_between(self, start: int, stop: int) -> ItemScores:
        """Of users at positions start to stop (exclusive)."""
        return ItemScores(self.queries[start:stop], self.items, self.category_logits[start:stop])

    def of_targets(self, targets: Longs) -> Floats:
        """float32[U, len(targets)]."""
        return np.asarray(self.queries @ self.items[targets].T, dtype=np.float32)

    def of_pairs(self, users: Longs, targets: Longs) -> Floats:
        """float32[P]."""
        products = np.einsum("ij,ij->i", self.queries[users], self.items[targets])
        return np.asarray(products, dtype=np.float32)

    def of_groups(self, users: Longs, groups: Longs) -> Floats:
        """float32[P], NaN where an item has no category."""
        return _gather(self.category_logits, users, groups)


@dataclass(frozen=True, eq=False)
class CategoryScores:
    """Category logits as they are; categories have no wider group.

    Args:
        logits: float32[U, C].
    """

    logits: Floats

    def users_between(self, start: int, stop: int) -> CategoryScores:
        """Of users at positions start to stop (exclusive)."""
        return CategoryScores(self.logits[start:stop])

    def of_targets(self, targets: Longs) -> Floats:
        """float32[U, len(targets)]."""
        return self.logits[:, targets]

    def of_pairs(self, users: Longs, targets: Longs) -> Floats:
        """float32[P]."""
        return self.logits[users, targets]

    def of_groups(self, users: Longs, groups: Longs) -> Floats:
        """float32[P], all NaN."""
        return np.full(len(users), np.nan, dtype=np.float32)


def _gather(logits: Floats, users: Longs, groups: Longs) -> Floats:
    if logits.shape[1] == 0:
        return np.full(len(users), np.nan, dtype=np.float32)
    values = logits[users, np.maximum(groups, 0)]
    return np.where(groups >= 0, values, np.float32(np.nan))
