"""Sequences and labels of generated histories against plain Python: no cell may differ.

The histories hold ties, rows that come late or twice, corrections, and local times around both
changes of clocks.
"""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines import lake
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import RunSettings, StageContext, run_stages
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace
from tests import oracle
from tests.tiny_company import catalogue_table, events_table, write_company, write_rows

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ZONE = "Europe/Berlin"
CHANGES = (datetime(2023, 3, 26, 1), datetime(2023, 10, 29, 1))
AS_OF = datetime(2023, 11, 1, tzinfo=UTC)
WINDOW_DAYS = 5
NUM_USERS = 25
NUM_EVENTS = 400
NUM_SEEDS = int(os.environ.get("BFM_ORACLE_SEEDS", "1"))

Row = dict[str, Any]


def raw_rows(chance: random.Random) -> list[Row]:
    return [
        {
            "id": f"e{number:04d}",
            "customer": f"u{int(NUM_USERS * chance.random() ** 2):02d}",
            "time": local_time(chance),
            "kind": chance.choice(["purchase", "purchase", "page_view", "search"]),
            "item": chance.choice([None, *(f"i{k}" for k in range(9))]),
            "pieces": chance.choice([None, 1.0, 2.0, 7.5]),
            "paid": chance.choice([None, 0.0, 0.1, 0.2, 1.25, round(chance.uniform(1, 90), 2)]),
            "basket": chance.choice([None, "b1", "b2"]),
            "asked": chance.choice([None, None, "green tea", "a b c d e f g"]),
            "store": chance.choice([None, "north", "south", "nowhere yet"]),
        }
        for number in range(NUM_EVENTS)
    ]


def local_time(chance: random.Random) -> datetime:
    """Half of the times lie around changes of clocks, many on the same quarter of an hour."""
    if chance.random() < 0.5:
        start, quarters = chance.choice(CHANGES), 12
    else:
        start, quarters = datetime(2023, 9, 20), 4 * 24 * 50
    return start + timedelta(minutes=15 * chance.randrange(quarters))


def corrected(rows: list[Row], chance: random.Random) -> list[Row]:
    """Four of all events, changed in place: another user, time, item or amount."""
    changed = [dict(row) for row in chance.sample(rows, 4)]
    changed[0]["customer"] = "somebody new"
    changed[1]["time"] -= timedelta(days=9)
    changed[2]["item"] = "i1"
    changed[3]["paid"] = 33.0
    return changed


def canonical(row: Row) -> oracle.Event:
    return {
        "event_id": row["id"],
        "user_id": row["customer"],
        "event_time": oracle.instant(row["time"], ZONE),
        "event_type": row["kind"],
        "item_id": row["item"],
        "quantity": row["pieces"],
        "amount": row["paid"],
        "session_id": row["basket"],
        "query": row["asked"],
        "store": row["store"],
    }


def run(workspace: Workspace, company: Path) -> None:
    settings = RunSettings(company_path=company, as_of=AS_OF, window_days=WINDOW_DAYS)
    run_stages(ROOMS, StageContext(workspace, settings, say=lambda line: None))


def assert_equal(workspace: Workspace, rows: list[Row], categories: dict[str, str]) -> None:
    events = [canonical(row) for row in rows]
    vocabulary = Vocabulary.load(workspace.vocabulary_path)
    found = {row["user_id"]: row for row in lake.read(workspace, "token_sequences").to_pylist()}
    expected = oracle.histories(events)
    assert found.keys() == expected.keys()
    for user, history in expected.items():
        row = found[user]
        assert row["num_events"] == len(history)
        assert row["times_us"] == [oracle.micros(event["event_time"]) for event in history], user
        for name, values in oracle.tokens(vocabulary, history).items():
            assert row[f"token_{name}"] == values, (user, name)
    labels = {
        (row.pop("user_id"), row.pop("prediction_time")): row
        for row in lake.read(workspace, "labels").to_pylist()
    }
    wanted = oracle.labels(events, categories, AS_OF, timedelta(days=WINDOW_DAYS))
    assert labels.keys() == wanted.keys()
    for key, label in wanted.items():
        assert labels[key] == {"window_days": WINDOW_DAYS, **label}, key


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_no_cell_differs(seed: int, workspace: Workspace, tmp_path: Path) -> None:
    chance = random.Random(seed)
    rows = raw_rows(chance)
    twice = chance.sample(rows[:350], 30)
    first = rows[:350] + twice
    chance.shuffle(first)
    table = events_table(time_zone=ZONE)
    table["columns"]["query"] = "asked"
    del table["fields"]["discount"]
    products = [
        {"item": f"i{k}", "name": f"Thing {k}", "group": ["food", "tools", None][k % 3]}
        for k in range(8)
    ]
    company = write_company(
        tmp_path / "raw", table, catalogue_table(),
        files={"orders.parquet": first, "products.parquet": products},
    )  # fmt: skip
    categories = {one["item"]: one["group"] for one in products if one["group"]}
    run(workspace, company)
    assert_equal(workspace, rows[:350], categories)

    changes = corrected(rows[:350], chance)
    now = {row["id"]: row for row in (*rows, *changes)}
    write_rows(tmp_path / "raw" / "orders.parquet", [*changes, *rows[350:], *rows[350:360]])
    run(workspace, company)
    assert_equal(workspace, list(now.values()), categories)
