"""Alarms about new rows: each change is seen as what it is, and a healthy intake stays silent."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.contracts import CONTENT_HASH, EVENTS, SOURCE_TABLE, Column, SemanticType
from pipelines.quality.alarm import Alarm, Sample
from pipelines.quality.drift import drift
from pipelines.quality.profile import MAX_VALUES, Profile, bins_of, middle_of, profile_of
from pipelines.quality.rhythm import rhythm
from pipelines.stages.schemas import stored
from pipelines.stages.watch import profile_path, watch_new_events
from pipelines.workspace import Workspace

CONTRACT = EVENTS.with_fields(
    (
        Column(
            name="store",
            type=SemanticType.CATEGORICAL.column_type,
            semantic=SemanticType.CATEGORICAL,
        ),
    )
)
START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2024, 3, 1, tzinfo=UTC)
REFERENCE_DAYS = 35

Columns = dict[str, np.ndarray[Any, Any]]


def history(first_day: int, num_days: int, seed: int) -> Columns:
    """About 30 events an hour from 6 to 22 h, most in the evening; a return has no amount."""
    rng = np.random.default_rng(seed)
    hours = np.arange(first_day * 24, (first_day + num_days) * 24)
    level = np.where((hours % 24 >= 6) & (hours % 24 < 22), 20 + 3 * (hours % 24 - 6), 0)
    at = np.repeat(hours, rng.poisson(level))
    kind = rng.choice(["purchase", "page_view", "return"], len(at), p=[0.4, 0.5, 0.1])
    return {
        "hour": at,
        "event_type": kind,
        "amount": np.where(kind == "return", np.nan, np.exp(rng.normal(3, 0.6, len(at)))),
        "store": rng.choice(["north", "south"], len(at)),
    }


def table(columns: Columns) -> pa.Table:
    num = len(columns["hour"])
    texts = {name: [f"{name[0]}{i}" for i in range(num)] for name in ("event_id", "user_id")}
    return pa.table(
        {
            **texts,
            "event_time": [START + timedelta(hours=int(hour)) for hour in columns["hour"]],
            "event_type": columns["event_type"].tolist(),
            "amount": pa.array(columns["amount"], from_pandas=True),
            "query": ["secret"] * num,
            "store": columns["store"].tolist(),
            **{
                name: pa.nulls(num, pa.float64() if name == "quantity" else pa.string())
                for name in ("item_id", "quantity", "session_id", "channel", "market", "locale")
            },
        }
    )


def profile(columns: Columns) -> Profile:
    hour_of_start = int(START.timestamp()) // 3_600
    hours = Counter((columns["hour"] + hour_of_start).tolist())
    return profile_of(table(columns), CONTRACT, hours)


USUAL = profile(history(0, REFERENCE_DAYS, seed=1))


def alarms(columns: Columns, usual: Profile = USUAL) -> list[Alarm]:
    new, sample = profile(columns), Sample.of(table(columns), CONTRACT)
    return [
        *drift(sample, new, usual, "events"),
        *rhythm(sample, new, usual, "events", NOW),
    ]


def test_a_healthy_intake_raises_no_alarm() -> None:
    for seed in range(2, 5):
        assert alarms(history(REFERENCE_DAYS, 3, seed)) == []
    late = {name: values[::4] for name, values in history(20, 1, seed=9).items()}
    assert alarms(late) == []


def in_cents(columns: Columns, share: float) -> Columns:
    chosen = np.random.default_rng(3).random(len(columns["hour"])) < share
    return {**columns, "amount": columns["amount"] * np.where(chosen, 100, 1)}


def without(columns: Columns, dropped: np.ndarray[Any, Any]) -> Columns:
    return {name: values[~dropped] for name, values in columns.items()}


def renamed(columns: Columns, field: str, old: str, new: str) -> Columns:
    values = columns[field].astype(object)
    return {**columns, field: np.where(values == old, new, values)}


NEW = history(REFERENCE_DAYS, 3, seed=2)
SECOND_DAY = (REFERENCE_DAYS + 1) * 24


@pytest.mark.parametrize(
    ("columns", "expected", "words"),
    [
        pytest.param(
            in_cents(NEW, 0.91),
            {("amount", "shifted numbers")},
            ["% of the values are 100 times larger", "Cents instead of euros?"],
            id="cents",
        ),
        pytest.param(
            {**NEW, "amount": NEW["amount"] / 1_000},
            {("amount", "shifted numbers")},
            ["% of the values are 1,000 times smaller", "Another unit"],
            id="thousandths",
        ),
        pytest.param(
            {**NEW, "amount": NEW["amount"] * 2},
            {("amount", "shifted numbers")},
            ["events.amount: median about", "Other prices or customers"],
            id="doubled",
        ),
        pytest.param(
            renamed(NEW, "store", "north", "North "),
            {("store", "new values"), ("store", "vanished values")},
            ["'North ' 49", "another spelling of 'north'?", "Renamed at the source?"],
            id="another spelling",
        ),
        pytest.param(
            without(NEW, NEW["event_type"] == "return"),
            {("event_type", "vanished values"), ("amount", "nulls")},
            ["'return' 10.", "No longer recorded"],
            id="a type that comes no more",
        ),
        pytest.param(
            {**NEW, "amount": np.where(NEW["store"] == "north", np.nan, NEW["amount"])},
            {("amount", "nulls")},
            ["empty in 5", "No longer filled"],
            id="half the amounts missing",
        ),
        pytest.param(
            without(NEW, (NEW["hour"] >= SECOND_DAY + 9) & (NEW["hour"] < SECOND_DAY + 15)),
            {("event_time", "silence")},
            ["no event from 2024-02-06 09:00 for 6 hours", "Was the source down"],
            id="six silent hours",
        ),
        pytest.param(
            without(NEW, (NEW["hour"] // 24 == SECOND_DAY // 24) & (NEW["amount"] < 30)),
            {("event_time", "volume")},
            ["events on 2024-02-06; usual: about 6", "A part of the export missing"],
            id="a third of a day's events",
        ),
        pytest.param(
            {name: np.concatenate([values] * 3) for name, values in NEW.items()},
            {("event_time", "volume")},
            ["and 2 more such day(s)", "delivered twice"],
            id="everything three times",
        ),
        pytest.param(
            {**NEW, "hour": NEW["hour"] + 7},
            {("event_time", "clock"), ("event_time", "silence")},
            ["the hours of the day lie 7 h later", "time_zone"],
            id="another time zone",
        ),
        pytest.param(
            {**NEW, "hour": np.where(np.arange(len(NEW["hour"])) % 50 == 5, 40_000, NEW["hour"])},
            {("event_time", "future")},
            ["events (2.0%) lie in the future; usual: none after 2024-03-01", "wrong clock"],
            id="the future",
        ),
        pytest.param(
            {**NEW, "store": np.arange(len(NEW["hour"])).astype(str)},
            {("store", "too many values"), ("store", "new values")},
            [f"more than {MAX_VALUES:,} distinct values", "An identifier"],
            id="an identifier for a category",
        ),
    ],
)
def test_a_change_is_seen_with_its_likely_cause(
    columns: Columns, expected: set[tuple[str, str]], words: list[str]
) -> None:
    found = alarms(columns)
    assert {(one.field, one.kind) for one in found} == expected
    said = "\n".join(map(str, found))
    for word in words:
        assert word in said


def test_an_example_shows_the_row_and_no_person() -> None:
    (alarm,) = alarms(in_cents(NEW, 0.91))
    row = json.loads(alarm.example)
    assert row["amount"] > 500
    assert row["event_id"].startswith("e")
    assert not {"user_id", "session_id", "query"} & row.keys()


def test_profiles_add_up_fade_and_come_back_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    assert Profile.load(path) is None
    both = USUAL.faded_into(profile(NEW))
    both.save(path)
    assert Profile.load(path) == both
    assert sum(both.hours.values()) == sum(USUAL.hours.values()) + len(NEW["hour"])
    north = Counter(NEW["store"].tolist())["north"]
    assert both.values["store"]["north"] == round(0.9 * USUAL.values["store"]["north"]) + north
    forgotten = replace(USUAL, values={**USUAL.values, "store": {"north": 3, "gone": 1}})
    for _ in range(20):
        forgotten = forgotten.faded_into(replace(USUAL, values={"store": {"north": 3}}))
    assert set(forgotten.values["store"]) == {"north", "gone"}


def test_a_bin_holds_numbers_of_about_its_middle() -> None:
    numbers = np.array([-250.0, -1e-9, 0.0, 1e-9, 1.0, 3.0, 299.9, 1e15])
    bins = bins_of(numbers)
    assert (np.diff(bins) > 0).all()
    middles = np.array([middle_of(int(one)) for one in bins])
    assert np.allclose(middles, numbers, rtol=0.13)


def take_in(workspace: Workspace, source: str, columns: Columns) -> list[str]:
    """Add events of one of two tables; which tables are said to have stopped."""
    path, rows = str(workspace.table(EVENTS.name)), table(columns)
    version = DeltaTable(path).version() if DeltaTable.is_deltatable(path) else -1
    hashes = pa.array(np.arange(rows.num_rows))
    rows = rows.append_column(CONTENT_HASH, hashes)
    rows = rows.append_column(SOURCE_TABLE, pa.array([source] * rows.num_rows))
    feed = {"delta.enableChangeDataFeed": "true"}
    write_deltalake(path, rows, mode="append", configuration=feed)
    found = watch_new_events(
        workspace,
        stored(CONTRACT),
        tables=["orders", "clicks"],
        after_version=version,
        num_rows=rows.num_rows,
        now=NOW,
    )
    assert profile_path(workspace, source).is_file(), "they were looked at"
    return [alarm.table for alarm in found if alarm.field == SOURCE_TABLE]


def test_a_table_that_stopped_is_warned_of_for_a_while(workspace: Workspace) -> None:
    take_in(workspace, "orders", history(0, 3, seed=1))
    take_in(workspace, "clicks", history(0, 1, seed=2))
    stopped = [take_in(workspace, "clicks", history(1, 1, seed=3)) for _ in range(25)]
    assert stopped[0] == ["orders"]
    assert stopped[-1] == []
    assert stopped == sorted(stopped, reverse=True), "it does not come back"


def test_the_first_events_of_a_table_are_not_expected_of_those_that_are_known(
    workspace: Workspace,
) -> None:
    assert take_in(workspace, "orders", history(0, 3, seed=1)) == []
    assert take_in(workspace, "clicks", history(0, 1, seed=2)) == []


def test_who_brings_nothing_is_expected_less_and_looks_the_same_afterwards(
    tmp_path: Path,
) -> None:
    absent = USUAL
    for _ in range(3):
        absent = absent.absent()
        absent.save(tmp_path / "profile.json")
        loaded = Profile.load(tmp_path / "profile.json")
        assert loaded == absent
    assert absent.num_expected == pytest.approx(0.9**3 * USUAL.num_rows)
    assert replace(absent, num_absent=0) == USUAL
    assert absent.faded_into(USUAL).num_expected == USUAL.faded_into(USUAL).num_rows
