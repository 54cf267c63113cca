"""Of a user's rows of token sequences the newest holds, for every way of reading them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipelines import lake
from pipelines.tokens.generations import Generations
from pipelines.workspace import Workspace

FIRST = pa.table({"user_id": ["ada", "bob", "eve"], "num_events": [1, 2, 3]})
HOLDING = {"ada": 11, "bob": 2, "eve": 33, "kim": 4}


def added(generation: int, **num_events: int) -> pa.Table:
    return pa.table(
        {
            "user_id": list(num_events),
            "num_events": list(num_events.values()),
            "generation": pa.array([generation] * len(num_events), pa.int64()),
        }
    )


@pytest.fixture
def renewed(workspace: Workspace) -> Workspace:
    """Sequences of three users, two of them made again, one of these twice, and a new one."""
    path = str(workspace.table("token_sequences"))
    write_deltalake(path, FIRST)
    for generation, users in ((1, {"ada": 10, "eve": 33}), (2, {"ada": 11, "kim": 4})):
        rows = added(generation, **users)
        write_deltalake(path, rows, mode="append", schema_mode="merge")
    return workspace


def as_dict(rows: pa.Table) -> dict[str, int]:
    pairs = rows.select(["user_id", "num_events"]).to_pylist()
    assert len({row["user_id"] for row in pairs}) == len(pairs)
    return {row["user_id"]: row["num_events"] for row in pairs}


def test_reading_gives_the_newest_row_of_every_user(renewed: Workspace) -> None:
    rows = lake.read(renewed, "token_sequences")
    assert rows.column_names == ["user_id", "num_events"]
    assert as_dict(rows) == HOLDING
    assert lake.num_rows(renewed, "token_sequences") == 7


def test_columns_and_users_can_be_chosen(renewed: Workspace) -> None:
    rows = lake.read(
        renewed, "token_sequences", ["num_events"], [("user_id", "in", ["ada", "bob"])]
    )
    assert rows.column_names == ["num_events"]
    assert sorted(rows.column(0).to_pylist()) == [2, 11]


@pytest.mark.parametrize("batch_rows", [1, 2, 100])
def test_batches_hold_the_same_rows(renewed: Workspace, batch_rows: int) -> None:
    batches = list(lake.sequence_batches(renewed, ["user_id", "num_events"], batch_rows))
    assert as_dict(pa.concat_tables(batches)) == HOLDING


def test_a_table_that_was_made_at_once_is_read_as_it_is(workspace: Workspace) -> None:
    write_deltalake(str(workspace.table("token_sequences")), FIRST)
    generations = lake.sequence_generations(workspace)
    assert len(generations.user_ids) == 0
    assert generations.holding(FIRST) is FIRST
    assert as_dict(lake.read(workspace, "token_sequences")) == as_dict(FIRST)


def test_parts_that_miss_an_older_row_are_judged_by_the_whole(renewed: Workspace) -> None:
    """A worker sees a part of the rows; which of them hold is told beforehand."""
    generations = lake.sequence_generations(renewed)
    assert as_dict(generations.holding(added(1, ada=10, eve=33))) == {"eve": 33}
    assert as_dict(generations.holding(added(2, kim=4))) == {"kim": 4}


def test_no_rows_are_no_users() -> None:
    rows = added(1).cast(added(1, ada=1).schema)
    assert len(Generations.of(rows).user_ids) == 0
    assert Generations.of(rows).holding(rows).num_rows == 0
