"""What a stream of a table brings in one micro-batch: whole files of a folder, or messages.

A folder's stream carries names of files, and each file is read by the same reader that a batch
intake uses. So all file formats stream, and a file may hold a field that earlier ones lack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BinaryType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from pipelines.company import TableConfig
from pipelines.contracts import ARRIVAL
from pipelines.errors import CompanyConfigError
from pipelines.sources.json_rows import VALUE, json_rows
from pipelines.sources.kafka import KAFKA_TIMESTAMP, kafka_options, message_texts
from pipelines.sources.registry import read_source
from pipelines.sources.request import SourceRequest, path_of

FILE_FORMATS: Final = ("parquet", "csv", "jsonl", "whitespace")
MAX_FILES_PER_BATCH: Final = 16
MAX_MESSAGES_PER_BATCH: Final = 500_000
_SINCE_US: Final = "since_us"
_MAX_FILE_AGE: Final = "36500d"
"""Spark leaves out files that are a week older than the newest one; copies may keep old times."""
_FILE_STEP: Final = 1 << 52
"""From the first row of a file to that of the next. Spark's ids hold the partition from bit 33 on:
half a million partitions of a file fit, and 2,047 files into 63 bits; a micro-batch has 16."""

_FILE_SCHEMA: Final = StructType(
    [
        StructField("path", StringType()),
        StructField("modificationTime", TimestampType()),
        StructField("length", LongType()),
        StructField("content", BinaryType()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """Raw rows of one micro-batch.

    Args:
        frames: Raw rows with `ARRIVAL`, one frame per shape of rows.
        since_us: When the oldest of them arrived, UTC microseconds; None in an empty batch.
    """

    frames: tuple[DataFrame, ...]
    since_us: int | None


Unpack = Callable[[DataFrame], Arrivals]


def can_stream(table: TableConfig, company_path: Path) -> bool:
    """Whether new rows of a table can be waited for: a topic, or a folder of files."""
    if table.source.format == "kafka":
        return True
    request = SourceRequest.of(table, company_path)
    return table.source.format in FILE_FORMATS and request.path().is_dir()


def open_stream(
    spark: SparkSession, table: TableConfig, company_path: Path
) -> tuple[DataFrame, Unpack]:
    """A table's stream, and what makes raw rows of one of its micro-batches.

    Raises:
        CompanyConfigError: the source cannot be waited for.
        SourceError: the folder does not exist.
    """
    request = SourceRequest.of(table, company_path)
    if table.source.format == "kafka":
        return _topic(spark, request), lambda batch: _messages(batch, table, request)
    if not can_stream(table, company_path):
        raise CompanyConfigError(
            f"{request.place}: a stream reads a folder of files ({', '.join(FILE_FORMATS)}) or a "
            f"kafka topic; {request.where} of format '{table.source.format}' is neither. "
            "Take it in with: bfm ingest"
        )
    return _folder(spark, request), lambda batch: _files(batch, table, request)


def _folder(spark: SparkSession, request: SourceRequest) -> DataFrame:
    files = spark.readStream.format("binaryFile").schema(_FILE_SCHEMA)
    options = {
        "maxFileAge": _MAX_FILE_AGE,
        "maxFilesPerTrigger": str(MAX_FILES_PER_BATCH),
        "recursiveFileLookup": "true",
    }
    found = files.options(**options).load(str(request.path()))
    return found.select("path", F.unix_micros("modificationTime").alias(_SINCE_US))


def _topic(spark: SparkSession, request: SourceRequest) -> DataFrame:
    options = {"maxOffsetsPerTrigger": str(MAX_MESSAGES_PER_BATCH)}
    return spark.readStream.format("kafka").options(**kafka_options(request), **options).load()


def _files(batch: DataFrame, table: TableConfig, request: SourceRequest) -> Arrivals:
    spark = batch.sparkSession
    found = sorted(batch.collect(), key=lambda row: (row[_SINCE_US], row["path"]))
    frames = []
    for number, row in enumerate(found):
        path = path_of(row["path"])
        source = table.source.model_copy(update={"path": str(path)})
        raw = read_source(spark, replace(request, source=source))
        request.refuse_without_needed(raw.columns, path)
        rows = _with_optional(raw, table)
        order = F.lit(number * _FILE_STEP) + F.monotonically_increasing_id()
        frames.append(rows.withColumn(ARRIVAL, order))
    since_us = min((row[_SINCE_US] for row in found), default=None)
    return Arrivals(frames=tuple(frames), since_us=since_us)


def _messages(batch: DataFrame, table: TableConfig, request: SourceRequest) -> Arrivals:
    texts = message_texts(batch.orderBy("timestamp", "partition", "offset"))
    first = texts.agg(F.unix_micros(F.min(KAFKA_TIMESTAMP))).first()
    if first is None or first[0] is None:
        return Arrivals(frames=(), since_us=None)
    ordered = texts.withColumn(ARRIVAL, F.monotonically_increasing_id())
    wanted = [name for name in _columns(table) if name != KAFKA_TIMESTAMP]
    rows = json_rows(ordered.select(VALUE, KAFKA_TIMESTAMP, ARRIVAL), request, expected=wanted)
    return Arrivals(frames=(rows,), since_us=first[0])


def _columns(table: TableConfig) -> list[str]:
    """Source columns that the description names."""
    return list(
        dict.fromkeys(name for one in table.expressions.values() for name in one.source_columns)
    )


def _with_optional(raw: DataFrame, table: TableConfig) -> DataFrame:
    """The columns of fields that this file does not have yet, or no longer, as missing values."""
    missing = [name for name in _columns(table) if name not in raw.columns]
    return raw.withColumns({name: F.lit(None).cast("string") for name in missing})
