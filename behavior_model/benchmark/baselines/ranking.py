"""From scores to lists, a chunk of users at a time, so that memory does not grow with users.

Legend: U users, B users of a chunk, N items, k length of the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Final

import numpy as np
from scipy import sparse

from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask, refuse_too_slow
from behavior_model.benchmark.interactions import NO_ITEM, Bools, Interactions, Longs
from behavior_model.largest import largest_columns

Scorer = Callable[[slice], Floats]
"""Takes B users that stand together, gives float32[B, N] to be overwritten, -inf where it has
nothing to say about an item."""

_MAX_CHUNK_SCORES: Final = 2**22
_MAX_CHUNK_USERS: Final = 512


def rank_users(task: LeaveOneOutTask, k: int, score: Scorer) -> Longs:
    """int64[U, k]: the items of the highest scores, then the most popular ones.

    Raises:
        TooSlowError: the task's time is not enough.
    """
    lists = np.full((len(task.history), k), NO_ITEM, dtype=np.int64)
    for users in chunks_in_time(task):
        lists[users] = best_columns(masked(task, users, score(users)), k)
    return filled(task, lists, popular_items(task.history))


def chunks(task: LeaveOneOutTask) -> Iterator[slice]:
    """Users that are asked for, few enough at a time for a dense row of scores each."""
    size = int(np.clip(_MAX_CHUNK_SCORES // task.history.num_items, 1, _MAX_CHUNK_USERS))
    num_users = len(task.history) if task.num_asked is None else task.num_asked
    for start in range(0, num_users, size):
        yield slice(start, min(start + size, num_users))


def chunks_in_time(task: LeaveOneOutTask) -> Iterator[slice]:
    """The same chunks, as long as their pace fits into the task's time; the first warms up.

    Raises:
        TooSlowError: the task's time is not enough.
    """
    warm_s, num_warm = 0.0, 0
    for users in chunks(task):
        yield users
        if not num_warm:
            warm_s, num_warm = perf_counter(), users.stop
        elif users.stop < len(task.history):
            per_user_s = (perf_counter() - warm_s) / (users.stop - num_warm)
            refuse_too_slow(per_user_s * len(task.history), task)


def popular_items(history: Interactions) -> Longs:
    """int64[N]: all items, the most taken first."""
    return np.argsort(-history.counts, kind="stable")


def count_matrix(history: Interactions) -> sparse.csr_matrix:
    """float32[U, N]: how often each user took each item."""
    return weight_matrix(history, np.ones(history.num_events, np.float32))


def weight_matrix(history: Interactions, weights: Floats) -> sparse.csr_matrix:
    """float32[U, N]: sums of the weights of each user's interactions with each item."""
    shape = (len(history), history.num_items)
    entries = (weights, history.items, history.offsets)
    matrix = sparse.csr_matrix(entries, shape=shape, copy=True)
    matrix.sum_duplicates()
    return matrix


def dense_scores(rows: sparse.csr_matrix) -> Floats:
    """float32[B, N]: stored scores, -inf where none is stored or it is 0."""
    scores = np.asarray(rows.toarray(), dtype=np.float32)
    scores[scores == 0] = -np.inf
    return scores


def best_columns(scores: Floats, k: int) -> Longs:
    """int64[B, k]: columns of the highest scores, the first of equals; NO_ITEM where -inf."""
    best = largest_columns(scores, k)
    lists = np.full((len(scores), k), NO_ITEM, dtype=np.int64)
    is_said = np.take_along_axis(scores, best, axis=1) > -np.inf
    lists[:, : best.shape[1]] = np.where(is_said, best, NO_ITEM)
    return lists


def masked(task: LeaveOneOutTask, users: slice, scores: Floats) -> Floats:
    """float32[B, N]: scores, overwritten with -inf for masked items and users with no history."""
    scores[task.history.lengths[users] == 0] = -np.inf
    if task.mask_history:
        scores[_events(task.history, users)] = -np.inf
    return scores


def filled(task: LeaveOneOutTask, lists: Longs, order: Longs) -> Longs:
    """int64[U, k]: the lists, each filled up with the first items of an order it may still take.

    Whoever took nearly everything gets masked items behind those, so that lists are whole.

    Args:
        task: Says what is masked.
        lists: int64[U, k], NO_ITEM at the end of lists that are too short.
        order: int64[N], all items, the best first.
    """
    complete = lists.copy()
    for users in chunks(task):
        part = complete[users]
        short = np.flatnonzero(part[:, -1] == NO_ITEM)
        if len(short):
            part[short] = _filled(part[short], _taken(task, users, part)[short], order)
        short = np.flatnonzero(part[:, -1] == NO_ITEM)
        if task.mask_history and len(short):
            unmasked = replace(task, mask_history=False)
            part[short] = _filled(part[short], _taken(unmasked, users, part)[short], order)
    return complete


def _filled(lists: Longs, taken: Bools, order: Longs) -> Longs:
    k = lists.shape[1]
    candidates = order[: taken.sum(axis=1).max() + k]
    free = ~taken[:, candidates]
    places = np.cumsum(free, axis=1) - 1 + (lists != NO_ITEM).sum(axis=1)[:, None]
    rows, columns = np.nonzero(free & (places < k))
    lists[rows, places[rows, columns]] = candidates[columns]
    return lists


def _taken(task: LeaveOneOutTask, users: slice, lists: Longs) -> Bools:
    """bool[B, N]: items in the lists, or masked."""
    taken = np.zeros((len(lists), task.history.num_items), dtype=np.bool_)
    rows, places = np.nonzero(lists != NO_ITEM)
    taken[rows, lists[rows, places]] = True
    if task.mask_history:
        taken[_events(task.history, users)] = True
    return taken


def _events(history: Interactions, users: slice) -> tuple[Longs, Longs]:
    """Row within the chunk and item of each interaction of its users."""
    events = slice(history.offsets[users.start], history.offsets[users.stop])
    return history.users[events] - users.start, history.items[events]
