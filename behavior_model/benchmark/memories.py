"""Memories of a benchmark's history: what follows, accompanies and resembles what a user took.

Legend: U users, B users of a chunk, N items, T width of a text embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import sparse

from behavior_model.benchmark.baselines.ranking import weight_matrix
from behavior_model.benchmark.baselines.task import Floats
from behavior_model.benchmark.interactions import Interactions
from behavior_model.memory.neighbours import Neighbours

FOLLOW_DECAY: Final = 0.6
LASTING_DECAY: Final = 0.7
"""What one further interaction takes off the weight of those before it."""


@dataclass(frozen=True, eq=False)
class HistoryMemories:
    """Statistics of one history; a score reads a user's own interactions and these.

    Args:
        follow: float32[N, N], what is taken within three steps of what.
        accompany: float32[N, N], what stands in one history with what.
        texts: float32[N, T], rows of length 1 or 0; None where nothing is written.
        words: float32[N, W], hashed words likewise.
        counts: float32[N], log(1 + interactions).
    """

    follow: sparse.csr_matrix
    accompany: sparse.csr_matrix
    texts: Floats | None
    words: Floats | None
    counts: Floats

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
            accompany=whole.accompany,
            texts=None if texts is None else _unit(texts),
            words=None if words is None else _unit(words),
            counts=np.log1p(history.counts).astype(np.float32),
        )

    def scores(self, history: Interactions, users: slice) -> Mapping[str, Floats]:
        """float32[B, N] per memory for B users that stand together."""
        asked = history.select(np.arange(users.start, users.stop))
        recent = profile(asked, FOLLOW_DECAY)
        lasting = profile(asked, LASTING_DECAY)
        last = profile(asked, 0.0)
        scores = {
            "follow/history": (recent @ self.follow).toarray(),
            "follow/last": (last @ self.follow).toarray(),
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


def _unit(rows: Floats) -> Floats:
    length = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return np.asarray(rows / length, dtype=np.float32)
