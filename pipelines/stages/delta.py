"""Writes to the lake: all of a frame in one Delta commit, or no commit at all."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from pyspark.storagelevel import StorageLevel

from pipelines.contracts import CONTENT_HASH, TableContract
from pipelines.errors import WorkspaceError

ROWS_PER_FILE: Final = 500_000
_WRITE_OPTIONS: Final = {"delta.enableDeletionVectors": "false", "compression": "zstd"}


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a write changed; both are 0 when there was nothing to commit."""

    inserted: int
    updated: int


def merge(frame: DataFrame, path: Path, contract: TableContract, cluster: list[str]) -> Written:
    """Insert new keys and update rows whose content changed, in one commit or none.

    Args:
        frame: Rows of the contract, one per key.
        path: Folder of the table; made when it does not exist.
        contract: Its key identifies a row; with a content hash, changed rows are updated.
        cluster: Columns that rows are sorted by across files, so that few files hold one user.

    Raises:
        WorkspaceError: a column of the table has another type than the contract says now.
    """
    spark = frame.sparkSession
    if not has_table(spark, path):
        rows = frame.count()
        _write(_clustered(frame, cluster, rows), path)
        return Written(inserted=rows, updated=0)
    _add_columns(spark, path, frame.schema)
    key = list(contract.key)
    same = [*key, CONTENT_HASH] if CONTENT_HASH in frame.columns else key
    target = DeltaTable.forPath(spark, str(path))
    changes = frame.join(target.toDF().select(*same), same, "left_anti").persist(
        StorageLevel.MEMORY_AND_DISK
    )
    try:
        total = changes.count()
        if not total:
            return Written(inserted=0, updated=0)
        updated = changes.join(target.toDF().select(*key), key, "left_semi").count()
        condition = " AND ".join(f"old.{name} = new.{name}" for name in key)
        (
            target.alias("old")
            .merge(_clustered(changes, cluster, total).alias("new"), condition)
            .whenMatchedUpdateAll()
            .whenNotMatchedInsertAll()
            .execute()
        )
        return Written(inserted=total - updated, updated=updated)
    finally:
        changes.unpersist()


def replace(frame: DataFrame, path: Path, cluster: list[str]) -> bool:
    """Make a table hold exactly these rows in one commit; False when it does already.

    Args:
        frame: The rows; persisted by the caller when they are dear to make.
        path: Folder of the table; made when it does not exist.
        cluster: Columns that rows are sorted by across files.
    """
    spark = frame.sparkSession
    if has_table(spark, path):
        current = spark.read.format("delta").load(str(path))
        if current.dtypes == frame.dtypes and content_of(current) == content_of(frame):
            return False
    _write(_clustered(frame, cluster, frame.count()), path)
    return True


def content_of(frame: DataFrame) -> tuple[int, int]:
    """Number of rows and a 64-bit hash of their content, whatever their order or files."""
    if not frame.columns:
        return (frame.count(), 0)
    row_hash = F.xxhash64(*frame.columns)
    found = frame.agg(F.count("*"), F.bit_xor(row_hash)).first()
    return (found[0], found[1] or 0) if found else (0, 0)


def has_table(spark: SparkSession, path: Path) -> bool:
    """Whether a commit was ever finished there; leftovers of an unfinished one are removed."""
    if DeltaTable.isDeltaTable(spark, str(path)):
        return True
    if path.exists():
        shutil.rmtree(path)
    return False


def _write(frame: DataFrame, path: Path) -> None:
    (
        frame.write.format("delta")
        .options(**_WRITE_OPTIONS)
        .option("overwriteSchema", "true")
        .mode("overwrite")
        .save(str(path))
    )


def _clustered(frame: DataFrame, cluster: list[str], rows: int) -> DataFrame:
    files = math.ceil(rows / ROWS_PER_FILE)
    if files <= 1:
        return frame.coalesce(1).sortWithinPartitions(*cluster)
    return frame.repartitionByRange(files, *cluster).sortWithinPartitions(*cluster)


def _add_columns(spark: SparkSession, path: Path, schema: StructType) -> None:
    current = {
        field.name: field.dataType for field in DeltaTable.forPath(spark, str(path)).toDF().schema
    }
    for field in schema:
        if field.name in current and current[field.name] != field.dataType:
            raise WorkspaceError(
                f"{path}: column '{field.name}' is {current[field.name].simpleString()} in the "
                f"workspace, company.yaml makes it {field.dataType.simpleString()} now. Give the "
                "field another name, or use a new workspace."
            )
    new = [field for field in schema if field.name not in current]
    if new:
        columns = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in new)
        spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMNS ({columns})")
