"""Writes to the lake: all of a frame in one Delta commit, or no commit at all."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from delta.tables import DeltaTable
from deltalake import DeltaTable as LogReader
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from pyspark.storagelevel import StorageLevel

from pipelines.contracts import CONTENT_HASH, EVENT_TIME, SOURCE_TABLE, TableContract
from pipelines.errors import SourceError, WorkspaceError
from pipelines.stages import small_merge

ROWS_PER_FILE: Final = 500_000
SAMPLES_PER_FILE: Final = 500
MAX_CUTS: Final = 128
MAX_BROADCAST_ROWS: Final = 1_000_000
_OLD_HASH: Final = "old_hash"
_NEW_HASH: Final = "new_hash"
_OLD_SOURCE: Final = small_merge.OLD_SOURCE
_BESIDE: Final = (_OLD_HASH, _NEW_HASH, _OLD_SOURCE)
_WRITE_OPTIONS: Final = {"compression": "zstd", "delta.enableDeletionVectors": "false"}


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a write changed; all are 0 when there was nothing to commit."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0


def merge(
    frame: DataFrame,
    path: Path,
    contract: TableContract,
    cluster: list[str],
    *,
    num_rows: int,
    within: DataFrame | None = None,
    since_us: int | None = None,
) -> Written:
    """Insert new keys and update rows whose content changed.

    Updates are one commit and inserts another; what a kill between them leaves undone, the same
    merge does when it comes again.

    Args:
        frame: Rows of the contract, one per key.
        path: Folder of the table; made when it does not exist.
        contract: Its key identifies a row.
        cluster: Columns that rows are sorted by; files are cut by the first.
        num_rows: Rows of the frame, or a little more.
        within: Users whose rows the frame holds whole: other rows of theirs are deleted.
        since_us: No stored row with a key of the frame has an earlier `EVENT_TIME` (UTC
            microseconds), so that others are not read; None: any may.

    Raises:
        WorkspaceError: a column of the table has another type than the contract says now.
        SourceError: a row has the key of another one that came from another source table; nothing
            is written.
    """
    spark = frame.sparkSession
    if not has_table(spark, path):
        _write(_clustered(frame, cluster, num_rows), path, cluster)
        return Written(inserted=num_rows)
    _add_columns(spark, path, frame.schema)
    if not num_rows and within is None:
        return Written()
    adds_alone = within is None and CONTENT_HASH in frame.columns
    if adds_alone and small_merge.is_small(path, num_rows, since_us):
        return _merge_small(frame, path, contract, cluster, since_us)
    stored = spark.read.format("delta").load(str(path))
    if since_us is not None:
        stored = stored.where(F.col(EVENT_TIME) >= F.timestamp_micros(F.lit(since_us)))
    changes = _changes(frame, stored, contract, num_rows, within).persist(
        StorageLevel.MEMORY_AND_DISK
    )
    try:
        return _apply(changes, path, contract, cluster)
    finally:
        changes.unpersist()


def _merge_small(
    frame: DataFrame,
    path: Path,
    contract: TableContract,
    cluster: list[str],
    since_us: int | None,
) -> Written:
    """The same as `_apply` does, with rows that this process holds."""
    found = small_merge.compare(frame.toArrow(), path, contract.key, since_us)
    if found.foreign.num_rows:
        _refuse_foreign(contract, found.foreign.num_rows, found.foreign.to_pylist()[0])
    if found.changed.num_rows:
        changed = frame.sparkSession.createDataFrame(found.changed)
        marked = changed.withColumn(_NEW_HASH, F.col(CONTENT_HASH))
        _change(marked, path, contract, found.changed.num_rows)
    if found.new.num_rows:
        small_merge.append(found.new, path, cluster)
    return Written(inserted=found.new.num_rows, updated=found.changed.num_rows)


def _changes(
    frame: DataFrame,
    stored: DataFrame,
    contract: TableContract,
    num_rows: int,
    within: DataFrame | None,
) -> DataFrame:
    """Rows to write, with the hashes of old and new content; a hash is null where there is none."""
    key = list(contract.key)
    tells_source = {CONTENT_HASH, SOURCE_TABLE} <= set(stored.columns)  # events do
    sources = [F.col(SOURCE_TABLE).alias(_OLD_SOURCE)] if tells_source else []
    stored = stored.select(*key, _content_hash(stored).alias(_OLD_HASH), *sources)
    if within is None:
        known = stored.join(_small(frame.select(*key), num_rows), key, "left_semi")
    else:
        known = stored.join(F.broadcast(within), within.columns, "left_semi")
    joined = frame.withColumn(_NEW_HASH, _content_hash(frame)).join(known, key, "full")
    return joined.where(~F.col(_OLD_HASH).eqNullSafe(F.col(_NEW_HASH)))


def _content_hash(frame: DataFrame) -> Column:
    return F.col(CONTENT_HASH) if CONTENT_HASH in frame.columns else F.xxhash64(*frame.columns)


def _apply(changes: DataFrame, path: Path, contract: TableContract, cluster: list[str]) -> Written:
    is_new, is_gone = F.col(_OLD_HASH).isNull(), F.col(_NEW_HASH).isNull()
    counted = changes.agg(F.count_if(is_new), F.count_if(is_gone), F.count("*")).first()
    inserted, deleted, total = counted or (0, 0, 0)
    if _OLD_SOURCE in changes.columns:
        foreign = changes.where(F.col(SOURCE_TABLE) != F.col(_OLD_SOURCE))
        names = (*contract.key, SOURCE_TABLE, _OLD_SOURCE)
        if (example := foreign.select(*names).first()) is not None:
            _refuse_foreign(contract, foreign.count(), example.asDict())
    written = Written(inserted=inserted, updated=total - inserted - deleted, deleted=deleted)
    if written.updated or written.deleted:
        _change(changes.where(~is_new), path, contract, total - inserted)
    if written.inserted:
        rows = changes.where(is_new).drop(*_BESIDE)
        _clustered(rows, cluster, inserted).write.format("delta").mode("append").save(str(path))
    return written


def _refuse_foreign(contract: TableContract, num: int, example: Mapping[str, Any]) -> NoReturn:
    """Two systems that count from one would overwrite each other's rows."""
    key = ", ".join(f"{name} {example[name]!r}" for name in contract.key)
    came, known = example[SOURCE_TABLE], example[_OLD_SOURCE]
    raise SourceError(
        f"{num:,} row(s) of table '{came}' have the key of a row that came from table '{known}', "
        f"as {key}: they would overwrite it. No event was written. Tell the ids of the two apart, "
        f"as with {contract.key[0]}: {{concat: [{{constant: {came}}}, id]}}; if the table was "
        f"renamed, give it its old name '{known}'."
    )


def _change(changes: DataFrame, path: Path, contract: TableContract, num_rows: int) -> None:
    """Update and delete: with few changes the table's files are rewritten in their own order."""
    names = [name for name in changes.columns if name not in _BESIDE]
    (
        DeltaTable.forPath(changes.sparkSession, str(path))
        .alias("old")
        .merge(
            _small(changes, num_rows).alias("new"),
            " AND ".join(f"old.{name} = new.{name}" for name in contract.key),
        )
        .whenMatchedDelete(f"new.{_NEW_HASH} IS NULL")
        .whenMatchedUpdate(set={f"`{name}`": f"new.`{name}`" for name in names})
        .execute()
    )


def _small(frame: DataFrame, num_rows: int) -> DataFrame:
    """The frame, sent whole to every task where it is small: a big table is not shuffled for it."""
    return F.broadcast(frame) if num_rows <= MAX_BROADCAST_ROWS else frame


def replace(frame: DataFrame, path: Path, cluster: list[str]) -> bool:
    """Make a table hold exactly these rows in one commit; False when it does already.

    Args:
        frame: The rows, already in files' order: every partition becomes a file.
        path: Folder of the table; made when it does not exist.
        cluster: Columns that rows are sorted by.
    """
    spark = frame.sparkSession
    current = spark.read.format("delta").load(str(path)) if has_table(spark, path) else None
    if current is None or current.dtypes != frame.dtypes:
        _write(frame, path, cluster)
        return True
    rows = frame.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        if content_of(current) == content_of(rows):
            return False
        _write(rows, path, cluster)
        return True
    finally:
        rows.unpersist()


def sort_again(spark: SparkSession, path: Path, cluster: list[str]) -> None:
    """Sort a table's rows into files anew; its content stays, and readers of changes see none."""
    rows = spark.read.format("delta").load(str(path))
    _write(_clustered(rows, cluster, rows.count()), path, cluster, dataChange="false")


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


def _write(frame: DataFrame, path: Path, cluster: list[str], **options: str) -> None:
    """Files keep the range of the first two columns that they are sorted by, and no other.

    What intake writes also keeps its changes, so that later rooms see which users they touch.
    """
    (
        frame.write.format("delta")
        .options(**_WRITE_OPTIONS, **options)
        .option("delta.dataSkippingStatsColumns", ",".join(cluster[:2]))
        .option("delta.enableChangeDataFeed", str(CONTENT_HASH in frame.columns).lower())
        .option("overwriteSchema", "true")
        .mode("overwrite")
        .save(str(path))
    )


def _clustered(frame: DataFrame, cluster: list[str], rows: int) -> DataFrame:
    files = math.ceil(rows / ROWS_PER_FILE)
    if files <= 1:
        return frame.coalesce(1).sortWithinPartitions(*cluster)
    if files > MAX_CUTS:
        return frame.repartitionByRange(files, cluster[0]).sortWithinPartitions(*cluster)
    cuts = _cuts(frame.select(cluster[0]), files, rows)
    position = _position(F.col(cluster[0]), cuts, 0)
    return frame.repartitionById(len(cuts) + 1, position).sortWithinPartitions(*cluster)


def _cuts(keys: DataFrame, files: int, rows: int) -> list[str]:
    """Values that cut keys into files of about one size, from a sample of the one column.

    Spark's own ranges would make all columns twice: once to sample them, once to write them.
    """
    share = min(1.0, files * SAMPLES_PER_FILE / rows)
    sample = sorted(keys.sample(share, seed=0).toArrow().column(0).to_pylist())
    at = [len(sample) * file // files for file in range(1, files)]
    return sorted({sample[i] for i in at} - {sample[0]}) if sample else []


def _position(key: Column, cuts: Sequence[str], first: int) -> Column:
    """How many cuts are not above a key: a tree of comparisons."""
    if not cuts:
        return F.lit(first)
    middle = len(cuts) // 2
    below = _position(key, cuts[:middle], first)
    above = _position(key, cuts[middle + 1 :], first + middle + 1)
    return F.when(key < F.lit(cuts[middle]), below).otherwise(above)


def _add_columns(spark: SparkSession, path: Path, schema: StructType) -> None:
    fields = StructType.fromJson(json.loads(LogReader(str(path)).schema().to_json()))
    current = {field.name: field.dataType for field in fields}
    for field in schema:
        if field.name not in current or current[field.name] == field.dataType:
            continue
        if field.name == CONTENT_HASH:
            raise WorkspaceError(
                f"{path} was written by an earlier version, which told rows apart otherwise. "
                "Give a new --workspace, and run the line again."
            )
        raise WorkspaceError(
            f"{path}: column '{field.name}' is {current[field.name].simpleString()} in the "
            f"workspace, company.yaml makes it {field.dataType.simpleString()} now. Give the "
            "field another name, or use a new workspace."
        )
    new = [field for field in schema if field.name not in current]
    if new:
        columns = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in new)
        spark.sql(f"ALTER TABLE delta.`{path}` ADD COLUMNS ({columns})")
