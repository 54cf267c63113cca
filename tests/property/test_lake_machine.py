"""The events table against a dictionary, through random steps: no row may differ after any.

`BFM_MACHINE_STEPS=300 make test ARGS="tests/property/test_lake_machine.py"` runs a long one.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from delta.tables import DeltaTable

from pipelines import lake
from pipelines.company import load_company
from pipelines.erasure import suppress, user_hash
from pipelines.flow.lake_erasure import erase_from, erase_from_quarantine
from pipelines.flow.runner import RunSettings, StageContext
from pipelines.flow.stream import run_streams
from pipelines.stages import small_merge
from pipelines.stages.delta import sort_again
from pipelines.stages.ingest import ingest
from pipelines.stages.store import CLUSTER
from pipelines.workspace import Workspace
from tests.tiny_company import events_table, write_company, write_rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3_600)]

NUM_STEPS = int(os.environ.get("BFM_MACHINE_STEPS", "8"))
SEED = int(os.environ.get("BFM_MACHINE_SEED", "0"))
NUM_USERS = 12
START = datetime(2024, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


class Machine:
    """A lake that is worked on in random steps, and the dictionary that it should equal."""

    def __init__(self, spark: SparkSession, workspace: Workspace, folder: Path) -> None:
        self.spark = spark
        self.workspace = workspace
        self.chance = random.Random(SEED)
        self.landing = folder / "landing"
        self.landing.mkdir()
        columns = {
            "event_id": "id", "user_id": "customer", "event_time": "time", "event_type": "kind",
            "item_id": "item", "amount": "paid",
        }  # fmt: skip
        source = {"format": "jsonl", "path": "batch"}
        table = events_table(source=source, columns=columns, fields={}, name="batch")
        self.batch = write_company(folder, table, files={})
        self.live = folder / "live.yaml"
        self.live.write_text(self.batch.read_text().replace("path: batch", "path: landing"))
        self.expected: dict[str, Row] = {}
        self.erased: set[str] = set()
        self.past: dict[int, dict[str, Row]] = {}
        self.num_files = 0

    @property
    def events(self) -> Path:
        return self.workspace.table("events")

    def some_rows(self, num: int) -> list[Row]:
        """New events, one in three of them long before the others."""
        return [
            {
                "id": f"e{len(self.expected)}-{self.chance.randrange(10**9)}",
                "customer": f"u{self.chance.randrange(NUM_USERS)}",
                "time": (START + timedelta(minutes=self.chance.randrange(60_000))).isoformat(),
                "kind": self.chance.choice(["purchase", "page_view"]),
                "item": self.chance.choice([None, "i1", "i2"]),
                "paid": self.chance.choice([None, 1.5, 2.5]),
            }
            for _ in range(num)
        ]

    def corrections(self) -> list[Row]:
        known = sorted(self.expected)
        chosen = self.chance.sample(known, min(len(known), 3))
        return [{**self.expected[one], "paid": 9.0 + self.chance.random()} for one in chosen]

    def accept(self, rows: list[Row]) -> None:
        self.expected |= {row["id"]: row for row in rows if row["customer"] not in self.erased}

    def append(self) -> None:
        rows = self.some_rows(5)
        self.take_in([*rows, rows[0]])
        self.accept(rows)

    def correct(self) -> None:
        rows = self.corrections() or self.some_rows(1)
        self.take_in(rows)
        self.accept(rows)

    def resend(self) -> None:
        known = list(self.expected.values()) or self.some_rows(1)
        self.take_in(known)
        self.accept(known)

    def take_in(self, rows: list[Row]) -> None:
        if all(row["customer"] in self.erased for row in rows):
            return  # an intake without rows is refused
        for old in self.batch.parent.glob("batch/*"):
            old.unlink()
        write_rows(self.batch.parent / "batch" / "rows.jsonl", rows)
        company = load_company(self.batch)
        ingest(self.spark, self.workspace, company, self.batch, lambda line: None)

    def stream(self) -> None:
        rows = [*self.some_rows(4), *self.corrections()]
        self.num_files += 1
        text = "".join(f"{json.dumps(row)}\n" for row in [rows[0], *rows])
        (self.landing / f"{self.num_files:05d}.jsonl").write_text(text)
        settings = RunSettings(company_path=self.live)
        context = StageContext(self.workspace, settings, say=lambda line: None)
        run_streams(context, once=True)
        self.accept(rows)

    def erase(self) -> None:
        user = f"u{self.chance.randrange(NUM_USERS)}"
        self.erased.add(user)
        suppress(self.workspace, user_hash(user))
        erase_from(self.workspace, "events", user)
        erase_from_quarantine(self.workspace, user_hash(user))
        self.expected = {k: row for k, row in self.expected.items() if row["customer"] != user}
        self.past.clear()

    def optimise(self) -> None:
        if self.chance.random() < 0.5:
            DeltaTable.forPath(self.spark, str(self.events)).optimize().executeCompaction()
        else:
            sort_again(self.spark, self.events, CLUSTER["events"])

    def vacuum(self) -> None:
        table = lake.open_table(self.workspace, "events")
        table.vacuum(0, dry_run=False, enforce_retention_duration=False)
        self.past.clear()

    def restore(self) -> None:
        if not self.past:
            return
        version = self.chance.choice(sorted(self.past))
        DeltaTable.forPath(self.spark, str(self.events)).restoreToVersion(version)
        self.expected = dict(self.past[version])

    def check(self) -> None:
        rows = lake.read(self.workspace, "events").to_pylist()
        found = {
            row["event_id"]: (
                row["user_id"], row["event_time"], row["event_type"], row["item_id"], row["amount"]
            )
            for row in rows
        }  # fmt: skip
        assert len(found) == len(rows)
        assert found == {
            key: (
                row["customer"], datetime.fromisoformat(row["time"]), row["kind"], row["item"],
                row["paid"],
            )
            for key, row in self.expected.items()
        }  # fmt: skip
        version = lake.open_table(self.workspace, "events").version()
        self.past[version] = dict(self.expected)


@pytest.mark.parametrize("max_rows", [small_merge.MAX_ROWS, 0], ids=["few rows", "many rows"])
def test_no_row_differs_after_any_step(
    spark: SparkSession,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_rows: int,
) -> None:
    """Few rows are compared in this process, many by Spark."""
    monkeypatch.setattr(small_merge, "MAX_ROWS", max_rows)
    machine = Machine(spark, workspace, tmp_path)
    machine.append()
    machine.check()
    steps: list[Callable[[], None]] = [
        machine.stream, machine.correct, machine.restore, machine.optimise, machine.append,
        machine.vacuum, machine.resend, machine.erase,
    ]  # fmt: skip
    done = []
    for number in range(NUM_STEPS):
        step = steps[number] if number < len(steps) else machine.chance.choice(steps)
        step()
        done.append(step.__name__)
        try:
            machine.check()
        except AssertionError as error:
            raise AssertionError(f"after {done}") from error
