"""Lengthened sequences are those that encoding everything again would give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines import lake
from pipelines.contracts import EVENTS, TOKEN_SEQUENCES
from pipelines.stages import extension
from pipelines.stages.extension import lengthen
from pipelines.stages.sequences import encode_sorted
from pipelines.stages.user_ranges import sorted_events
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace
from tests.tiny_histories import SCHEMA, events_table, same, tiny_vocabulary

VOCABULARY = tiny_vocabulary()
MINUTE_US = 60_000_000
BEFORE = [("ada", 1), ("ada", 3), ("bob", 2), ("bob", 4), ("cyd", 5)]


def table(pairs: list[tuple[str, int]]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "event_id": f"{user}-{minute}",
            "user_id": user,
            "event_time": minute * MINUTE_US,
            "event_type": "purchase",
            "item_id": f"i{1 + minute % 3}",
            "amount": float(minute),
        }
        for user, minute in pairs
    ]
    sessions = pa.nulls(len(rows), pa.string())
    return events_table(rows).cast(SCHEMA).append_column("session_id", sessions)


def afresh(workspace: Workspace) -> Histories:
    events = sorted_events(lake.read(workspace, EVENTS.name))
    return encode_sorted(events, VOCABULARY)


def held(workspace: Workspace) -> Histories:
    return lake.read_histories(workspace, VOCABULARY, before_us=2**62)


def add(workspace: Workspace, pairs: list[tuple[str, int]]) -> None:
    write_deltalake(str(workspace.table(EVENTS.name)), table(pairs), mode="append")


def lengthened(workspace: Workspace, users: list[str]) -> list[str]:
    return lengthen(workspace, 0, VOCABULARY, users)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path)
    path = workspace.table(EVENTS.name)
    feed = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(str(path), table(BEFORE), configuration=feed)
    sequences = afresh(workspace).to_arrow(VOCABULARY.vocabulary_id)
    write_deltalake(str(workspace.table(TOKEN_SEQUENCES.name)), sequences)
    return workspace


def test_new_events_stand_behind_older_ones(workspace: Workspace) -> None:
    add(workspace, [("ada", 50), ("ada", 7), ("kim", 1), ("bob", 5)])
    assert lengthened(workspace, ["ada", "bob", "kim"]) == ["ada", "bob", "kim"]
    assert held(workspace).user_ids == ["ada", "bob", "cyd", "kim"]
    assert same(held(workspace), afresh(workspace))
    add(workspace, [("ada", 51)])
    assert lengthen(workspace, 1, VOCABULARY, ["ada"]) == ["ada"]
    assert same(held(workspace), afresh(workspace))


@pytest.mark.parametrize("late", [("bob", 3), ("bob", 4), ("bob", 1)])
def test_a_late_event_is_left_to_encoding_again(
    workspace: Workspace, late: tuple[str, int]
) -> None:
    rows = [("ada", 9), late]
    events = table(rows)
    names = pa.array([f"late-{i}" for i in range(len(rows))])
    events = events.set_column(events.column_names.index("event_id"), "event_id", names)
    write_deltalake(str(workspace.table(EVENTS.name)), events, mode="append")
    assert lengthened(workspace, ["ada", "bob"]) == ["ada"]
    only = held(workspace).only(["ada", "cyd"])
    assert same(only, afresh(workspace).only(["ada", "cyd"]))


def test_what_was_lengthened_already_is_not_lengthened_twice(workspace: Workspace) -> None:
    """A kill after the write and before it is remembered: the same changes come again."""
    add(workspace, [("ada", 9)])
    assert lengthened(workspace, ["ada"]) == ["ada"]
    assert lengthened(workspace, ["ada"]) == []
    assert same(held(workspace), afresh(workspace))


def test_no_user_and_too_many_are_left_alone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(workspace, [("ada", 9), ("bob", 9)])
    version = DeltaTable(str(workspace.table(TOKEN_SEQUENCES.name))).version()
    assert lengthened(workspace, []) == []
    monkeypatch.setattr(extension, "MAX_EVENTS", 1)
    assert lengthened(workspace, ["ada", "bob"]) == []
    monkeypatch.setattr(extension, "MAX_EVENTS", 2)
    monkeypatch.setattr(extension, "FEW_USERS", 1)
    monkeypatch.setattr(extension, "MAX_STORED", 3)
    assert lengthened(workspace, ["ada", "bob"]) == []
    assert DeltaTable(str(workspace.table(TOKEN_SEQUENCES.name))).version() == version


def test_changes_that_delta_no_longer_holds_are_left_to_encoding_again(
    workspace: Workspace,
) -> None:
    events = table([*BEFORE, ("ada", 9)])
    path = workspace.table(EVENTS.name)
    write_deltalake(str(path), events, mode="overwrite")
    DeltaTable(str(path)).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    for file in (path / "_delta_log").glob("*1.json"):
        file.unlink()
    assert lengthened(workspace, ["ada"]) == []


def test_followed_by_lays_each_users_events_behind_their_own() -> None:
    everything = encode_sorted(sorted_events(table([*BEFORE, ("bob", 9)])), VOCABULARY)
    first = everything.before(np.asarray([2, 9, 9]) * MINUTE_US)
    later = Histories(
        user_ids=everything.user_ids,
        offsets=np.asarray([0, 1, 2, 2]),
        times_us=everything.times_us[[1, 4]],
        event_hashes=everything.event_hashes[[1, 4]],
        amounts=everything.amounts[[1, 4]],
        quantities=everything.quantities[[1, 4]],
        tokens={name: values[[1, 4]] for name, values in everything.tokens.items()},
    )
    assert same(first.followed_by(later), everything)
