"""Likeness of products, judged by what people do next: do those who buy one buy the likest too?

For each of the products asked about, and the ten that are said to be likest to it: how many times
more often do the window's buyers of the one buy the other than everybody does (lift)? The figure is
the mean logarithm, both counts one larger so that the unsold weigh nothing.

Legend: Q products asked about, U users.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from behavior_model.context import ModelContext
from behavior_model.embedding import item_embeddings
from behavior_model.evaluation.comparison import compare_means
from behavior_model.evaluation.measurement import Measurement
from behavior_model.evaluation.results import Result
from behavior_model.heads.recommendation import RecommendationHead
from behavior_model.largest import largest_columns
from behavior_model.likeness import BehaviourLikeness
from behavior_model.memory.purchases import Longs
from behavior_model.unit_rows import unit_rows
from pipelines.tokens.binning import FIRST_IDX

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

TASK: Final = "similar_items"
K: Final = 10
MAX_ASKED: Final = 2_000
CHUNK: Final = 256
"""Products asked about at a time; each is likened to all others."""
MIN_BUYERS: Final = 20


def judge(context: ModelContext, head: RecommendationHead, *, seed: int) -> list[Result]:
    """Mean log lift in the test window; nothing where no product has enough buyers there.

    Args:
        context: The company's model at one test cut.
        head: Ranks items; fitted for that cut.
        seed: Seed of the bootstrap, over products.
    """
    memory = head.memories.collective
    begun = time.perf_counter()
    bought = _bought(context)
    buyers = np.asarray(bought.sum(axis=0)).ravel()
    often = np.argsort(-context.vocabulary.count_by_item_idx, kind="stable")[:MAX_ASKED]
    asked = often[(buyers[often] >= MIN_BUYERS) & (memory.position[often] >= 0)]
    if len(asked) == 0:
        return []
    space = item_embeddings(context.backbone, context.content)[:, :-1]
    alike = BehaviourLikeness(memory, space[memory.known])
    likest = _by_chunks(asked, lambda some: alike.to_embeddings(space[some], some, K)[0])
    measured = Measurement(
        context=context,
        task=TASK,
        seed=seed,
        num_items=len(memory.known),
        seconds=time.perf_counter() - begun,
    )

    def most_together(some: Longs) -> Longs:
        counts = memory.neighbours.accompany[memory.position[some]].toarray()
        return memory.known[largest_columns(counts, K)]

    lists = {
        "likeness of texts": _nearest(context.content.text, asked),
        "bought together (item-kNN)": _by_chunks(asked, most_together),
        "popularity": np.repeat(_most(_events_before(context), K)[None], len(asked), axis=0),
    }
    metric = f"log_lift@{K}"
    compared = compare_means(
        metric,
        _log_lifts(bought, asked, likest),
        {name: _log_lifts(bought, asked, found) for name, found in lists.items()},
        seed=seed,
    )
    by_backbone = _log_lifts(bought, asked, _nearest(space, asked))
    return [
        measured.result(
            metric,
            f"test, {len(asked):,} products",
            compared,
            num_users=int((np.asarray(bought.sum(axis=1)) > 0).sum()),
            parts={"the backbone's space": float(by_backbone.mean())},
        )
    ]


def _events_before(context: ModelContext) -> Longs:
    """int64[num_item_indices]: events with each item in the histories at the test cut."""
    items = context.histories(context.test_time).tokens[context.vocabulary.item_field]
    counts = np.bincount(items, minlength=context.vocabulary.num_item_indices)
    counts[:FIRST_IDX] = 0
    return counts.astype(np.int64)


def _bought(context: ModelContext) -> sparse.csr_matrix:
    """float64[U, num_item_indices]: 1 where a user bought an item in the test window."""
    items = context.test_futures.items
    users = np.repeat(np.arange(len(items)), [len(one) for one in items])
    shape = (len(items), context.vocabulary.num_item_indices)
    columns = np.concatenate(items) if items else np.zeros(0, dtype=np.int64)
    return sparse.csr_matrix((np.ones(len(columns)), (users, columns)), shape=shape)


def _log_lifts(bought: sparse.csr_matrix, asked: Longs, lists: Longs) -> Doubles:
    """float64[Q]: mean over each list of log((common buyers + 1) / (expected + 1))."""
    columns = bought.tocsc()
    buyers = np.asarray(bought.sum(axis=0)).ravel()
    common = (columns[:, asked].T @ bought).tocsr()
    rows = np.repeat(np.arange(len(asked)), lists.shape[1])
    found = np.asarray(common[rows, lists.ravel()]).reshape(lists.shape)
    expected = buyers[asked][:, None] * buyers[lists] / bought.shape[0]
    return np.asarray(np.log((found + 1) / (expected + 1)).mean(axis=1))


def _nearest(rows: Floats, asked: Longs) -> Longs:
    """int64[Q, K]: items of the largest cosine, the item itself left out."""
    unit = unit_rows(rows)

    def nearest(some: Longs) -> Longs:
        products = unit[some] @ unit.T
        products[:, :FIRST_IDX] = -np.inf
        products[np.arange(len(some)), some] = -np.inf
        return largest_columns(products, K)

    return _by_chunks(asked, nearest)


def _by_chunks(asked: Longs, lists: Callable[[Longs], Longs]) -> Longs:
    """int64[Q, K]: lists of all products asked about, made for a few at a time."""
    starts = range(0, len(asked), CHUNK)
    return np.concatenate([lists(asked[start : start + CHUNK]) for start in starts])


def _most(counts: Longs, count: int) -> Longs:
    return np.argsort(-counts, kind="stable")[:count]
