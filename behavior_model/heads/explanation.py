"""Why a target stands where it stands in a user's list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from behavior_model.embedding import UserStates
from behavior_model.heads.recommendation import RecommendationHead
from pipelines.tokens.history import Histories

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What lifts a target above the other candidates of its user, the strongest feature first.

    Args:
        names: F features; the part before the slash says which memory speaks.
        values: float64[F], the target's, NaN where unknown.
        lifts: float64[F], what the feature adds to the target's score more than to the mean of the
            user's candidates; they sum to the score less that mean.
    """

    names: tuple[str, ...]
    values: Doubles
    lifts: Doubles


def explain(
    head: RecommendationHead,
    histories: Histories,
    states: UserStates,
    prediction_time_us: int,
    target: int,
    k: int,
) -> Explanation | None:
    """Why a target is ranked as it is; None where it is no candidate of the user, or nothing is
    known of the user, so that the list is what is popular.

    Args:
        head: The ranking.
        histories: One user, before the prediction time.
        states: The backbone's states of the user.
        prediction_time_us: UTC microseconds.
        target: Item index, or position of the category.
        k: Length of the list; a longer one has more candidates.
    """
    interactions, table = head.candidates(histories, states, prediction_time_us, k)
    (rows,) = np.nonzero(table.targets == target)
    if len(rows) == 0 or interactions.empty_users[0]:
        return None
    row = int(rows[0])
    added = head.mixture.contributions(table)
    lifts = np.asarray([added[name][row] - added[name].mean() for name in table.names])
    order = np.argsort(-np.abs(lifts), kind="stable")
    return Explanation(
        names=tuple(table.names[i] for i in order),
        values=table.values[row].astype(np.float64)[order],
        lifts=lifts[order],
    )
