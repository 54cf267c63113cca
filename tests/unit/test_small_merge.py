"""Few rows beside a stored table: what is new, what has changed, and what is added."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.stages import small_merge
from pipelines.stages.changes import Changes, changes_since, inserted_since

TIME = pa.timestamp("us", tz="UTC")
KEPT = {
    "delta.enableChangeDataFeed": "true",
    "delta.dataSkippingStatsColumns": "user_id,event_time",
}


def us(day: int, micros: int = 0) -> int:
    return int(datetime(2024, 1, day, tzinfo=UTC).timestamp()) * 1_000_000 + micros


def events(*rows: tuple[str, str, int, int]) -> pa.Table:
    ids, users, times, hashes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "event_id": pa.array(ids, pa.string()),
            "user_id": pa.array(users, pa.string()),
            "event_time": pa.array(times, pa.int64()).cast(TIME),
            "content_hash": pa.array(hashes, pa.int64()),
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three events; the last one was empty in a column that came later."""
    path = tmp_path / "events"
    first = events(("a", "ada", us(1), 1), ("b", "bob", us(2, 123_456), 2), ("c", "bob", us(3), 3))
    first = first.append_column("store", pa.array(["north", "south", None], pa.string()))
    write_deltalake(str(path), first, configuration=KEPT)
    return path


def test_rows_are_new_changed_or_known(table: Path) -> None:
    came = events(("d", "ada", us(4), 4), ("b", "bob", us(2), 22), ("a", "ada", us(1), 1))
    found = small_merge.compare(came, table, ["event_id"], None)
    assert found.new.column("event_id").to_pylist() == ["d"]
    assert found.changed.column("event_id").to_pylist() == ["b"]


def test_a_key_of_two_columns_is_compared_whole(table: Path) -> None:
    came = events(("a", "bob", us(4), 4), ("b", "bob", us(2), 2))
    found = small_merge.compare(came, table, ["event_id", "user_id"], None)
    assert found.new.column("user_id").to_pylist() == ["bob"]
    assert found.changed.num_rows == 0


def test_a_time_inside_the_last_millisecond_of_a_file_is_found(table: Path) -> None:
    """Files' statistics hold whole milliseconds; so does the time that is asked about."""
    came = events(("b", "bob", us(2, 123_456), 2), ("e", "eve", us(3), 5))
    found = small_merge.compare(came, table, ["event_id"], us(2, 123_000))
    assert found.new.column("event_id").to_pylist() == ["e"]


def test_stored_rows_that_lie_before_are_not_read(table: Path) -> None:
    known = events(("a", "ada", us(1), 1))
    assert small_merge.compare(known, table, ["event_id"], us(1)).new.num_rows == 0
    assert small_merge.compare(known, table, ["event_id"], us(2)).new.num_rows == 1


def test_what_is_small(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert small_merge.is_small(table, small_merge.MAX_ROWS, None)
    assert not small_merge.is_small(table, small_merge.MAX_ROWS + 1, None)
    monkeypatch.setattr(small_merge, "MAX_COMPARED", 2)
    assert not small_merge.is_small(table, 1, None)
    assert not small_merge.is_small(table, 1, us(3))
    assert small_merge.is_small(table, 1, us(4)), "no file reaches that time"


def test_added_rows_are_sorted_and_show_as_changes(table: Path) -> None:
    rows = events(("e", "eve", us(5), 5), ("d", "ada", us(6), 4))
    small_merge.append(rows, table, ["user_id", "event_time", "event_id"])
    now = DeltaTable(str(table)).to_pyarrow_table()
    added = [row for row in now.to_pylist() if row["event_id"] in "de"]
    assert [(row["event_id"], row["store"]) for row in added] == [("d", None), ("e", None)]
    assert now.num_rows == 5
    (part,) = inserted_since(table, 0, ["event_id"])
    assert sorted(part.column("event_id").to_pylist()) == ["d", "e"]


def test_changes_name_users_and_count_events_before_times(table: Path) -> None:
    rows = events(("e", "eve", us(5), 5), ("d", "ada", us(6), 4), ("f", "ada", us(4), 6))
    small_merge.append(rows, table, ["user_id"])
    times = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 5, 6)]
    changes = changes_since(table, 0, times)
    assert changes is not None
    assert changes.user_ids == ["ada", "eve"]
    assert changes.num_before == (0, 1, 2)
    assert changes.users_before == ([], ["ada"], ["ada", "eve"])


def test_changes_that_delta_does_not_hold_are_none(table: Path) -> None:
    times = [datetime(2024, 1, 1, tzinfo=UTC)]
    assert changes_since(table, 0, times) == Changes.none(1), "there is no later version"
    small_merge.append(events(("e", "eve", us(5), 5)), table, ["user_id"])
    small_merge.append(events(("f", "eve", us(5), 5)), table, ["user_id"])
    (table / "_delta_log" / f"{1:020d}.json").unlink()
    assert changes_since(table, 0, times) is None


def test_a_table_that_was_emptied_holds_no_key(table: Path) -> None:
    empty = DeltaTable(str(table)).to_pyarrow_table().slice(0, 0)
    write_deltalake(str(table), empty, mode="overwrite", predicate="event_id >= 'a'")
    assert not DeltaTable(str(table)).file_uris()
    assert small_merge.is_small(table, 1, us(1))
    rows = events(("a", "ada", us(1), 1))
    assert small_merge.compare(rows, table, ["event_id"], us(1)).new.num_rows == 1
    small_merge.append(rows, table, ["user_id"])
    assert DeltaTable(str(table)).to_pyarrow_table().num_rows == 1
