"""Whom a model serves worse: figures of each group of users beside those of all others.

Legend: U users, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import false_discovery_control, norm

from behavior_model.audit.profiles import usable
from behavior_model.evaluation.metrics import auc

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NUM_RESAMPLES: Final = 200
FALSE_ALARMS: Final = 0.05
"""Share of the differences called real that may be chance (Benjamini and Hochberg, 1995)."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure that can be taken of any set of users.

    Args:
        task: Task name.
        metric: "auc", "ndcg@10", or "calibration gap": mean predicted minus observed rate.
        known: bool[U], users that the question is asked of.
        of: Takes int64[n] positions of users, gives the value; NaN where it cannot be told.
    """

    task: str
    metric: str
    known: Bools
    of: Callable[[Longs], float]


@dataclass(frozen=True, kw_only=True)
class GroupFigure:
    """A figure of one group.

    Args:
        field: Profile field.
        value: The value that the group shares.
        task: Task name.
        metric: As in `Figure`.
        num_users: Users of the group that were judged.
        group: The figure of the group.
        others: The figure of everybody else with a known value.
        interval: 95 per cent bootstrap interval of the difference, group minus others.
        p_value: Two-sided, that there is no difference; a normal law with the bootstrap's error.
        differs: Whether the difference stands when all comparisons of the audit are counted.
    """

    field: str
    value: str
    task: str
    metric: str
    num_users: int
    group: float
    others: float
    interval: tuple[float, float]
    p_value: float
    differs: bool = False

    @property
    def difference(self) -> float:
        """Group minus others."""
        return self.group - self.others


def binary_figures(task: str, labels: Doubles, chances: Doubles) -> list[Figure]:
    """Ranking and calibration of a binary task.

    Args:
        task: Its name.
        labels: float64[U], NaN where the question is not asked.
        chances: float64[U], predicted.
    """
    known = ~np.isnan(labels)

    def area(users: Longs) -> float:
        return auc(labels[users], chances[users])

    def gap(users: Longs) -> float:
        return float(chances[users].mean() - labels[users].mean())

    return [
        Figure(task=task, metric="auc", known=known, of=area),
        Figure(task=task, metric="calibration gap", known=known, of=gap),
    ]


def mean_figure(task: str, metric: str, per_user: Doubles) -> Figure:
    """A figure that is a mean over users (float64[U], NaN where a user has none)."""
    return Figure(
        task=task,
        metric=metric,
        known=~np.isnan(per_user),
        of=lambda users: float(per_user[users].mean()),
    )


def compare(
    field: str, values: Sequence[str | None], figures: Sequence[Figure], *, seed: int
) -> list[GroupFigure]:
    """Every figure of every group of a field beside the others; nothing of an unusable field."""
    codes, kept = usable(values)
    found = []
    for code, value in enumerate(kept):
        for figure in figures:
            inside = np.flatnonzero((codes == code) & figure.known)
            outside = np.flatnonzero((codes >= 0) & (codes != code) & figure.known)
            one = _compared(field, value, figure, inside, outside, seed)
            if one is not None:
                found.append(one)
    return found


def judged(rows: Sequence[GroupFigure]) -> list[GroupFigure]:
    """The same rows, told which differences stand when all of them are counted."""
    if not rows:
        return []
    adjusted = false_discovery_control([row.p_value for row in rows])
    return [
        replace(row, differs=bool(chance <= FALSE_ALARMS))
        for row, chance in zip(rows, adjusted, strict=True)
    ]


def _compared(
    field: str, value: str, figure: Figure, inside: Longs, outside: Longs, seed: int
) -> GroupFigure | None:
    if len(inside) == 0 or len(outside) == 0:
        return None
    group, others = figure.of(inside), figure.of(outside)
    rng = np.random.default_rng(seed)

    def drawn(users: Longs) -> float:
        return figure.of(users[rng.integers(0, len(users), len(users))])

    draws = np.asarray([drawn(inside) - drawn(outside) for _ in range(NUM_RESAMPLES)])
    error = float(np.nanstd(draws)) if np.isfinite(draws).sum() > 1 else float("nan")
    if not np.isfinite(group - others) or not error > 0:
        return None
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return GroupFigure(
        field=field,
        value=value,
        task=figure.task,
        metric=figure.metric,
        num_users=len(inside),
        group=group,
        others=others,
        interval=(float(low), float(high)),
        p_value=float(2 * norm.sf(abs(group - others) / error)),
    )
