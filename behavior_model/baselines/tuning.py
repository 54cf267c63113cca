"""One way to set a baseline's knob: the value that ranks best on the validation window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from behavior_model.context import ModelContext
from behavior_model.largest import largest_columns, largest_in_groups
from behavior_model.memory.purchases import Level, Longs, Purchases, read_purchases
from behavior_model.metrics import ndcg_at_k

Scores = npt.NDArray[np.floating]
Knob = TypeVar("Knob")
Ranker = Callable[[Purchases, Knob, int], Longs]

K: Final = 10


def interactions_at(context: ModelContext, level: Level, time_us: int) -> Purchases:
    """What all users did before a prediction time."""
    return read_purchases(context.histories(time_us), context.vocabulary, level, time_us)


def tuned(
    context: ModelContext, level: Level, k: int, ranker: Ranker[Knob], knobs: Sequence[Knob]
) -> Longs:
    """int64[U, k] at the test cut with the knob that has the best NDCG@10 on validation.

    Args:
        context: The company's model.
        level: Items or categories.
        k: Length of the lists.
        ranker: Ranks the users of purchases with a knob.
        knobs: Values to try, the first wins ties.
    """
    past = interactions_at(context, level, context.validation_time)
    truths = level.truths_of(context.futures(context.validation_time))
    found = [float(np.nanmean(ndcg_at_k(ranker(past, knob, K), truths, K))) for knob in knobs]
    best = knobs[int(np.argmax(found))]
    return ranker(interactions_at(context, level, context.test_time), best, k)


def best_pairs(purchases: Purchases, keys: Longs, scores: Scores, k: int) -> Longs:
    """int64[U, k]: the pairs `user * T + target` with the largest scores, -1 where none is left."""
    users, targets = keys // purchases.num_targets, keys % purchases.num_targets
    rows, places = largest_in_groups(users, scores, targets, k)
    lists = np.full((purchases.num_users, k), -1, dtype=np.int64)
    lists[users[rows], places] = targets[rows]
    return lists


def best_columns(scores: Scores, targets: Longs, k: int) -> Longs:
    """int64[U, k]: targets of the largest columns of each row, -1 where scores are not positive.

    Args:
        scores: float[U, R].
        targets: int64[R], target of each column.
        k: Length of the lists.
    """
    best = largest_columns(scores, k)
    values = np.take_along_axis(scores, best, axis=1)
    lists = np.full((len(scores), k), -1, dtype=np.int64)
    lists[:, : best.shape[1]] = np.where(values > 0, targets[best], -1)
    return lists
