"""Training-free heuristic on the graph of item transitions (TGH-1; Han et al., arXiv 2605.07125).

Ring h holds the items that are h transitions away from the user's last item and not fewer. A list
takes so many of each ring, nearest ring first. Within the first ring an item's score is the
likeness of its text to the last item's plus a bonus for frequent transitions, in the others it is
the likeness alone. Without texts it is the number of transitions, in the others of paths.
Legend: U users, B users of a chunk, N items, T width of a text embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import sparse

from behavior_model.benchmark.baselines.ranking import (
    best_columns,
    chunks_in_time,
    filled,
    masked,
    popular_items,
)
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask, Ranked
from behavior_model.benchmark.baselines.tuning import tuned
from behavior_model.benchmark.interactions import NO_ITEM, Interactions, Longs
from behavior_model.unit_rows import unit_rows

NUM_RINGS: Final = 3
EDGE_BONUS: Final = 0.5
"""Bonus of the most frequent transition from an item, as the paper's code sets it."""
_OUTSIDE: Final = np.float32(-np.inf)


@dataclass(frozen=True, kw_only=True)
class RingKnob:
    """How a list of ten is made up.

    Args:
        first: Items of ring 1.
        second: Items of ring 2.
        third: Items of ring 3.
    """

    first: int
    second: int
    third: int


KNOBS: Final = (
    RingKnob(first=7, second=2, third=1),
    RingKnob(first=10, second=0, third=0),
)


def rank(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """The shares of the rings are tuned on validation; popular items fill up."""
    del seed
    return tuned(task, k, rank_by_rings, KNOBS)


def transition_counts(history: Interactions) -> sparse.csr_matrix:
    """float32[N, N]: how often an item (column) came right after another (row)."""
    inside = history.places_from_end[:-1] > 0
    pairs = (history.items[:-1][inside], history.items[1:][inside])
    shape = (history.num_items, history.num_items)
    counts = sparse.csr_matrix((np.ones(len(pairs[0]), np.float32), pairs), shape=shape)
    counts.sum_duplicates()
    return counts


def ring_paths(counts: sparse.csr_matrix, sources: Longs) -> Iterator[Floats]:
    """float32[B, N] for rings 1, 2 and 3: shortest paths from a source, 0 outside the ring.

    Args:
        counts: float32[N, N], transitions; a path counts as often as all of its transitions.
        sources: int64[B], items in the middle of the rings; in ring 1 if they follow themselves.
    """
    rows = np.arange(len(sources))
    shape = (len(sources), counts.shape[0])
    ring = np.zeros(shape, dtype=np.float32)
    ring[rows, sources] = 1.0
    nearer = np.zeros(shape, dtype=np.bool_)
    for _ in range(NUM_RINGS):
        ring = (sparse.csr_matrix(ring) @ counts).toarray()
        ring[nearer] = 0.0
        yield ring
        nearer |= ring > 0
        nearer[rows, sources] = True


def rank_by_rings(task: LeaveOneOutTask, knob: RingKnob, k: int) -> Longs:
    """int64[U, k] with the given shares."""
    counts = transition_counts(task.history)
    sources = np.maximum(task.history.last(), 0)
    texts = None if task.text_embeddings is None else unit_rows(task.text_embeddings)
    lists = np.full((len(sources), k), NO_ITEM, dtype=np.int64)
    for users in chunks_in_time(task):
        rings = [
            best_columns(masked(task, users, scores), k)
            for scores in _ring_scores(counts, sources[users], texts)
        ]
        lists[users] = _joined(rings, (knob.first, knob.second, knob.third), k)
    return filled(task, lists, popular_items(task.history))


def _ring_scores(
    counts: sparse.csr_matrix, sources: Longs, texts: Floats | None
) -> Iterator[Floats]:
    """float32[B, N] per ring, -inf outside it."""
    likeness = None if texts is None else texts[sources] @ texts.T
    for ring, paths in enumerate(ring_paths(counts, sources)):
        scores = paths if likeness is None else likeness
        if likeness is not None and ring == 0:
            frequent = np.log1p(paths)
            largest = frequent.max(axis=1, keepdims=True)
            scores = likeness + EDGE_BONUS * frequent / np.where(largest > 0, largest, 1)
        yield np.where(paths > 0, scores, _OUTSIDE)


def _joined(rings: Sequence[Longs], shares: Sequence[int], k: int) -> Longs:
    """int64[B, k]: the share of each ring, nearest first, then what is left of each."""
    heads = [ring[:, :share] for ring, share in zip(rings, shares, strict=True)]
    tails = [ring[:, share:] for ring, share in zip(rings, shares, strict=True)]
    joined = np.concatenate([*heads, *tails], axis=1)
    order = np.argsort(joined == NO_ITEM, axis=1, kind="stable")
    return np.take_along_axis(joined, order[:, :k], axis=1)
