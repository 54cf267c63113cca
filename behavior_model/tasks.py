"""User tasks: a task is a short Python function over what is past and what comes.

A new question about users is a few lines:

    @user_task("churn", kind=TaskKind.BINARY)
    def churn(past: Past, future: Futures) -> Doubles:
        return (future.num_purchases == 0).astype(float)

The platform makes its labels at prediction times whose windows have passed, trains, calibrates,
compares with baselines and serves it. NaN marks a user whom the question is not asked of: nothing
is learned from such a user or judged; a fitted head answers everybody, and its `familiarity` says
who is unlike those it was asked of. A company
keeps its own questions in a Python file that `company.yaml` names (`load_tasks`).
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from behavior_model.context import Futures, ModelContext
from pipelines.contracts import PURCHASE
from pipelines.errors import CompanyConfigError, UnknownNameError, UserError
from pipelines.tokens.binning import DAY_US, Longs
from pipelines.tokens.history import Histories
from pipelines.tokens.selection import (
    count_by_user,
    events_where,
    is_event_type,
    money_by_user,
    sells,
)
from pipelines.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from behavior_model.embedding import UserStates

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class UserTaskError(UserError, ValueError):
    """A label function fails, or does not keep what it promises."""


class TaskKind(StrEnum):
    """What a task's labels are."""

    BINARY = "binary"  # 0 or 1; the answer is a calibrated probability
    REGRESSION = "regression"  # a number; the answer is its expected value


@dataclass(frozen=True, kw_only=True)
class Past:
    """What is known of U users at a prediction time.

    Args:
        histories: Events before the prediction time.
        prediction_times_us: int64[U], UTC microseconds.
        window_us: Length of the window that the task looks ahead.
        vocabulary: What the token indices mean.
    """

    histories: Histories
    prediction_times_us: npt.NDArray[np.int64]
    window_us: int
    vocabulary: Vocabulary

    @property
    def window_days(self) -> float:
        """Length of the window that the task looks ahead."""
        return self.window_us / DAY_US

    @property
    def sells(self) -> bool:
        """Whether anybody bought anything before the training cut."""
        return sells(self.vocabulary)

    def num_purchases(self, days: float | None = None) -> Longs:
        """int64[U]: purchase events in the last `days` (by default the length of the window)."""
        return count_by_user(self.histories, self._bought & self._within(days))

    def amounts(self, days: float | None = None) -> Doubles:
        """float64[U]: money spent in the last `days` (by default the length of the window)."""
        return money_by_user(self.histories, self._bought & self._within(days))

    def count(self, days: float | None = None, **values: str) -> Longs:
        """int64[U]: events in the last `days` (by default the length of the window) that have all
        of some values: `past.count(7, event_type="cart", category="Shoes")`.

        Args:
            days: How far back.
            values: Value by field; see `pipelines.tokens.selection.events_where`.

        Raises:
            UnknownNameError: no such field, or no event before the training cut had such a value.
        """
        return count_by_user(self.histories, self._where(days, values))

    def money(self, days: float | None = None, **values: str) -> Doubles:
        """float64[U]: money of such events, of any type unless one is named; see `count`."""
        return money_by_user(self.histories, self._where(days, values))

    def _where(self, days: float | None, values: Mapping[str, str]) -> Bools:
        return events_where(self.vocabulary, self.histories, values) & self._within(days)

    @cached_property
    def _ages_us(self) -> Longs:
        times = self.prediction_times_us[self.histories.user_positions]
        return times - self.histories.times_us

    @cached_property
    def _bought(self) -> Bools:
        return is_event_type(self.vocabulary, self.histories, PURCHASE)

    def _within(self, days: float | None) -> Bools:
        limit = self.window_us if days is None else days * DAY_US
        return np.asarray(self._ages_us <= limit)


LabelFunction = Callable[[Past, Futures], Doubles]
ZeroShot = Callable[["UserStates"], Doubles]


@dataclass(frozen=True, kw_only=True)
class UserTask:
    """A registered question about users.

    Args:
        name: Its name at every border (command line, HTTP, tables).
        kind: What its labels are.
        label: float64[U] from past and future; NaN where the question is not asked.
        source: SHA-256 of the company's file that it stands in, "" for those of the platform.
        zero_shot: What the backbone answers without a head, float64[U] from its states of the
            users; None where it says nothing of the question.
        of_purchases: Whether it can be asked only where something is sold.
    """

    name: str
    kind: TaskKind
    label: LabelFunction
    source: str = ""
    zero_shot: ZeroShot | None = None
    of_purchases: bool = False


MIN_OUTCOMES: Final = 10
NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TASKS: Final[dict[str, UserTask]] = {}


def user_task(
    name: str, *, kind: TaskKind, zero_shot: ZeroShot | None = None, of_purchases: bool = False
) -> Callable[[LabelFunction], LabelFunction]:
    """Register a label function as a user task; the arguments are those of `UserTask`.

    Raises:
        ValueError: the name is taken, or is none that a folder and an address can have.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(
            f"user task '{name}': give a name of a to z, 0 to 9 and _, beginning with a letter"
        )

    def register(label: LabelFunction) -> LabelFunction:
        if name in _TASKS:
            raise ValueError(f"user task '{name}' is registered already; choose another name")
        _TASKS[name] = UserTask(
            name=name, kind=kind, label=label, zero_shot=zero_shot, of_purchases=of_purchases
        )
        return label

    return register


def load_tasks(path: Path | None) -> None:
    """Run a company's Python file and register its tasks; those of a file run before are gone.

    Args:
        path: The file; None: the company has none.

    Raises:
        CompanyConfigError: there is no such file, it fails, or it registers no task.
    """
    for name in [name for name, task in _TASKS.items() if task.source]:
        del _TASKS[name]
    if path is None:
        return
    if not path.is_file():
        raise CompanyConfigError(f"{path}: no such file. Correct 'tasks' in company.yaml.")
    before = set(_TASKS)
    try:
        runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        for name in set(_TASKS) - before:
            del _TASKS[name]
        raise CompanyConfigError(
            f"{path}: the file of user tasks failed with {type(error).__name__}: {error}. "
            "Correct it and run again."
        ) from error
    if before == set(_TASKS):
        raise CompanyConfigError(
            f"{path}: registers no task. Write a function with @user_task above it, or take "
            "'tasks' out of company.yaml."
        )
    digest = sha256(path.read_bytes()).hexdigest()
    for name in set(_TASKS) - before:
        _TASKS[name] = replace(_TASKS[name], source=digest)


def get_user_task(name: str) -> UserTask:
    """The task of that name.

    Raises:
        UnknownNameError: no such task; the message lists the known ones.
    """
    if name not in _TASKS:
        raise UnknownNameError("user task", name, _TASKS)
    return _TASKS[name]


def user_task_names() -> tuple[str, ...]:
    """Names of all registered tasks, sorted."""
    return tuple(sorted(_TASKS))


def past_at(context: ModelContext, prediction_time_us: int) -> Past:
    """What is known of all users at a prediction time."""
    histories = context.histories(prediction_time_us)
    return Past(
        histories=histories,
        prediction_times_us=np.full(len(histories), prediction_time_us, dtype=np.int64),
        window_us=context.window_us,
        vocabulary=context.vocabulary,
    )


def labels_at(context: ModelContext, task: UserTask, prediction_time_us: int) -> Doubles:
    """float64[U]: labels to learn from, aligned to `context.histories(prediction_time_us)`.

    Raises:
        ValueError: the window reaches past the test cut.
        UserTaskError: the task failed, or gave another shape or, being binary, something other
            than 0, 1 or NaN.
    """
    return make_labels(
        task, past_at(context, prediction_time_us), context.futures(prediction_time_us)
    )


def try_own_tasks(context: ModelContext) -> None:
    """Ask a company's own questions once, of the newest window that may be learned from, so that a
    mistake in its file shows before a training that takes hours.

    Raises:
        UserTaskError: as in `labels_at`.
    """
    for task in _TASKS.values():
        if task.source:
            labels_at(context, task, context.validation_time)


def can_be_learned(task: UserTask, context: ModelContext) -> bool:
    """Whether windows that may be learned from tell enough: somebody is asked in the newest, and
    answers differ, each of two outcomes `MIN_OUTCOMES` times."""
    newest = labels_at(context, task, context.validation_time)
    earlier = [labels_at(context, task, time) for time in context.training_times]
    labels = np.concatenate([newest, *earlier])
    return not np.isnan(newest).all() and tell_enough(labels[~np.isnan(labels)], task.kind)


def tell_enough(labels: Doubles, kind: TaskKind) -> bool:
    """Whether labels differ, each of two outcomes `MIN_OUTCOMES` times."""
    values, counts = np.unique(labels, return_counts=True)
    if len(values) < 2:
        return False
    return kind is TaskKind.REGRESSION or bool(counts.min() >= MIN_OUTCOMES)


def answers_without_head(task: UserTask, states: UserStates) -> Doubles | None:
    """float64[U]: what the backbone answers by itself; None where it says nothing of the question.

    Raises:
        UserTaskError: `zero_shot` failed, or gave something other than one finite number per user.
    """
    if task.zero_shot is None:
        return None
    try:
        answers: Doubles = np.asarray(task.zero_shot(states), dtype=np.float64)
    except Exception as error:
        raise UserTaskError(
            f"zero_shot of user task '{task.name}' failed with {type(error).__name__}: {error}. "
            "Correct it, or leave it out, and run the same command."
        ) from error
    if answers.shape != (len(states),) or not np.isfinite(answers).all():
        raise UserTaskError(
            f"zero_shot of user task '{task.name}' gave shape {answers.shape}; return one finite "
            f"number per user, shape ({len(states)},), or leave it out"
        )
    return answers


def make_labels(task: UserTask, past: Past, future: Futures) -> Doubles:
    """A task's labels with its promises checked; errors as in `labels_at`."""
    try:
        labels: Doubles = np.asarray(task.label(past, future), dtype=np.float64)
    except Exception as error:
        raise UserTaskError(
            f"user task '{task.name}' failed with {type(error).__name__}: {error}. Correct its "
            "function and run the same command."
        ) from error
    if labels.shape != (len(future),):
        raise UserTaskError(
            f"user task '{task.name}' gave labels of shape {labels.shape}; "
            f"return one number per user, shape ({len(future)},)"
        )
    asked = labels[~np.isnan(labels)]
    if np.isinf(asked).any():
        raise UserTaskError(
            f"user task '{task.name}' gave {int(np.isinf(asked).sum())} infinite labels, as of a "
            "division by zero; return a number, or NaN where the question is not asked"
        )
    if task.kind is TaskKind.BINARY and not np.isin(asked, (0.0, 1.0)).all():
        raise UserTaskError(
            f"binary user task '{task.name}' gave labels other than 0, 1 and NaN; "
            "return 0 or 1, or register it with kind=TaskKind.REGRESSION"
        )
    return labels


def _inactive(states: UserStates) -> Doubles:
    chances: Doubles = states.inactive.astype(np.float64)
    return chances


@user_task("churn", kind=TaskKind.BINARY, zero_shot=_inactive)
def churn(past: Past, future: Futures) -> Doubles:
    """No purchase in the window, or, where nothing is sold, no event of any kind; asked of
    everybody with any history."""
    there = future.num_purchases if past.sells else future.num_events
    return np.where(there == 0, 1.0, 0.0)


@user_task("spend_drop", kind=TaskKind.BINARY, of_purchases=True)
def spend_drop(past: Past, future: Futures) -> Doubles:
    """Spends less than half of the mean of the last three windows; asked of those who spent."""
    usual = past.amounts(days=3 * past.window_days) / 3
    dropped = (future.amounts < 0.5 * usual).astype(np.float64)
    dropped[usual <= 0] = np.nan
    return dropped


@user_task("next_spend", kind=TaskKind.REGRESSION, of_purchases=True)
def next_spend(past: Past, future: Futures) -> Doubles:
    """Money spent in the window."""
    return future.amounts
