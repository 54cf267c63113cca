"""The model context leaves flagged users out of everything that is learned or judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from behavior_model.context import ModelContext
from pipelines.contracts import USER_FLAGS
from pipelines.erasure import suppress, user_hash
from pipelines.workspace import Workspace
from tests.ranking_shop import AS_OF_US, ranking_context
from tests.rhythm_shop import WINDOW_US

NUM_USERS = 12


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    ranking_context(workspace, NUM_USERS)
    return workspace


def flag(workspace: Workspace, users: list[str]) -> ModelContext:
    flags = {
        "user_id": users,
        "flag": ["bot"] * len(users),
        "reason": ["planted"] * len(users),
        "score": [9.0] * len(users),
    }
    write_deltalake(str(workspace.table(USER_FLAGS.name)), pa.table(flags))
    return ModelContext.open(workspace, as_of_us=AS_OF_US)


def test_flagged_users_have_no_history_and_no_future(workspace: Workspace) -> None:
    everybody = ModelContext.open(workspace, as_of_us=AS_OF_US).histories(AS_OF_US).user_ids
    bots = [everybody[2], everybody[7]]
    context = flag(workspace, bots)
    customers = [user for user in everybody if user not in bots]
    for moment in (AS_OF_US, AS_OF_US - WINDOW_US):
        assert context.histories(moment).user_ids == customers
    assert context.futures(AS_OF_US - WINDOW_US).user_ids == customers
    assert context.test_futures.user_ids == customers
    assert context.states(AS_OF_US).user_ids == customers


def test_who_is_to_be_forgotten_has_no_history_and_no_future(workspace: Workspace) -> None:
    everybody = ModelContext.open(workspace, as_of_us=AS_OF_US).histories(AS_OF_US).user_ids
    suppress(workspace, user_hash(everybody[2]))
    context = flag(workspace, [everybody[7]])
    customers = [user for user in everybody if user not in (everybody[2], everybody[7])]
    assert context.histories(AS_OF_US).user_ids == customers
    suppress(workspace, user_hash(customers[0]))  # asked for while heads are fitted
    assert context.test_futures.user_ids == customers
    assert context.futures(AS_OF_US - WINDOW_US).user_ids == customers
    bots = context.flagged_states(AS_OF_US)
    assert bots is not None
    assert bots.user_ids == [everybody[7]]


def test_flagged_users_are_embedded_as_before(workspace: Workspace) -> None:
    before = ModelContext.open(workspace, as_of_us=AS_OF_US)
    assert before.flagged_states(AS_OF_US) is None
    expected = before.states(AS_OF_US)
    bot = expected.user_ids[5]
    states = flag(workspace, [bot]).flagged_states(AS_OF_US)
    assert states is not None
    assert states.user_ids == [bot]
    np.testing.assert_allclose(states.embedding[0], expected.embedding[5], atol=1e-5)


def test_without_flagged_users_the_futures_are_those_of_the_same_people(
    workspace: Workspace,
) -> None:
    full = ModelContext.open(workspace, as_of_us=AS_OF_US).test_futures
    rest = flag(workspace, full.user_ids[:3]).test_futures
    np.testing.assert_array_equal(rest.amounts, full.amounts[3:])
    assert [one.tolist() for one in rest.items] == [one.tolist() for one in full.items[3:]]


def test_the_events_of_a_future_are_those_of_its_window(workspace: Workspace) -> None:
    context = flag(workspace, [])
    for time, future in (
        (context.validation_time, context.futures(context.validation_time)),
        (context.test_time, context.test_futures),
    ):
        assert future.events.user_ids == future.user_ids
        assert future.events.times_us.min() >= time
        assert future.events.times_us.max() < time + context.window_us
        assert future.count().tolist() == future.num_events.tolist()
        assert future.count(event_type="purchase").tolist() == future.num_purchases.tolist()
        assert future.money().tolist() == pytest.approx(future.amounts.tolist())


def test_no_window_that_reaches_past_the_cut_is_learned_from(workspace: Workspace) -> None:
    context = ModelContext.open(workspace, as_of_us=AS_OF_US)
    assert len(context.futures(AS_OF_US - WINDOW_US)) > 0
    for late in (AS_OF_US - WINDOW_US + 1, AS_OF_US):
        with pytest.raises(ValueError, match="only test_futures may judge it"):
            context.futures(late)
    assert len(context.test_futures) > 0
    with pytest.raises(ValueError, match="only test_futures may judge it"):
        context.futures(AS_OF_US)  # also where the same futures were read for judging
