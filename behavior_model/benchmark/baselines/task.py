"""What a baseline is asked, and what it answers.

Legend: U users, N items, T width of a text embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from behavior_model.benchmark.interactions import NO_ITEM, Interactions, Longs


class TooSlowError(Exception):
    """A baseline would take longer than its task allows; says by how much."""


Floats = npt.NDArray[np.float32]

MIN_VALIDATION_EVENTS: Final = 2
"""Events a user needs before the test item to help choose a knob: three with the test item."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LeaveOneOutTask:
    """Rank all N items for every user by how likely each is the user's next one.

    Args:
        history: What is known; the item to be found is not in it.
        mask_history: Whether items that a user took already are left out of the user's list.
        text_embeddings: float32[N, T], one per item, or None where nothing is written about them.
        budget_s: Seconds that a baseline may take, tuning included; without limit by default.
        num_asked: Only the first so many users are ranked, the lists of others stay empty; None:
            all are.
    """

    history: Interactions
    mask_history: bool = True
    text_embeddings: Floats | None = None
    budget_s: float = math.inf
    num_asked: int | None = None

    def validation(self) -> LeaveOneOutTask:
        """The same question one item earlier; `validation_truth` is its answer."""
        return replace(self, history=self.history.without_last())

    @property
    def validation_truth(self) -> Longs:
        """int64[U]: the last known item, NO_ITEM for users with too few to judge a knob by."""
        enough = self.history.lengths >= MIN_VALIDATION_EVENTS
        return np.where(enough, self.history.last(), NO_ITEM)


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranked:
    """A baseline's answer.

    Args:
        lists: int64[U, k], distinct items, best first; NO_ITEM fills lists that are too short.
        seconds: Wall time of tuning, fitting and ranking together.
        knob: What was chosen on validation, empty where nothing was.
        train_events_per_second: Next items learned per second of training, None where nothing
            is trained step by step.
    """

    lists: Longs
    seconds: float
    knob: Mapping[str, float | str] = field(default_factory=dict)
    train_events_per_second: float | None = None


def refuse_too_slow(needed_s: float, task: LeaveOneOutTask) -> None:
    """Give up what would not end in time.

    Raises:
        TooSlowError: more seconds are needed than the task allows.
    """
    if needed_s > task.budget_s:
        raise TooSlowError(f"it takes about {needed_s:.0f} s, {task.budget_s:.0f} s are allowed")


class Baseline(Protocol):
    """Ranks the items of a task; the same seed gives the same lists."""

    def __call__(self, task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
        """Lists of k items for all users of the task."""
