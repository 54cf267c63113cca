"""Rows of touched users beside older ones: what a reader sees, and what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from deltalake import DeltaTable
from pyspark.sql import functions as F

from pipelines import lake
from pipelines.flow.lake_erasure import erase_from
from pipelines.stages.renewal import clear, is_crowded, renew
from pipelines.stages.user_ranges import UserRange
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.integration

SCHEMA = "user_id string, num_events int"
RANGES = [UserRange(lower=None, upper="bob"), UserRange(lower="bob", upper=None)]


def sequences(spark: SparkSession, **num_events: int) -> DataFrame:
    return spark.createDataFrame(list(num_events.items()), SCHEMA)


def read(workspace: Workspace) -> list[tuple[str, int]]:
    rows = lake.read(workspace, "token_sequences")
    assert rows.column_names == ["user_id", "num_events"]
    return sorted((row["user_id"], row["num_events"]) for row in rows.to_pylist())


@pytest.fixture
def made(spark: SparkSession, workspace: Workspace) -> Workspace:
    frame = sequences(spark, ada=1, bob=2, eve=3)
    frame.coalesce(1).write.format("delta").save(str(workspace.table("token_sequences")))
    return workspace


def test_a_renewal_adds_its_users_alone(spark: SparkSession, made: Workspace) -> None:
    path = made.table("token_sequences")
    before = set(DeltaTable(str(path)).file_uris())
    written = renew(sequences(spark, ada=10, kim=4), path, ["ada", "kim"])
    assert (written.inserted, written.deleted) == (2, 0)
    assert read(made) == [("ada", 10), ("bob", 2), ("eve", 3), ("kim", 4)]
    assert before < set(DeltaTable(str(path)).file_uris()), "no file was written again"
    renew(sequences(spark, ada=11), path, ["ada"])
    renew(sequences(spark, ada=11), path, ["ada"])
    assert read(made) == [("ada", 11), ("bob", 2), ("eve", 3), ("kim", 4)]


def test_users_without_events_are_deleted(spark: SparkSession, made: Workspace) -> None:
    path = made.table("token_sequences")
    renew(sequences(spark, bob=20), path, ["bob"])
    renew(sequences(spark, eve=30), path, ["bob", "eve"])
    assert read(made) == [("ada", 1), ("eve", 30)]
    renew(sequences(spark, ada=0).where(F.lit(False)), path, ["ada"])
    assert read(made) == [("eve", 30)]


def test_a_crowded_table_is_cleared_of_older_rows(spark: SparkSession, made: Workspace) -> None:
    path = made.table("token_sequences")
    assert not is_crowded(path)
    renew(sequences(spark, ada=10, bob=20), path, ["ada", "bob"])
    assert not is_crowded(path)
    renew(sequences(spark, ada=11, kim=4), path, ["ada", "kim"])
    assert not is_crowded(path)
    version = DeltaTable(str(path)).version()
    renew(sequences(spark, bob=21), path, ["bob"])
    assert is_crowded(path), "eight rows of four users"
    expected, renewed = read(made), lake.renewed_since(made, version)
    clear(spark, path, RANGES, sequences(spark, ada=1).schema)
    assert read(made) == expected == [("ada", 11), ("bob", 21), ("eve", 3), ("kim", 4)]
    assert lake.num_rows(made, "token_sequences") == 4
    assert not is_crowded(path)
    assert lake.renewed_since(made, version) == renewed == ["bob"], "who was renewed stays known"
    assert lake.renewed_since(made, 0) == ["ada", "bob", "kim"]


def test_an_erased_user_is_gone_with_all_older_rows(spark: SparkSession, made: Workspace) -> None:
    renew(sequences(spark, ada=10), made.table("token_sequences"), ["ada"])
    assert erase_from(made, "token_sequences", "ada") == 2
    assert read(made) == [("bob", 2), ("eve", 3)]
    held = lake.open_table(made, "token_sequences").to_pyarrow_table()
    assert "ada" not in held.column("user_id").to_pylist()
    renew(sequences(spark, eve=30), made.table("token_sequences"), ["eve"])
    assert read(made) == [("bob", 2), ("eve", 30)]
