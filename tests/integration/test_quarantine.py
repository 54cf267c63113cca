"""`bfm quarantine`: refused rows are listed, exported, repaired and taken in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import functions as F
from typer.testing import CliRunner

from pipelines import lake
from pipelines.company import load_company
from pipelines.contracts import RAW_ROW, SOURCE_TABLE
from pipelines.errors import UserError
from pipelines.flow.runner import RunSettings
from pipelines.quality.gate import row_hash
from pipelines.stages.ingest import ingest
from pipelines.workspace import Workspace
from serving.cli.main import app
from tests.tiny_company import events_table, order, orders, write_company, write_rows

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

ODD = "[/b] [red] :100: \u2028\x85"
"""What Rich takes for markup, and what Python takes for ends of lines."""
BAD = [order(50, customer=None, store=ODD), order(51, customer=None), order(52, pieces=-2)]


@pytest.fixture(scope="module")
def shop(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with three refused rows."""
    folder = tmp_path_factory.mktemp("quarantine")
    path = write_company(folder, events_table(), files={"orders.parquet": [*orders(10), *BAD]})
    return filled(spark, folder / "workspace", path)


def filled(spark: SparkSession, root: Path, company_path: Path) -> Workspace:
    """A workspace after its first intake."""
    workspace = Workspace(root)
    RunSettings(company_path=company_path).save(workspace)
    workspace.state.mkdir()
    take_in(spark, workspace)
    return workspace


def take_in(spark: SparkSession, workspace: Workspace) -> None:
    path = RunSettings.load(workspace).company_path
    ingest(spark, workspace, load_company(path), path, say=lambda line: None)


def bfm(workspace: Workspace, *arguments: str) -> str:
    result = CliRunner().invoke(
        app, ["quarantine", "--workspace", str(workspace.root), *arguments], env={"COLUMNS": "400"}
    )
    if result.exception is not None:
        raise result.exception
    return " ".join(result.output.split())


def exported(workspace: Workspace, path: Path) -> dict[str, dict[str, Any]]:
    said = bfm(workspace, "--export", str(path), "--table", "orders")
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert said.startswith(f"{len(rows)} row(s) written")
    return {row["id"]: row for row in rows}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return str(path)


def refused(workspace: Workspace) -> set[tuple[str, str]]:
    rows = lake.read(workspace, "quarantine").to_pylist()
    return {(json.loads(row["raw_row"])["id"], row["rule"]) for row in rows}


@pytest.mark.parametrize(
    ("line", "table", "message"),
    [
        ("{", "orders", r"line 1: not JSON .* Correct the line"),
        ("{}", "orders", r"line 1: no '_row_hash', .* Keep the key as the export wrote it"),
        ("", "orders", r"no rows\. Give one JSON object per line"),
        ("{}", "order", r"Unknown table 'order'\. Known: orders\. Did you mean 'orders'\?"),
        (
            '{"_row_hash": "h", "_table": "returns"}',
            "orders",
            r"line 1: a row of table 'returns', not of 'orders'\. Export each table",
        ),
        (
            '{"_row_hash": "h", "pieces": "two"}',
            "orders",
            r'\{"pieces": "two"\} does not fit the columns of the source \(.*pieces bigint',
        ),
    ],
)
def test_a_file_that_is_no_export_is_refused(
    shop: Workspace, tmp_path: Path, line: str, table: str, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match=message):
        bfm(shop, "--replay", str(path), "--table", table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--export", "a", "--replay", "b"], "give one of them"),
        (["--replay", "b"], "--replay FILE needs --table NAME"),
        (["--table", "ordres"], "Did you mean 'orders'"),
        (["--replay", "b.jsonl", "--table", "orders"], "no such file. Write one with: bfm quar"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    shop: Workspace, arguments: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        bfm(shop, *arguments)


def test_repaired_rows_come_in_and_stay_out_of_quarantine(
    spark: SparkSession, shop: Workspace, tmp_path: Path
) -> None:
    said = bfm(shop)
    assert "user_id_missing │ 2" in said
    assert "map another column" in said
    assert "user_id_missing" not in bfm(shop, "--rule", "quantity_not_above_0")
    assert bfm(shop, "--rule", "no_such_rule") == "No such row is in quarantine."
    rows = exported(shop, tmp_path / "rows.jsonl")
    assert rows["o50"]["_rule"] == "user_id_missing"
    other = {**rows["o51"], "customer": "u9", "pieces": 0}
    path = write(tmp_path / "rows.jsonl", {**rows["o50"], "customer": "u8"}, other, rows["o52"])
    said = bfm(shop, "--replay", path, "--table", "orders")
    assert "orders: 3 rows in = 1 accepted + 2 quarantined + 0 duplicates" in said
    assert "1 inserted, 0 updated in events; 2 row(s) left quarantine" in said
    left = {("o51", "quantity_not_above_0"), ("o52", "quantity_not_above_0")}
    assert refused(shop) == left
    (taken,) = (row for row in lake.read(shop, "events").to_pylist() if row["event_id"] == "o50")
    assert (taken["user_id"], taken["store"]) == ("u8", ODD)
    said = bfm(shop, "--replay", path, "--table", "orders")
    assert "0 inserted, 0 updated in events; 0 row(s) left quarantine" in said
    take_in(spark, shop)
    assert refused(shop) == left  # the source still holds all three as they were


def test_one_id_with_two_contents_is_refused(shop: Workspace, tmp_path: Path) -> None:
    row = next(iter(exported(shop, tmp_path / "rows.jsonl").values()))
    both = [{**row, "pieces": num, "customer": "u1"} for num in (1, 2)]
    before = lake.version_of(shop, "events")
    with pytest.raises(UserError, match=r"the same event_id came with different content; nothing"):
        bfm(shop, "--replay", write(tmp_path / "rows.jsonl", *both), "--table", "orders")
    assert lake.version_of(shop, "events") == before


@pytest.mark.parametrize(
    ("raw_row", "is_same"),
    [
        pytest.param('{"id":"o1","pieces":-1,"store":null,"till":null}', True, id="a new column"),
        pytest.param('{"pieces":-1,"store":null,"id":"o1"}', True, id="another order"),
        pytest.param('{"id":"o1","pieces":-2,"store":null}', False, id="another value"),
        pytest.param('{"id":"o1","pieces":-1,"store":""}', False, id="an empty text"),
        pytest.param('{"id":"o1","sold":-1,"store":null}', False, id="another column's value"),
    ],
)
def test_a_raw_row_is_known_by_the_values_that_it_holds(
    spark: SparkSession, raw_row: str, is_same: bool
) -> None:
    rows = [("orders", '{"id":"o1","pieces":-1,"store":null}'), ("orders", raw_row)]
    frame = spark.createDataFrame(rows, f"{SOURCE_TABLE} string, {RAW_ROW} string")
    one, other = (row[0] for row in frame.select(row_hash()).collect())
    assert (one == other) is is_same


def test_raw_rows_too_large_to_be_taken_apart_are_told_apart(spark: SparkSession) -> None:
    """What a quote that is never closed makes of a large file; Spark reads texts up to 20 MB."""
    text = F.repeat(F.char(F.col("id") + ord("a")), F.lit(20_000_001))
    rows = spark.range(2).select(
        F.lit("orders").alias(SOURCE_TABLE),
        F.to_json(F.struct(text.alias("paid"))).alias(RAW_ROW),
    )
    one, other = (row[0] for row in rows.select(row_hash()).collect())
    assert one != other


def test_a_repaired_row_stays_out_when_another_file_has_a_column_more(
    spark: SparkSession, tmp_path: Path
) -> None:
    table = events_table(source={"format": "csv", "path": "orders"})
    files = {"orders/january.csv": [*orders(10), order(50, customer=None)]}
    shop = filled(spark, tmp_path / "workspace", write_company(tmp_path, table, files=files))
    (row,) = exported(shop, tmp_path / "rows.jsonl").values()
    path = write(tmp_path / "rows.jsonl", {**row, "customer": "u8"})
    bfm(shop, "--replay", path, "--table", "orders")
    assert refused(shop) == set()
    write_rows(tmp_path / "orders" / "february.csv", [{"till": "t1", **order(60)}])
    take_in(spark, shop)
    assert lake.read(shop, "events").num_rows == 12
    assert refused(shop) == set()
