"""Where items stand that nobody took yet: among their neighbours, with an even share of the lists.

A model trained on interactions is unfair to an item without any: its bias says that nobody took it,
though nobody could, and queries lean towards items whose identities they learned by heart. Both are
put right without looking at any answer. Legend: U users, N items, D width, K length of the lists.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from behavior_model.benchmark.baselines.ranking import chunks
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask
from behavior_model.benchmark.interactions import Bools
from behavior_model.benchmark.shop import Outputs
from behavior_model.benchmark.texted import allowed_scores, product_scores

MAX_NEIGHBOURS: Final = 20
LARGEST_NEIGHBOUR_SHARE: Final = 0.05
"""Of the seen items: in a small catalogue the twentieth nearest is no neighbour any more."""

NUM_ASKED_USERS: Final = 1_000
LARGEST_OFFSET: Final = 30.0
NUM_HALVINGS: Final = 30
_CHUNK_ITEMS: Final = 2_048


def placed_by_neighbours(items: Floats, seen: Bools) -> Floats:
    """Item embeddings in which an unseen item stands where seen items like it stand.

    Its content, embedded by the model, finds the nearest seen items; their mean embedding, at
    length 1, and their mean bias become its own. So it takes over what was learned about its kind,
    beyond what texts say.

    Args:
        items: float32[N, D + 1], the last column is the bias.
        seen: bool[N], whether somebody took the item in training.
    """
    placed = items.copy()
    known = items[seen]
    unseen = np.flatnonzero(~seen)
    num_neighbours = min(MAX_NEIGHBOURS, max(1, round(LARGEST_NEIGHBOUR_SHARE * len(known))))
    for start in range(0, len(unseen), _CHUNK_ITEMS):
        chunk = unseen[start : start + _CHUNK_ITEMS]
        likeness = items[chunk, :-1] @ known[:, :-1].T
        nearest = np.argpartition(-likeness, num_neighbours - 1, axis=1)[:, :num_neighbours]
        means = known[nearest].mean(axis=1)
        lengths = np.linalg.norm(means[:, :-1], axis=1, keepdims=True)
        placed[chunk, :-1] = means[:, :-1] / np.maximum(lengths, 1e-6)
        placed[chunk, -1] = means[:, -1]
    return placed


def with_even_exposure(
    task: LeaveOneOutTask, outputs: Outputs, seen: Bools, k: int, seed: int
) -> Outputs:
    """The same with one number added to the biases of unseen items.

    It is the smallest number at which unseen items fill as large a share of the users' lists as
    they are of the catalogue: as long as nobody could take an item, nothing speaks for showing it
    less than others, nor more (equal exposure, Singh and Joachims, 2018).

    Args:
        task: Users and what they took; a sample of them is asked.
        outputs: Of a model.
        seen: bool[N], whether somebody took the item in training.
        k: K, length of the lists.
        seed: Of the sample.
    """
    if seen.all() or not seen.any():
        return outputs
    best_seen, best_unseen = _best_scores(task, outputs, seen, k, seed)
    share = float((~seen).mean())
    low, high = -LARGEST_OFFSET, LARGEST_OFFSET
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        if _exposure(best_seen, best_unseen + middle) < share:
            low = middle
        else:
            high = middle
    items = outputs.items.copy()
    items[~seen, -1] += high
    return replace(outputs, items=items)


def _best_scores(
    task: LeaveOneOutTask, outputs: Outputs, seen: Bools, k: int, seed: int
) -> tuple[Floats, Floats]:
    """float32[n, K] twice: a sample of users' highest scores among seen and unseen items."""
    drawn = np.random.default_rng(seed).permutation(len(task.history))[:NUM_ASKED_USERS]
    asked = replace(task, history=task.history.select(drawn))
    score = product_scores(replace(outputs, queries=outputs.queries[drawn]))
    best_seen, best_unseen = [], []
    for users in chunks(asked):
        scores = allowed_scores(asked, score, users)
        best_seen.append(_largest(scores[:, seen], k))
        best_unseen.append(_largest(scores[:, ~seen], k))
    return np.concatenate(best_seen), np.concatenate(best_unseen)


def _largest(scores: Floats, k: int) -> Floats:
    """float32[n, K]: the K highest of each row in any order, -inf where there are fewer."""
    padded = np.pad(scores, ((0, 0), (0, k)), constant_values=-np.inf)
    return np.asarray(-np.partition(-padded, k - 1, axis=1)[:, :k], dtype=np.float32)


def _exposure(best_seen: Floats, best_unseen: Floats) -> float:
    """Share of the places of all lists that unseen items get."""
    k = best_seen.shape[1]
    thresholds = np.sort(np.concatenate([best_seen, best_unseen], axis=1), axis=1)[:, [-k]]
    return float((best_unseen >= thresholds).sum() / best_unseen.size)
