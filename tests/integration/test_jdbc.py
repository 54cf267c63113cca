"""Tables of a database over JDBC: the one that Spark brings, in this process and in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.company import SourceConfig, load_company
from pipelines.errors import SourceError, UserError
from pipelines.sources.registry import needed_jars, read_source
from pipelines.sources.request import SourceRequest
from pipelines.stages.canonical import canonical_rows
from tests.tiny_company import events_table, orders, write_company

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

DRIVER = "org.apache.derby.iapi.jdbc.AutoloadedDriver"
URL = "jdbc:derby:memory:shop"
ACCESS = {"url": URL, "driver": DRIVER}


@pytest.fixture(scope="module")
def database(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A table `orders` of seven rows in a database in memory."""
    folder = tmp_path_factory.mktemp("derby")
    write_company(folder, events_table(), files={"orders.parquet": orders(7)})
    jvm: Any = spark._jvm
    jvm.java.lang.System.setProperty("derby.stream.error.file", str(folder / "derby.log"))
    (
        spark.read.parquet(str(folder / "orders.parquet"))
        .write.format("jdbc")
        .options(url=f"{URL};create=true", driver=DRIVER, dbtable="orders")
        .save()
    )


def rows(spark: SparkSession, folder: Path, source: dict[str, Any]) -> list[dict[str, Any]]:
    path = write_company(folder, events_table(source=source), files={"orders.parquet": orders(7)})
    company = load_company(path)
    raw = read_source(spark, SourceRequest.of(company.tables[0], path))
    frame = canonical_rows(raw, company.tables[0], company.contract("events"), path)
    return frame.drop("raw_row").orderBy("event_id").toArrow().to_pylist()


@pytest.mark.usefixtures("database")
def test_a_table_gives_the_rows_of_a_file(spark: SparkSession, tmp_path: Path) -> None:
    expected = rows(spark, tmp_path, {"format": "parquet", "path": "orders.parquet"})
    assert {row["rule"] for row in expected} == {None}
    asked: list[dict[str, Any]] = [
        {"table": "orders"},
        {"query": 'SELECT * FROM orders WHERE "item" < 100', "fetch_size": 2},
        {"table": "orders", "partition_column": '"item"', "num_partitions": 3},
        {
            "query": 'SELECT o.*, CAST("item" AS DECIMAL(9,2)) AS part FROM orders o',
            "partition_column": "PART",
            "num_partitions": 2,
        },
    ]
    for options in asked:
        assert rows(spark, tmp_path, {"format": "jdbc", "options": ACCESS | options}) == expected


@pytest.mark.usefixtures("database")
def test_partitions_are_read_side_by_side(spark: SparkSession) -> None:
    options = {"table": "orders", "partition_column": '"item"', "num_partitions": 3}
    assert read_source(spark, request(ACCESS | options)).rdd.getNumPartitions() == 3
    nothing = {**options, "query": 'SELECT * FROM orders WHERE "item" < 0'}
    del nothing["table"]
    assert read_source(spark, request(ACCESS | nothing)).rdd.getNumPartitions() == 1


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"tables\.orders\.source\.options: give one of 'table' .* and 'query'"),
        ({"table": "a", "query": "SELECT 1"}, r"give one of 'table'"),
        ({"table": "a", "num_partitions": 2}, r"'partition_column' and 'num_partitions' go tog"),
        ({"table": "a", "password_variable": "BFM_NO_SUCH"}, r"'BFM_NO_SUCH' is not set\. Set it"),
        ({"table": "gone"}, r"derby:memory:shop cannot be read: .*'GONE' does not exist"),
        ({"table": "a", "driver": "no.such.Driver"}, r"no\.such\.Driver.*BFM_SPARK_EXTRA_JARS"),
    ],
)
def test_what_is_wrong_is_said(spark: SparkSession, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_source(spark, request(ACCESS | options))


@pytest.mark.usefixtures("database")
def test_a_password_is_never_shown(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that repeats it in a message, here because it is the name of a table too."""
    monkeypatch.setenv("SHOP_PASSWORD", "SECRET")
    options = {"table": "secret", "user": "app", "password_variable": "SHOP_PASSWORD"}
    with pytest.raises(SourceError, match=r"'\*\*\*' does not exist") as caught:
        read_source(spark, request(ACCESS | options))
    assert "SECRET" not in str(caught.value)


def test_postgresql_alone_brings_its_driver() -> None:
    assert needed_jars([request(ACCESS)]) == ()
    assert needed_jars([request({"url": "jdbc:postgresql://h/db"})]) == ("postgresql",)


def request(options: dict[str, Any]) -> SourceRequest:
    source = SourceConfig(format="jdbc", options=options)
    return SourceRequest(table="orders", source=source, company_path=Path("company.yaml"))
