"""User tasks: short functions over past and future, with leak-free labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from behavior_model.context import Futures, ModelContext
from behavior_model.tasks import (
    MIN_OUTCOMES,
    Past,
    TaskKind,
    UserTask,
    UserTaskError,
    can_be_learned,
    get_user_task,
    make_labels,
    user_task,
    user_task_names,
)
from pipelines.errors import UnknownNameError
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.vocabulary import PROBE_TYPE
from pipelines.workspace import Workspace
from tests.ranking_shop import ranking_context
from tests.small_shop import AS_OF_US, histories, vocabulary

NUM_USERS = 3


def past(num_events: int = 4) -> Past:
    return Past(
        histories=histories(num_events),
        prediction_times_us=np.full(NUM_USERS, AS_OF_US),
        window_us=28 * DAY_US,
        vocabulary=vocabulary(),
    )


def future(amounts: list[float], num_purchases: list[int]) -> Futures:
    nothing = [np.zeros(0, dtype=np.int64)] * NUM_USERS
    return Futures(
        user_ids=["ada", "bob", "cyd"],
        num_events=np.asarray(num_purchases),
        num_purchases=np.asarray(num_purchases),
        amounts=np.asarray(amounts),
        items=nothing,
        item_counts=nothing,
        categories=nothing,
        prediction_time_us=AS_OF_US - 3 * DAY_US,
        vocabulary=vocabulary(),
        read_events=lambda: histories(2),
    )


def test_churn_is_no_purchase_in_the_window() -> None:
    labels = make_labels(get_user_task("churn"), past(), future([0.0, 3.0, 0.0], [0, 2, 1]))
    assert labels.tolist() == [1.0, 0.0, 0.0]


def test_spend_drop_compares_with_a_third_of_three_windows_and_asks_only_who_spent() -> None:
    before = past(6)  # six purchases of 2.5 each: 15 in 84 days, 5 per window
    labels = make_labels(get_user_task("spend_drop"), before, future([2.4, 2.6, 9.0], [1, 1, 3]))
    assert labels.tolist() == [1.0, 0.0, 0.0]
    empty = replace(before, histories=before.histories.before(0))
    assert np.isnan(
        make_labels(get_user_task("spend_drop"), empty, future([1.0] * 3, [1] * 3))
    ).all()


def test_past_counts_only_the_days_asked_for() -> None:
    assert past(4).num_purchases(days=2.5).tolist() == [2, 2, 2]
    assert past(4).amounts(days=2.5).tolist() == [5.0, 5.0, 5.0]
    assert past(4).num_purchases().tolist() == [4, 4, 4]


def test_past_and_future_count_events_by_their_values() -> None:
    before, after = past(4), future([0.0] * 3, [0] * 3)
    assert before.count(2.5, event_type="purchase", store="north").tolist() == [2, 2, 2]
    assert before.count(event_type="page_view").tolist() == [0, 0, 0]
    assert before.money(category="food").tolist() == [5.0, 5.0, 5.0]
    assert after.count().tolist() == [2, 2, 2]
    assert after.count(after_days=1).tolist() == [2, 1, 1], "others began hours earlier"
    assert after.money(item_id="item-00").tolist() == [2.5, 0.0, 0.0]


def test_an_unknown_value_in_a_question_is_named() -> None:
    def cancels(past: Past, future: Futures) -> np.ndarray:
        return np.where(future.count(event_type="cancelled") > 0, 1.0, 0.0)

    task = UserTask(name="cancels", kind=TaskKind.BINARY, label=cancels)
    with pytest.raises(UserTaskError, match=r"Unknown event_type 'cancelled'\. Known: page"):
        make_labels(task, past(), future([0.0] * 3, [0] * 3))


def test_where_nothing_is_sold_churn_is_no_event_at_all() -> None:
    known = vocabulary()
    types = replace(known.field("event_type"), values=(PROBE_TYPE, "shift", "sick_day"))
    fields = tuple(types if one.name == "event_type" else one for one in known.fields)
    before = replace(past(), vocabulary=replace(known, fields=fields))
    after = replace(future([0.0] * 3, [0] * 3), num_events=np.asarray([0, 5, 1]))
    assert make_labels(get_user_task("churn"), before, after).tolist() == [1.0, 0.0, 0.0]


def test_unknown_task_is_refused_with_a_guess() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'churn'"):
        get_user_task("chrun")


def test_a_name_is_registered_once() -> None:
    before = user_task_names()
    with pytest.raises(ValueError, match="registered already"):
        user_task("churn", kind=TaskKind.BINARY)(lambda past, future: future.amounts)
    assert user_task_names() == before


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda past, future: np.zeros(2), "one number per user"),
        (lambda past, future: np.full(NUM_USERS, 0.5), "other than 0, 1 and NaN"),
        (
            lambda past, future: np.full(NUM_USERS, -np.inf),
            "3 infinite labels.*return a number",
        ),
        (lambda past, future: future.nothing, "'wrong' failed with AttributeError.*'nothing'"),
    ],
)
def test_wrong_labels_are_refused(label: object, message: str) -> None:
    task = UserTask(name="wrong", kind=TaskKind.BINARY, label=label)  # type: ignore[arg-type]
    with pytest.raises(UserTaskError, match=message):
        make_labels(task, past(), future([0.0] * 3, [0] * 3))


def learned(context: ModelContext, labels: list[float], newest: list[float]) -> bool:
    """Whether a task can be learned that gives some labels in the newest window, others before."""
    asked = iter([newest, *[labels] * len(context.training_times)])

    def label(past: Past, future: Futures) -> np.ndarray:
        found = np.full(len(future), np.nan)
        given = next(asked)
        found[: len(given)] = given
        return found

    return can_be_learned(UserTask(name="asked", kind=TaskKind.BINARY, label=label), context)


def test_hardly_any_outcome_is_nothing_to_learn_from(tmp_path: Path) -> None:
    context = ranking_context(Workspace(tmp_path))
    times = len(context.training_times)
    assert times >= 2
    many = [0.0] * 9 + [1.0] * MIN_OUTCOMES
    assert learned(context, many, [0.0])
    assert not learned(context, [0.0] * 10, [1.0])
    assert not learned(context, [1.0] * 10, [1.0])
    assert not learned(context, many, []), "nobody is asked in the newest window"
