"""Rooms 1 and 2 on small raw tables: what is stored, what stops the line, what is left behind."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines import lake
from pipelines.company import load_company
from pipelines.contracts import EVENTS
from pipelines.erasure import suppression_path
from pipelines.errors import CompanyConfigError, QualityError, SourceError, UserError
from pipelines.quality.alarm import Alarm
from pipelines.quality.profile import Profile
from pipelines.stages import small_merge, watch
from pipelines.stages.ingest import Ingested, ingest
from pipelines.stages.watch import profile_path, watch_new_events
from pipelines.workspace import Workspace, write_json_atomically
from tests.tiny_company import (
    catalogue_table,
    events_table,
    order,
    orders,
    products,
    write_company,
    write_rows,
    write_tiny_company,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration


def take_in(spark: SparkSession, workspace: Workspace, path: Path) -> Ingested:
    return ingest(spark, workspace, load_company(path), path, say=lambda line: None)


def take_in_orders(
    spark: SparkSession, workspace: Workspace, rows: list[dict[str, Any]], **changes: Any
) -> Ingested:
    folder = workspace.root.parent / "raw"
    table = events_table(**changes)
    path = write_company(folder, table, files={table["source"]["path"]: rows})
    return take_in(spark, workspace, path)


@pytest.mark.parametrize("small", [True, False])
def test_ids_of_two_systems_do_not_overwrite_each_other(
    spark: SparkSession,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    small: bool,
) -> None:
    """Both count from one, and come on different days."""
    monkeypatch.setattr(small_merge, "MAX_ROWS", 1_000 if small else 0)
    table = events_table()
    path = write_company(tmp_path / "raw", table, files={table["source"]["path"]: orders(5)})
    take_in(spark, workspace, path)
    before = events(workspace)
    other = events_table(name="web")
    web = [order(number, kind="page_view") for number in (2, 3, 9)]
    path = write_company(tmp_path / "other", other, files={other["source"]["path"]: web})
    with pytest.raises(SourceError) as refused:
        take_in(spark, workspace, path)
    said = str(refused.value)
    assert re.match(
        r"2 row\(s\) of table 'web' .* came from table 'orders', as event_id 'o[23]'", said
    )
    assert "event_id: {concat: [{constant: web}, id]}" in said
    assert "give it its old name 'orders'" in said
    assert events(workspace) == before


def events(workspace: Workspace) -> list[dict[str, Any]]:
    return lake.read(workspace, "events").sort_by("event_id").to_pylist()


def versions(workspace: Workspace) -> dict[str, tuple[int, int]]:
    tables = {p.name: DeltaTable(str(p)) for p in sorted((workspace.root / "lake").iterdir())}
    return {name: (table.version(), table.count()) for name, table in tables.items()}


def test_same_input_twice_changes_nothing(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    path = write_tiny_company(tmp_path / "raw")
    take_in(spark, workspace, path)
    before = versions(workspace)
    again = take_in(spark, workspace, path)
    assert versions(workspace) == before
    assert {(w.inserted, w.updated) for w in again.written.values()} == {(0, 0)}
    assert before["events"] == (0, 120)


def test_changed_rows_are_updated_and_new_ones_inserted(
    spark: SparkSession, workspace: Workspace
) -> None:
    take_in_orders(spark, workspace, orders(20))
    changed = [*orders(20)[1:], order(0, paid=99.0), order(20)]
    written = take_in_orders(spark, workspace, changed).written["events"]
    assert (written.inserted, written.updated) == (1, 1)
    rows = {row["event_id"]: row for row in events(workspace)}
    assert len(rows) == 21
    assert rows["o0"]["amount"] == 99.0


def test_a_new_field_of_the_company_becomes_a_column(
    spark: SparkSession, workspace: Workspace
) -> None:
    take_in_orders(spark, workspace, orders(10))
    fields = {**events_table()["fields"], "till": {"type": "categorical"}}
    rows = [{**row, "till": "t1" if i else None} for i, row in enumerate(orders(11))]
    written = take_in_orders(spark, workspace, rows, fields=fields).written["events"]
    assert (written.inserted, written.updated) == (1, 9)
    assert [row["till"] for row in events(workspace)].count("t1") == 10
    profile = Profile.load(profile_path(workspace, "orders"))
    assert profile is not None
    assert profile.values["till"] == {"t1": 1}


def test_a_field_that_changes_its_type_is_refused(
    spark: SparkSession, workspace: Workspace
) -> None:
    take_in_orders(spark, workspace, orders(10))
    before = versions(workspace)
    with pytest.raises(UserError, match=r"'discount' is double .* makes it string now"):
        take_in_orders(spark, workspace, orders(10), fields={"discount": {"type": "categorical"}})
    assert versions(workspace)["events"] == before["events"]

    path = str(workspace.table("events"))
    older = spark.read.format("delta").load(path)
    older = older.withColumn("content_hash", older["content_hash"].cast("string"))
    options = {"overwriteSchema": "true"}
    older.write.format("delta").mode("overwrite").options(**options).save(path)
    with pytest.raises(UserError, match=r"written by an earlier version, .* new --workspace"):
        take_in_orders(spark, workspace, orders(10))


def test_bad_rows_go_to_quarantine_with_rule_and_raw_row(
    spark: SparkSession, workspace: Workspace
) -> None:
    bad = [
        order(100, pieces=0),
        order(101, paid=-1.0),
        order(102, customer=None),
        order(103, kind="  "),
        order(104, paid=float("inf")),
    ]
    ledger = take_in_orders(spark, workspace, [*orders(20), *bad, bad[0]]).ledgers[0]
    assert (ledger.input_rows, ledger.accepted) == (26, 20)
    assert (ledger.quarantined, ledger.duplicates, ledger.unaccounted) == (5, 1, 0)
    rows = lake.read(workspace, "quarantine").to_pylist()
    assert {row["rule"] for row in rows} == {
        "quantity_not_above_0",
        "amount_below_0",
        "user_id_missing",
        "event_type_missing",
        "amount_not_a_number",
    }
    assert all(row["source_table"] == "orders" for row in rows)
    raw = next(row["raw_row"] for row in rows if row["rule"] == "quantity_not_above_0")
    assert '"id":"o100"' in raw
    assert '"discount":0.25' in raw


def test_a_corrected_description_clears_quarantine_of_rows_that_came_again(
    spark: SparkSession, workspace: Workspace
) -> None:
    gone, returned, nameless = order(50, paid=-1.0), order(51, pieces=-2), order(52, customer=None)
    take_in_orders(spark, workspace, [*orders(10), gone, returned, nameless])
    again = take_in_orders(
        spark, workspace, [*orders(10), returned, nameless], negative_quantity="return_event"
    )
    assert again.written["quarantine"].deleted == 1
    left = {row["rule"]: row["raw_row"] for row in lake.read(workspace, "quarantine").to_pylist()}
    assert left.keys() == {"amount_below_0", "user_id_missing"}  # the first came no more
    assert "o51" in {row["event_id"] for row in events(workspace)}


def test_exact_duplicates_are_counted_and_stored_once(
    spark: SparkSession, workspace: Workspace
) -> None:
    ledger = take_in_orders(spark, workspace, [*orders(10), *orders(4)]).ledgers[0]
    assert (ledger.accepted, ledger.duplicates) == (10, 4)
    assert len(events(workspace)) == 10


def test_without_an_event_id_equal_rows_are_one_event(
    spark: SparkSession, workspace: Workspace
) -> None:
    columns = {k: v for k, v in events_table()["columns"].items() if k != "event_id"}
    rows = [order(1), order(1), order(2)]
    ledger = take_in_orders(spark, workspace, rows, columns=columns).ledgers[0]
    assert (ledger.accepted, ledger.duplicates) == (2, 1)
    assert all(re.fullmatch("[0-9a-f]+-[0-9a-f]+", row["event_id"]) for row in events(workspace))


def test_a_changed_description_does_not_count_events_without_ids_twice(
    spark: SparkSession, workspace: Workspace
) -> None:
    """A new field that old rows lack changes nothing; another time zone changes every id."""
    columns = {k: v for k, v in events_table()["columns"].items() if k != "event_id"}
    fields = {"discount": {"type": "number"}}
    take_in_orders(spark, workspace, orders(6), columns=columns, fields=fields)
    before = events(workspace)
    with pytest.raises(
        CompanyConfigError, match=r"tables\.orders: its description has changed.*6 events would"
    ):
        take_in_orders(
            spark, workspace, orders(6), columns=columns, fields=fields, time_zone="Europe/Berlin"
        )
    assert events(workspace) == before
    rows = [*({**row, "note": None} for row in orders(6)), {**order(6), "note": "gift"}]
    more = {**fields, "note": {"type": "text"}}
    take_in_orders(spark, workspace, rows, columns=columns, fields=more)
    assert len(events(workspace)) == 7


def test_a_table_that_is_described_no_more_is_told_of(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    web = events_table(name="web", source={"format": "parquet", "path": "web.parquet"})
    visits = [order(number, id=f"w{number}") for number in range(2)]
    files = {"orders.parquet": orders(3), "web.parquet": visits}
    take_in(spark, workspace, write_company(tmp_path / "raw", events_table(), web, files=files))
    path = write_company(tmp_path / "raw", events_table(), files={})
    said: list[str] = []
    ingest(spark, workspace, load_company(path), path, say=said.append)
    assert [line for line in said if "'web' is not in" in line]
    assert len(events(workspace)) == 5


LISTS = [[1]] * 3


@pytest.mark.parametrize(
    ("rows", "changes", "error", "message"),
    [
        pytest.param(
            orders(3),
            {"columns": {**events_table()["columns"], "user_id": "custmer"}},
            SourceError,
            r"company\.yaml: tables\.orders\.columns\.user_id: the source has no column 'custmer'"
            r"\. It has: id, customer, .* Did you mean 'customer'\?",
            id="missing column",
        ),
        pytest.param(
            orders(3),
            {"fields": {"till": {"type": "categorical"}}},
            SourceError,
            r"tables\.orders\.fields\.till: the source has no column 'till'",
            id="missing field",
        ),
        pytest.param(
            [order(i, paid=LISTS[i]) for i in range(3)],
            {},
            SourceError,
            r"columns\.amount: column 'paid' \(array<bigint>\) can never become a number",
            id="list for a number",
        ),
        pytest.param(
            [order(i, time=True) for i in range(3)],
            {},
            SourceError,
            r"columns\.event_time: column 'time' \(boolean\) can never become a timestamp",
            id="boolean for a time",
        ),
        pytest.param(
            orders(3),
            {"time_zone": None},
            CompanyConfigError,
            r"company\.yaml: tables\.orders\.time_zone is missing, and 'event_time' holds times",
            id="parquet times without a zone",
        ),
        pytest.param(
            [order(0, time="2024-01-01T00:00:00Z"), order(1, time="2024-01-01T00:00:00")],
            {"time_zone": None},
            CompanyConfigError,
            r"tables\.orders\.time_zone is missing, and 'event_time' holds times without a zone",
            id="text times without a zone",
        ),
        pytest.param(
            [order(0, time=1_704_067_200)],
            {},
            CompanyConfigError,
            r"tables\.orders\.time_unit is missing, .* Give the unit since 1970-01-01 UTC",
            id="numbers as times",
        ),
        pytest.param(
            [order(i, paid="abc") for i in range(3)],
            {},
            QualityError,
            r"(?s)nothing was written.*All rows are in quarantine\. orders: 3 rows in = "
            r"0 accepted \+ 3 quarantined \+ 0 duplicates \(amount_not_a_number 3\)"
            r".*data_quality/index\.html",
            id="all rows broken",
        ),
        pytest.param(
            [*orders(2), *(order(i, pieces=0) for i in range(2, 6))],
            {},
            QualityError,
            r"expect_column_pair_values_a_to_be_greater_than_b.*quarantined_share",
            id="too many rows broken",
        ),
        pytest.param(
            [*orders(3), order(1, paid=77.0)],
            {},
            QualityError,
            r"(?s)the same event_id came with different content:\n"
            r'    \{"event_id":"o1".*"amount":0\.5.*\n    \{"event_id":"o1".*"amount":77\.0',
            id="one id, two contents",
        ),
        pytest.param(
            [order(0)],
            {"source": {"format": "parquet", "path": "orders.parquet", "options": {"heder": True}}},
            UserError,
            r"Unknown option of format 'parquet' in .*tables\.orders 'heder'",
            id="unknown option",
        ),
    ],
)
def test_wrong_input_stops_the_line_and_leaves_no_table(
    spark: SparkSession,
    workspace: Workspace,
    rows: list[dict[str, Any]],
    changes: dict[str, Any],
    error: type[UserError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        take_in_orders(spark, workspace, rows, **changes)
    assert not (workspace.root / "lake").exists()


def test_an_empty_table_stops_the_line(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    path = write_tiny_company(tmp_path / "raw")
    table = pq.read_table(path.with_name("products.parquet"))
    pq.write_table(table.slice(0, 0), path.with_name("products.parquet"))
    with pytest.raises(SourceError, match=r"tables\.products: the source holds no rows"):
        take_in(spark, workspace, path)
    assert not (workspace.root / "lake").exists()


def test_a_broken_batch_leaves_the_lake_as_it_was(
    spark: SparkSession, workspace: Workspace
) -> None:
    take_in_orders(spark, workspace, orders(10))
    before = versions(workspace)
    with pytest.raises(QualityError):
        take_in_orders(spark, workspace, [*orders(12), order(3, paid=5.25)])
    assert versions(workspace) == before


def test_leftovers_of_a_first_write_that_was_killed_are_no_table(
    spark: SparkSession, workspace: Workspace
) -> None:
    leftover = workspace.table("events") / "part-00000.parquet"
    write_rows(leftover, [order(1)])
    take_in_orders(spark, workspace, orders(10))
    assert len(events(workspace)) == 10
    assert not leftover.exists()


def test_unknown_items_long_texts_and_the_far_future_are_warnings(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    path = write_company(
        tmp_path / "raw",
        events_table(),
        catalogue_table(),
        files={
            "orders.parquet": [*orders(23), order(23, time=np.datetime64("2100-01-01", "us"))],
            "products.parquet": [*products()[1:], {"item": 99, "name": "x" * 20_001}],
        },
    )
    said: list[str] = []
    ingested = ingest(spark, workspace, load_company(path), path, said.append)
    by_name = {ledger.table: ledger for ledger in ingested.ledgers}
    assert by_name["orders"].unknown_items == 2
    warned = [line for line in said if line.startswith("warning: ")]
    assert len(warned) == 3
    for words in ("unknown_item_share", "max_value=20000", "'event_time', max_value="):
        assert any(words in line for line in warned), words
    assert len(events(workspace)) == 24


def test_an_intake_unlike_the_ones_before_is_a_warning_everywhere(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    said: list[str] = []

    def take(rows: list[dict[str, Any]]) -> Ingested:
        path = write_company(tmp_path / "raw", events_table(), files={"orders.parquet": rows})
        return ingest(spark, workspace, load_company(path), path, said.append)

    assert take(orders(200)).alarms == []
    euros = [order(i) for i in range(200, 320)]
    cents = [{**row, "paid": 100 * row["paid"], "store": "west"} for row in euros]
    alarms = {alarm.kind: alarm for alarm in take([*orders(200), *cents]).alarms}
    assert {"shifted numbers", "new values", "vanished values"} == alarms.keys()
    assert "Cents instead of euros?" in alarms["shifted numbers"].cause
    assert "customer" not in alarms["new values"].example
    assert '"store": "west"' in alarms["new values"].example
    assert sum(line.startswith("warning: orders.store: ") for line in said) == 2
    folder = workspace.data_quality
    assert len(json.loads((folder / "counts.json").read_text())["alarms"]) == 3
    assert "Unlike the intakes before" in (folder / "index.html").read_text()
    profile = Profile.load(profile_path(workspace, "orders"))
    assert profile is not None
    assert profile.values["store"] == {"west": 120, "north": 90, "south": 90}


def test_a_small_table_is_compared_with_its_own_past(
    spark: SparkSession, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cents in a table of a tenth of the rows: the sample of the large one is one row of three."""
    monkeypatch.setattr(watch, "MAX_SAMPLE", 1_000)
    clicks = events_table(
        name="clicks", source={"format": "parquet", "path": "clicks.parquet"}, fields={}
    )

    def take(first: int, factor: int, num_clicks: int = 2_500) -> list[Alarm]:
        few = [order(i, paid=(1 + i % 7) * factor) for i in range(first, first + 250)]
        many = [order(i, id=f"c{i}", paid=5.0) for i in range(first, first + num_clicks)]
        files = {"orders.parquet": few, "clicks.parquet": many}
        path = write_company(tmp_path / "raw", events_table(), clicks, files=files)
        return take_in(spark, workspace, path).alarms

    assert take(0, 1) == []
    shifted = [alarm for alarm in take(10_000, 100) if alarm.kind == "shifted numbers"]
    assert [(alarm.table, alarm.field) for alarm in shifted] == [("orders", "amount")]
    assert "100 times larger" in shifted[0].seen
    profiles = [Profile.load(profile_path(workspace, name)) for name in ("orders", "clicks")]
    assert [one.num_rows for one in profiles if one] == [475, pytest.approx(4_750, rel=0.1)]
    write_rows(tmp_path / "raw" / "clicks.parquet", [order(0, id="c0", paid=5.0)])
    write_rows(tmp_path / "raw" / "orders.parquet", [order(i) for i in range(20_000, 20_100)])
    alarms = take_in(spark, workspace, tmp_path / "raw" / "company.yaml").alarms
    (stopped,) = (str(alarm) for alarm in alarms if alarm.field == "source_table")
    assert stopped.startswith("clicks.source_table: no new event; usual: about 91 beside")


def test_rows_that_cannot_be_read_back_are_a_warning_and_no_end(workspace: Workspace) -> None:
    write_deltalake(str(workspace.table("events")), pa.table({"event_id": ["e"]}))
    (alarm,) = watch_new_events(
        workspace,
        EVENTS,
        tables=["orders"],
        after_version=-1,
        num_rows=1,
        now=datetime.now(UTC),
    )
    assert "the new rows could not be read back" in str(alarm)
    assert "change data feed" in alarm.cause
    assert not profile_path(workspace, "orders").exists()


def test_a_source_of_nothing_but_expired_events_is_refused(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    path = write_company(tmp_path / "raw", events_table(), files={"orders.parquet": orders(3)})
    oldest = datetime(2027, 12, 12, tzinfo=UTC)
    with pytest.raises(SourceError, match=r"no rows from 2027-12-12 on \(retention_days\)"):
        ingest(spark, workspace, load_company(path), path, retained_from=oldest)


def test_expired_rows_are_counted(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    rows = [*orders(10), order(0, customer=None), order(9, customer=None), order(9)]
    path = write_company(
        tmp_path / "raw",
        events_table(max_quarantined_share=0.5),
        catalogue_table(),
        files={"orders.parquet": rows, "products.parquet": products()},
    )
    oldest = datetime(2024, 1, 2, tzinfo=UTC)  # orders come every seven hours
    said: list[str] = []
    ledger = ingest(
        spark, workspace, load_company(path), path, said.append, retained_from=oldest
    ).ledgers[-1]
    assert (ledger.input_rows, ledger.expired, ledger.unaccounted) == (13, 5, 0)
    assert (
        "orders: 13 rows in = 6 accepted + 1 quarantined + 1 duplicates + 5 expired "
        "(user_id_missing 1)"
    ) in said
    assert "products: 13 rows in = 13 accepted + 0 quarantined + 0 duplicates" in said
    assert [row["event_id"] for row in events(workspace)] == [f"o{i}" for i in range(4, 10)]
    assert lake.read(workspace, "quarantine", ["rule"]).num_rows == 1


def test_retention_keeps_what_streams_refused(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    clicks = events_table(name="clicks", source={"format": "parquet", "path": "clicks.parquet"})
    broken = [*orders(3), order(3, customer=None)]
    files = {"orders.parquet": broken, "clicks.parquet": [order(9, customer=None), order(8)]}
    path = write_company(tmp_path / "raw", events_table(), clicks, files=files)
    take_in(spark, workspace, path)

    def refused() -> list[str]:
        return sorted(lake.read(workspace, "quarantine", ["source_table"]).column(0).to_pylist())

    assert refused() == ["clicks", "orders"]
    write_rows(tmp_path / "raw" / "orders.parquet", orders(4))
    oldest, company = datetime(2020, 1, 1, tzinfo=UTC), load_company(path)
    for _ in range(2):
        ingest(spark, workspace, company, path, print, oldest, streamed=["clicks"])
        assert refused() == ["clicks"]
    ingest(spark, workspace, company, path, print, oldest)
    assert refused() == ["clicks"]


def test_rows_of_erased_users_stay_out(spark: SparkSession, workspace: Workspace) -> None:
    digest = hashlib.sha256(b"u1").hexdigest()
    write_json_atomically(suppression_path(workspace), {"users": [digest]})
    ledger = take_in_orders(spark, workspace, orders(12)).ledgers[0]
    assert ledger.input_rows == 10
    assert "u1" not in {row["user_id"] for row in events(workspace)}
