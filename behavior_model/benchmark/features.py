"""Candidates of every user and what transformer and memories say of them.

Legend: U users, B users of a chunk, N items, P pairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from scipy.special import log_softmax

from behavior_model.benchmark.baselines.ranking import best_columns, chunks, masked
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask
from behavior_model.benchmark.interactions import NO_ITEM, Interactions, Longs
from behavior_model.benchmark.memories import HistoryMemories, most_alike, profile
from behavior_model.benchmark.shop import Outputs
from behavior_model.heads.pair_features import FeatureTable

TRANSFORMER: Final = "transformer/log_share"
POPULAR: Final = "collective/popular"
SHOWN_ALONE: Final[tuple[str, ...]] = (
    TRANSFORMER, "follow/history", "accompany/history", "content/history", POPULAR,
    "own/count", "own/recency",
)  # fmt: skip
"""Scores whose lists by themselves are worth a row in a table."""

OWN_DECAYS: Final[Mapping[str, float]] = {
    "own/count": 1.0,
    "own/lasting": 0.99,
    "own/lately": 0.95,
    "own/recency": 0.8,
}
"""What one further interaction takes off the weight of those before it."""

NUM_THREADS: Final = 2
"""Chunks in work at a time: what is slow in them lets go of the interpreter."""

QUOTAS: Final[Mapping[str, int]] = {
    TRANSFORMER: 100,
    "follow/history": 60,
    "accompany/history": 40,
    "content/history": 30,
    "content/words": 30,
    "own/lasting": 200,
    "own/recency": 50,
}
"""Candidates that each score may bring; those of several are kept once."""


def feature_table(
    task: LeaveOneOutTask, outputs: Sequence[Outputs], memories: HistoryMemories
) -> FeatureTable:
    """Candidates of all users and their features; arguments as in `feature_tables`."""
    parts = [
        (users.start + table.users, table)
        for users, table in feature_tables(task, outputs, memories)
    ]
    return FeatureTable(
        users=np.concatenate([users for users, _ in parts]),
        targets=np.concatenate([table.targets for _, table in parts]),
        values=np.concatenate([table.values for _, table in parts]),
        names=parts[0][1].names,
    )


def feature_tables(
    task: LeaveOneOutTask, outputs: Sequence[Outputs], memories: HistoryMemories
) -> Iterator[tuple[slice, FeatureTable]]:
    """A few hundred users at a time; users of a table count from the start of their slice.

    Args:
        task: The question.
        outputs: Of backbones trained on the task's history from different seeds; the mean of
            their log shares is the transformer's opinion.
        memories: Of the same history.
    """
    ahead: deque[tuple[slice, Future[FeatureTable]]] = deque()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for users in chunks(task):
            ahead.append((users, pool.submit(_chunk, task, outputs, memories, users)))
            if len(ahead) > NUM_THREADS:
                before, table = ahead.popleft()
                yield before, table.result()
        for before, table in ahead:
            yield before, table.result()


def _chunk(
    task: LeaveOneOutTask, outputs: Sequence[Outputs], memories: HistoryMemories, users: slice
) -> FeatureTable:
    asked = task.history.select(np.arange(users.start, users.stop))
    shares = [log_softmax(one.queries[users] @ one.items.T, axis=1) for one in outputs]
    scores: dict[str, Floats] = {TRANSFORMER: np.mean(shares, axis=0)}
    scores |= memories.scores(asked)
    if not task.mask_history:
        scores |= {name: profile(asked, one).toarray() for name, one in OWN_DECAYS.items()}
    rows, columns = _candidates(task, users, asked, scores)
    values = {name: dense[rows, columns] for name, dense in scores.items()}
    values |= _statistics(asked, memories, rows, columns)
    values |= _likeness(asked, outputs, memories, rows, columns)
    if not task.mask_history:
        values["own/since"] = _since(asked, rows, columns)
    return FeatureTable(
        users=rows,
        targets=columns,
        values=np.stack([np.asarray(one, np.float32) for one in values.values()], axis=1),
        names=tuple(values),
    )


def _candidates(
    task: LeaveOneOutTask, users: slice, asked: Interactions, scores: Mapping[str, Floats]
) -> tuple[Longs, Longs]:
    """Rows of the chunk and items, ascending, each pair once."""
    num_items = task.history.num_items
    keys = []
    for name, quota in QUOTAS.items():
        if name not in scores:
            continue
        allowed = scores[name].copy()
        if name != TRANSFORMER:
            allowed[allowed <= 0] = -np.inf
            allowed = masked(task, users, allowed)
        elif task.mask_history:
            # A user without history keeps what the transformer's biases say: what is popular.
            allowed[asked.users, asked.items] = -np.inf
        best = best_columns(allowed, quota)
        rows, places = np.nonzero(best != NO_ITEM)
        keys.append(rows * num_items + best[rows, places])
    distinct = np.unique(np.concatenate(keys))
    return distinct // num_items, distinct % num_items


def _statistics(
    asked: Interactions, memories: HistoryMemories, rows: Longs, columns: Longs
) -> dict[str, Floats]:
    """How popular a candidate is, was lately, and is beside what its user usually takes."""
    popular, latest = memories.counts[columns], memories.latest[columns]
    sums = np.bincount(asked.users, memories.counts[asked.items], minlength=len(asked))
    return {
        POPULAR: popular,
        "collective/latest": latest,
        "collective/trend": latest - popular,
        "own/length": np.log1p(asked.lengths)[rows],
        "own/popularity": (sums / np.maximum(asked.lengths, 1))[rows],
    }


def _likeness(
    asked: Interactions,
    outputs: Sequence[Outputs],
    memories: HistoryMemories,
    rows: Longs,
    columns: Longs,
) -> dict[str, Floats]:
    """How like a candidate is to something of its user, in behaviour and in words."""
    behaviour = [most_alike(asked, one.items[:, :-1], rows, columns) for one in outputs]
    likeness = {"transformer/likeness": np.mean(behaviour, axis=0)}
    if memories.texts is not None:
        likeness["content/likeness"] = most_alike(asked, memories.texts, rows, columns)
    return likeness


def _since(asked: Interactions, rows: Longs, columns: Longs) -> Floats:
    """float32[P]: log(1 + interactions since the user last took it), as if before all if never."""
    never = np.log1p(asked.lengths).astype(np.float32)[:, None]
    since = np.repeat(never, asked.num_items, axis=1)
    since[asked.users, asked.items] = np.log1p(asked.places_from_end)  # of several the last holds
    return np.asarray(since[rows, columns])
