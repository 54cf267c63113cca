"""A simulated shop goes through intake, and intake counts what was planted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines import lake
from pipelines.company import load_company
from pipelines.simulation.plan import SimulationOptions
from pipelines.simulation.run import simulate
from pipelines.stages.ingest import Ingested, ingest
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def take_in(spark: SparkSession, workspace: Workspace, path: Path) -> Ingested:
    return ingest(spark, workspace, load_company(path), path, say=lambda line: None)


def test_intake_counts_what_was_planted(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    options = SimulationOptions(
        out=tmp_path / "shop", num_events=3_000, num_users=60, num_days=120, dirty=True
    )
    shop = simulate(options, say=lambda line: None)
    counts = json.loads((options.out / "truth" / "counts.json").read_text())
    found = take_in(spark, workspace, shop.company).ledgers
    for ledger in found:
        name = {"products": "catalogue", "customers": "profiles"}.get(ledger.table, ledger.table)
        assert ledger.input_rows == shop.num_rows[name]
        assert ledger.unaccounted == ledger.unknown_items == 0
        dirty = ledger.table == "orders"
        assert ledger.quarantined == (counts["quarantined"] if dirty else 0)
        assert ledger.duplicates == (counts["duplicates"] if dirty else 0)
    assert {rule: num for one in found for rule, num in one.rules.items()} == {
        "event_time_not_a_time": counts["dirt"]["malformed_time"],
        "user_id_missing": counts["dirt"]["missing_client"],
    }
    kinds = Counter(lake.read(workspace, "events")["event_type"].to_pylist())
    assert (
        kinds["purchase"] == shop.num_rows["orders"] - counts["quarantined"] - counts["duplicates"]
    )
    assert kinds["page_view"] + kinds["cart"] == shop.num_rows["clickstream"]
    assert kinds["search"] == shop.num_rows["searches"]
    assert kinds["return"] == shop.num_rows["returns"] > 0
