"""Sequences of touched users are added beside their older rows, which are taken out now and then.

Touched users lie in all files of the table. Replacing their rows would write all files again;
adding rows writes them alone. Readers take a user's newest row (`pipelines.tokens.generations`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from delta.tables import DeltaTable as SparkDeltaTable
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StructField, StructType

from pipelines.contracts import GENERATION, USER_ID
from pipelines.stages.delta import Written, replace
from pipelines.stages.user_ranges import UserRange
from pipelines.tokens.generations import Generations

MAX_READ_SHARE: Final = 2
"""Rows of the table for each that holds, from which on older ones are taken out."""


def renew(sequences: DataFrame, path: Path, user_ids: Sequence[str]) -> Written:
    """Add rows of users beside the older ones, and delete users that have no row any more.

    A kill between the two commits leaves users that the same renewal deletes when it comes again.

    Args:
        sequences: Rows of `token_sequences`, one per user that still has events.
        path: Folder of the table.
        user_ids: All users whose rows are made again.
    """
    generation = DeltaTable(str(path)).version() + 1
    rows = sequences.withColumn(GENERATION, F.lit(generation).cast("long"))
    options = {"mergeSchema": "true", "compression": "zstd"}
    rows.write.format("delta").options(**options).mode("append").save(str(path))
    known = DeltaTable(str(path)).to_pyarrow_dataset()
    made = known.to_table(columns=[USER_ID], filter=pc.field(GENERATION) == generation)
    gone = sorted({*user_ids} - {*made.column(USER_ID).to_pylist()})
    return Written(inserted=made.num_rows, deleted=_delete(sequences.sparkSession, path, gone))


def _delete(spark: SparkSession, path: Path, user_ids: Sequence[str]) -> int:
    if not user_ids:
        return 0
    gone = spark.createDataFrame([(user,) for user in user_ids], f"{USER_ID} string")
    table = SparkDeltaTable.forPath(spark, str(path)).alias("old")
    same = f"old.{USER_ID} = gone.{USER_ID}"
    table.merge(F.broadcast(gone).alias("gone"), same).whenMatchedDelete().execute()
    return len(user_ids)


def is_crowded(path: Path) -> bool:
    """Whether a reader reads at least twice as many rows as hold."""
    table = DeltaTable(str(path))
    if GENERATION not in (field.name for field in table.schema().fields):
        return False
    users = table.to_pyarrow_table(columns=[USER_ID]).column(0)
    return bool(len(users) >= MAX_READ_SHARE * pc.count_distinct(users).as_py())


def clear(spark: SparkSession, path: Path, ranges: Sequence[UserRange], schema: StructType) -> None:
    """Leave the rows that hold, with their generations, sorted by user, a file per range of users.

    Args:
        spark: Session whose workers reach the table's folder.
        path: Folder of the table.
        ranges: All users; a task reads one range as Arrow.
        schema: Schema of the rows without their generation.
    """
    version = DeltaTable(str(path)).version()
    positions = spark.range(len(ranges), numPartitions=len(ranges))
    whole = StructType([*schema.fields, StructField(GENERATION, LongType())])
    rows = positions.mapInArrow(_holding(path, version, ranges, whole.names), whole)
    replace(rows, path, [USER_ID])


def _holding(
    path: Path, version: int, ranges: Sequence[UserRange], columns: Sequence[str]
) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = DeltaTable(str(path), version=version).to_pyarrow_dataset()
        for batch in batches:
            for position in batch.column(0).to_pylist():
                rows = table.to_table(columns=columns, filter=ranges[position].filter())
                yield from Generations.of(rows).kept(rows).sort_by(USER_ID).to_batches()

    return read
