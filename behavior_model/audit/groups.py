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
from behavior_model.metrics import auc

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NUM_RESAMPLES: Final = 200
MIN_OF_AN_OUTCOME: Final = 10
"""Users of either outcome below which an AUC says nothing."""
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
        error: Standard error of the value over such users; drawn by bootstrap where there is none.
    """

    task: str
    metric: str
    known: Bools
    of: Callable[[Longs], float]
    error: Callable[[Longs], float] | None = None


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
        interval: 95 per cent interval of the difference, group minus others.
        p_value: Two-sided, that there is no difference, by a normal law with the figure's error.
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

    The error of a calibration gap is the one that outcomes drawn with the predicted chances have
    (Spiegelhalter, 1986): among few users a rare outcome may not have happened at all, and then
    resampling them knows of no doubt.

    Args:
        task: Its name.
        labels: float64[U], NaN where the question is not asked.
        chances: float64[U], predicted.
    """
    known = ~np.isnan(labels)

    def area(users: Longs) -> float:
        outcomes = labels[users].sum(), len(users) - labels[users].sum()
        enough = min(outcomes) >= MIN_OF_AN_OUTCOME
        return auc(labels[users], chances[users]) if enough else float("nan")

    def gap(users: Longs) -> float:
        return float(chances[users].mean() - labels[users].mean())

    def error(users: Longs) -> float:
        drawn = chances[users] * (1.0 - chances[users])
        return float(np.sqrt(drawn.sum()) / len(users))

    return [
        Figure(task=task, metric="auc", known=known, of=area),
        Figure(task=task, metric="calibration gap", known=known, of=gap, error=error),
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
    if not np.isfinite(group - others):
        return None
    error = _error(figure, inside, outside, seed)
    if not error > 0:
        return None
    difference, reach = group - others, float(norm.ppf(0.975)) * error
    return GroupFigure(
        field=field,
        value=value,
        task=figure.task,
        metric=figure.metric,
        num_users=len(inside),
        group=group,
        others=others,
        interval=(difference - reach, difference + reach),
        p_value=float(2 * norm.sf(abs(difference) / error)),
    )


def _error(figure: Figure, inside: Longs, outside: Longs, seed: int) -> float:
    """Standard error of the difference."""
    if figure.error is not None:
        return float(np.hypot(figure.error(inside), figure.error(outside)))
    rng = np.random.default_rng(seed)

    def drawn(users: Longs) -> float:
        return figure.of(users[rng.integers(0, len(users), len(users))])

    draws = [drawn(inside) - drawn(outside) for _ in range(NUM_RESAMPLES)]
    return float(np.nanstd(draws)) if np.isfinite(draws).sum() > 1 else float("nan")
