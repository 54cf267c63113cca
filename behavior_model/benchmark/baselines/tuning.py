"""One way to set a baseline's knob: the value that ranks the validation items best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked
from behavior_model.benchmark.interactions import NO_ITEM, Longs
from behavior_model.evaluation.metrics import ndcg_at_k

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Knob = TypeVar("Knob", bound="DataclassInstance")
Ranker = Callable[[LeaveOneOutTask, Knob, int], Longs]

K: Final = 10


def tuned(task: LeaveOneOutTask, k: int, ranker: Ranker[Knob], knobs: Sequence[Knob]) -> Ranked:
    """Lists by the knob with the best NDCG@10 on validation, fitted on all that is known.

    Args:
        task: The question.
        k: Length of the lists.
        ranker: Gives int64[U, k] for a task and a knob.
        knobs: Values to try, the first wins ties.
    """
    started = perf_counter()
    earlier, truth = task.validation(), task.validation_truth
    found = [mean_ndcg(ranker(earlier, knob, K), truth) for knob in knobs]
    best = knobs[int(np.argmax(found))]
    lists = ranker(task, best, k)
    return Ranked(lists=lists, seconds=perf_counter() - started, knob=asdict(best))


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
