"""Memories of a benchmark's history: what follows, accompanies and resembles what a user took.

Legend: U users, B users of a chunk, N items, T width of a text embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from scipy import sparse

from behavior_model.benchmark.baselines.ranking import weight_matrix
from behavior_model.benchmark.baselines.task import Floats
from behavior_model.benchmark.interactions import Bools, Interactions, Longs
from behavior_model.memory.neighbours import DEGREE_SHRINKAGE, Neighbours
from behavior_model.unit_rows import unit_rows

FOLLOW_DECAY: Final = 0.6
LASTING_DECAY: Final = 0.7
"""What one further interaction takes off the weight of those before it."""


@dataclass(frozen=True, eq=False)
class HistoryMemories:
    """Statistics of one history; a score reads a user's own interactions and these.

    Args:
        follow: float32[N, N], what is taken within three steps of what.
        succeed: float32[N, N], what is taken right after what.
        accompany: float32[N, N], what stands in one history with what.
        texts: float32[N, T], rows of length 1 or 0; None where nothing is written.
        words: float32[N, W], hashed words likewise.
        counts: float32[N], log(1 + interactions).
        latest: float32[N], log(1 + users who took it last).
    """

    follow: sparse.csr_matrix
    succeed: sparse.csr_matrix
    accompany: sparse.csr_matrix
    texts: Floats | None
    words: Floats | None
    counts: Floats
    latest: Floats

    @classmethod
    def fit(
        cls, history: Interactions, texts: Floats | None, words: Floats | None
    ) -> HistoryMemories:
        """Count over all users.

        Args:
            history: All that is known.
            texts: float32[N, T], of any length.
            words: float32[N, W], of any length.
        """
        places = np.arange(history.num_events)
        num_users, num_items = len(history), history.num_items
        steps = Neighbours.fit(places, history.items, history.users, num_items)
        whole = Neighbours.fit(history.users, history.items, np.arange(num_users), num_items)
        return cls(
            follow=steps.follow,
            succeed=_successions(history),
            accompany=whole.accompany,
            texts=None if texts is None else unit_rows(texts),
            words=None if words is None else unit_rows(words),
            counts=np.log1p(history.counts).astype(np.float32),
            latest=np.log1p(_counts(history, history.places_from_end == 0)).astype(np.float32),
        )

    def scores(self, asked: Interactions) -> Mapping[str, Floats]:
        """float32[B, N] per memory for B users."""
        recent = profile(asked, FOLLOW_DECAY)
        lasting = profile(asked, LASTING_DECAY)
        last = profile(asked, 0.0)
        following = recent @ self.follow
        scores = {
            "follow/history": following.toarray(),
            "follow/last": (last @ self.follow).toarray(),
            "follow/second": (following @ self.follow).toarray(),
            "follow/next": (recent @ self.succeed).toarray(),
            "follow/next_of_last": (last @ self.succeed).toarray(),
            "accompany/history": (lasting @ self.accompany).toarray(),
        }
        if self.texts is not None:
            scores["content/history"] = (lasting @ self.texts) @ self.texts.T
            scores["content/last"] = (last @ self.texts) @ self.texts.T
        if self.words is not None:
            scores["content/words"] = (lasting @ self.words) @ self.words.T
        return scores


def profile(history: Interactions, decay: float) -> sparse.csr_matrix:
    """float32[U, N]: each interaction weighs `decay` to the power of its place from the end."""
    weights = np.power(decay, history.places_from_end).astype(np.float32)
    return weight_matrix(history, weights)


def most_alike(history: Interactions, vectors: Floats, rows: Longs, columns: Longs) -> Floats:
    """float32[P]: likeness of each candidate to the one item of its user that is most like it.

    Args:
        history: Of B users; -1 stands where a user has none.
        vectors: float32[N, D], rows of length 1 or 0.
        rows: int64[P], user of each candidate, ascending.
        columns: int64[P], the candidates.
    """
    found = np.full(len(rows), -1.0, dtype=np.float32)
    bounds = np.searchsorted(rows, np.arange(len(history) + 1))
    for user, (start, stop) in enumerate(pairwise(bounds)):
        own = history.of(user)
        if len(own) and stop > start:
            found[start:stop] = (vectors[columns[start:stop]] @ vectors[own].T).max(axis=1)
    return found


def _successions(history: Interactions) -> sparse.csr_matrix:
    """float32[N, N]: how often the column came right after the row, less for common items."""
    first = np.flatnonzero(history.places_from_end > 0)
    pairs = (history.items[first], history.items[first + 1])
    shape = (history.num_items, history.num_items)
    counted = sparse.csr_matrix((np.ones(len(first), np.float32), pairs), shape=shape)
    scale = sparse.diags(1.0 / np.sqrt(history.counts + DEGREE_SHRINKAGE)).astype(np.float32)
    return (scale @ counted @ scale).tocsr()


def _counts(history: Interactions, chosen: Bools) -> Longs:
    return np.bincount(history.items[chosen], minlength=history.num_items).astype(np.int64)
