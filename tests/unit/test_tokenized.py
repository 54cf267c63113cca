"""Who changed since sequences were made is known after the events' past was forgotten, too."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.erasure import suppress, user_hash
from pipelines.flow.lake_erasure import erase_from, expire, forget_past
from pipelines.flow.tokenized import BEFORE_CUT, MadeFrom, pending_changes
from pipelines.stages.changes import Changes
from pipelines.workspace import Workspace

DAYS = pa.timestamp("us", tz="UTC")
OLD, NEW = datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 3, 2, tzinfo=UTC)


def add(workspace: Workspace, time: datetime, *users: str) -> None:
    rows = {"user_id": list(users), "event_time": pa.array([time] * len(users), DAYS)}
    write_deltalake(
        str(workspace.table("events")),
        pa.table(rows),
        mode="append",
        configuration={"delta.enableChangeDataFeed": "true"},
    )


def made(workspace: Workspace) -> MadeFrom:
    found = MadeFrom.load(workspace)
    assert found is not None
    return found


def pending(workspace: Workspace) -> Changes:
    found = pending_changes(workspace, made(workspace))
    assert found is not None
    return found


def erase(workspace: Workspace, user: str) -> None:
    suppress(workspace, user_hash(user))
    erase_from(workspace, "events", user)


@pytest.fixture
def tokenized(workspace: Workspace) -> Workspace:
    """Sequences of three users, made of the first version of the events."""
    add(workspace, OLD, "ada", "bob", "eve")
    MadeFrom(
        events_id="",
        events_version=0,
        learned_version=0,
        judged_version=0,
        vocabulary_id="",
        as_of="2024-02-01T00:00:00+00:00",
        window_days=28,
        columns=[],
    ).save(workspace)
    return workspace


def test_an_erasure_leaves_nobody_to_be_made_again(tokenized: Workspace) -> None:
    erase(tokenized, "ada")
    assert pending(tokenized) == Changes.none(3)
    assert made(tokenized).events_version == DeltaTable(str(tokenized.table("events"))).version()


def test_changes_before_an_erasure_are_carried_and_later_ones_added(tokenized: Workspace) -> None:
    add(tokenized, OLD, "bob", "ada")
    erase(tokenized, "ada")
    assert pending(tokenized).user_ids == ["bob"]
    assert "ada" not in (tokenized.root / "tokenized.json").read_text()
    add(tokenized, NEW, "bob", "eve", "kim")
    found = pending(tokenized)
    assert found.user_ids == ["bob", "eve", "kim"]
    assert found.added_alone == ["eve", "kim"], "what was added to bob cannot be read any more"
    assert found.users_before[BEFORE_CUT] == ["bob"]
    assert found.num_before == (1, 1, 1), "nobody's training is stale for events that were erased"


def test_who_was_carried_is_erased_as_well(tokenized: Workspace) -> None:
    add(tokenized, NEW, "bob", "eve")
    erase(tokenized, "ada")
    erase(tokenized, "bob")
    assert pending(tokenized).user_ids == ["eve"]
    assert "bob" not in (tokenized.root / "tokenized.json").read_text()


def test_users_of_expired_events_are_made_again(tokenized: Workspace) -> None:
    add(tokenized, NEW, "bob", "kim")
    MadeFrom(**{**vars(made(tokenized)), "events_version": 1}).save(tokenized)
    assert expire(tokenized, datetime(2024, 2, 1, tzinfo=UTC)) == 3
    assert pending(tokenized).user_ids == ["ada", "bob", "eve"]


def test_a_past_that_was_forgotten_otherwise_is_not_guessed(tokenized: Workspace) -> None:
    add(tokenized, NEW, "bob")
    forget_past(DeltaTable(str(tokenized.table("events"))), tokenized.table("events"))
    assert pending_changes(tokenized, made(tokenized)) is None
    erase(tokenized, "ada")
    assert pending_changes(tokenized, made(tokenized)) is None
