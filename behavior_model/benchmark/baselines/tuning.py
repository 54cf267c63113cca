"""One way to set a baseline's knob: the value that ranks the validation items best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked, refuse_too_slow
from behavior_model.benchmark.interactions import NO_ITEM, Longs
from behavior_model.metrics import ndcg_at_k

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Knob = TypeVar("Knob", bound="DataclassInstance")
Ranker = Callable[[LeaveOneOutTask, Knob, int], Longs]

K: Final = 10
MAX_TUNING_USERS: Final = 25_000
"""The first so many users decide a knob; what is counted is counted of all."""


def tuned(task: LeaveOneOutTask, k: int, ranker: Ranker[Knob], knobs: Sequence[Knob]) -> Ranked:
    """Lists by the knob with the best NDCG@10 on validation, fitted on all that is known.

    Args:
        task: The question.
        k: Length of the lists.
        ranker: Gives int64[U, k] for a task and a knob.
        knobs: Values to try, the first wins ties.

    Raises:
        TooSlowError: the task's time is not enough for all values and the last fit.
    """
    started = perf_counter()
    num_asked = min(len(task.history), MAX_TUNING_USERS)
    earlier = replace(task.validation(), num_asked=num_asked)
    truth = task.validation_truth[:num_asked]
    tried = [(knob, mask) for mask in possible_masks(task) for knob in knobs]
    found: list[float] = []
    for knob, mask in tried:
        lists = ranker(replace(earlier, mask_history=mask), knob, K)
        found.append(mean_ndcg(lists[:num_asked], truth))
        refuse_too_slow((perf_counter() - started) / len(found) * (len(tried) + 1), task)
    best, mask = tried[int(np.argmax(found))]
    left_s = task.budget_s - (perf_counter() - started)
    lists = ranker(replace(task, mask_history=mask, budget_s=left_s), best, k)
    knob_values = asdict(best) if task.mask_history else {**asdict(best), "mask_history": mask}
    return Ranked(lists=lists, seconds=perf_counter() - started, knob=knob_values)


def possible_masks(task: LeaveOneOutTask) -> Sequence[bool]:
    """Whether own items are left out, which is a knob too where users take things twice: many a
    model says of what it has seen that it is likely, and most people may still want something new.
    """
    return (True,) if task.mask_history else (False, True)


def mean_ndcg(lists: Longs, truth: Longs) -> float:
    """Mean NDCG@10 over users with a true item, 0 where no user has one.

    Args:
        lists: int64[U, >= 10].
        truth: int64[U], NO_ITEM where a user has none.
    """
    judged = truth != NO_ITEM
    if not judged.any():
        return 0.0
    return float(ndcg_at_k(lists[judged], list(truth[judged, None]), K).mean())
