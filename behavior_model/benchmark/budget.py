"""How a run spends its wall time: what is left after reading goes to trainings and mixture.

What a user costs is measured on a few of them before anything is trained, so that a large catalogue
shortens the trainings and does not lengthen the run.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from behavior_model.benchmark.baselines.task import LeaveOneOutTask
from behavior_model.benchmark.features import NUM_THREADS, feature_table
from behavior_model.benchmark.interactions import Longs
from behavior_model.benchmark.memories import HistoryMemories
from behavior_model.benchmark.recipe import EPOCHS
from behavior_model.benchmark.shop import Outputs

MAX_MEMBERS: Final = 4
"""Backbones from different seeds whose opinions are averaged, as many as the budget pays for."""

MAX_LEARNED_USERS: Final = 50_000
MIN_LEARNED_USERS: Final = 2_000
MAX_LEARNED_PAIRS: Final = 10_000_000
"""Judged users that the mixture learns from, and their candidates, which take 700 bytes each at the
peak; memory does not grow with the others."""

BASELINES_SHARE: Final = 0.25
LEARNING_SHARE: Final = 0.25
"""At most, of what is left, for baselines and for learning the mixture."""

MIN_TRAINING_SHARE: Final = 0.2
SIDE_BY_SIDE: Final = 1.3
"""How much slower a training is beside another one on the same memory."""

SLACK: Final = 0.95
NUM_PROBED_USERS: Final = 128
SCORING_S: Final = 7e-6
FITTING_S: Final = 30e-6
"""Seconds per candidate pair for the mixture to score it and to learn from it, on two cores: rough,
and rather more than less."""


@dataclass(frozen=True)
class Deadline:
    """When a run should end.

    Args:
        at: On the monotonic clock.
    """

    at: float

    @classmethod
    def after(cls, minutes: float) -> Deadline:
        """So many minutes from now."""
        return cls(time.monotonic() + minutes * 60)

    @property
    def left_s(self) -> float:
        """Seconds until then, at least 0."""
        return max(self.at - time.monotonic(), 0.0)


@dataclass(frozen=True, kw_only=True)
class UserCost:
    """Seconds that the mixture takes per user, without the trainings.

    Args:
        listing_s: To make and score the candidates of a user.
        learning_s: To make and learn from those of a validation user.
        num_pairs: Candidates of a user.
    """

    listing_s: float
    learning_s: float
    num_pairs: float

    @classmethod
    def measured(cls, task: LeaveOneOutTask, memories: HistoryMemories, width: int) -> UserCost:
        """From a few users, with vectors of the backbone's width that mean nothing."""
        num_users = len(task.history)
        users = np.unique(np.linspace(0, num_users - 1, NUM_PROBED_USERS).astype(np.int64))
        rng = np.random.default_rng(0)
        items = rng.standard_normal((task.history.num_items, width + 1), dtype=np.float32)

        def num_pairs(some: Longs) -> int:
            sample = LeaveOneOutTask(
                history=task.history.select(some), mask_history=task.mask_history
            )
            queries = rng.standard_normal((len(some), width + 1), dtype=np.float32)
            return len(feature_table(sample, [Outputs(queries, items)], memories))

        num_pairs(users[:1])  # what is made once is no cost of a user
        begun = time.monotonic()
        with ThreadPoolExecutor(NUM_THREADS) as pool:  # as lists are made
            found = sum(
                pool.map(num_pairs, np.array_split(users, min(2 * NUM_THREADS, len(users))))
            )
        seconds, pairs = (one / len(users) for one in (time.monotonic() - begun, found))
        return cls(
            listing_s=seconds + pairs * SCORING_S,
            learning_s=seconds + pairs * FITTING_S,
            num_pairs=pairs,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one seed's run may do.

    Args:
        epochs: Passes of each training.
        share: Of the histories, how many a pass reads; less than all where there is no time for a
            whole pass.
        num_members: Backbones from different seeds.
        num_learned: Validation users that the mixture learns from.
        listing_s: Seconds that the lists of all users will take, which nothing can shorten.
    """

    epochs: int
    share: float
    num_members: int
    num_learned: int
    listing_s: float

    def __str__(self) -> str:
        passes = f"{self.epochs} epochs" if self.share == 1 else f"{self.share:.0%} of an epoch"
        return (
            f"{passes}, two trainings side by side, {self.num_members} of each; "
            f"the mixture learns from at most {self.num_learned:,} users, the lists take about "
            f"{self.listing_s:,.0f} s"
        )


def plan(
    seconds_left: float, epoch_s: float, cost: UserCost, num_users: int, num_seeds: int
) -> Plan:
    """Divide the time; a small budget pays for fewer epochs, a large one for more members.

    Args:
        seconds_left: For all seeds together, baselines taken off.
        epoch_s: Seconds of one epoch of one training that has the machine to itself.
        cost: Of a user.
        num_users: Users that lists are made for.
        num_seeds: Runs that share the time.
    """
    own_s = seconds_left / num_seeds
    affordable = int(own_s * LEARNING_SHARE / cost.learning_s)
    in_memory = min(MAX_LEARNED_USERS, int(MAX_LEARNED_PAIRS / max(cost.num_pairs, 1.0)))
    num_learned = int(np.clip(affordable, min(MIN_LEARNED_USERS, in_memory), in_memory))
    listing_s = num_users * cost.listing_s
    mixing_s = listing_s + min(num_learned, num_users) * cost.learning_s
    training_s = max(own_s * SLACK - mixing_s, own_s * MIN_TRAINING_SHARE)
    affordable_epochs = training_s / max(epoch_s * SIDE_BY_SIDE, 1e-3)
    epochs = int(affordable_epochs)
    return Plan(
        epochs=max(1, min(EPOCHS, epochs)),
        share=min(1.0, affordable_epochs),
        num_members=max(1, min(MAX_MEMBERS, epochs // EPOCHS)),
        num_learned=num_learned,
        listing_s=listing_s,
    )
