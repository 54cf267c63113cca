"""Readers of files: Parquet, CSV, JSON lines and Delta tables."""

from __future__ import annotations

from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from py4j.protocol import Py4JError
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipelines.errors import SourceError
from pipelines.sources.folders import groups_of, union
from pipelines.sources.json_rows import json_rows
from pipelines.sources.request import (
    MALFORMED_ROW,
    Reader,
    SourceRequest,
    Stamp,
    files_below,
    path_of,
    quoted,
    reason_of,
    stamp_of_files,
)

_NANOS_AS_LONG: Final = "spark.sql.legacy.parquet.nanosAsLong"
_CSV_OPTIONS: Final = {
    "delimiter": "sep",
    "encoding": "encoding",
    "escape": "escape",
    "header": "header",
    "multiline": "multiLine",
    "null_value": "nullValue",
    "quote": "quote",
}
_EMPTY_LINE: Final = b"\r\n"
_CSV_DEFAULTS: Final = {"header": "true", "escape": '"', "multiLine": "true"}


def read_parquet_files(spark: SparkSession, path: Path, place: str) -> DataFrame:
    """Rows of a Parquet file or folder; times of any unit come as microseconds.

    Spark takes INT96 for an instant although it holds no zone, and refuses nanoseconds: the first
    becomes TIMESTAMP_NTZ here, the second is read as integers and divided.

    Raises:
        SourceError: not Parquet.
    """
    schema = _parquet_schema(path, place)
    if any(pa.types.is_timestamp(field.type) and field.type.unit == "ns" for field in schema):
        spark.conf.set(_NANOS_AS_LONG, "true")
    frame = spark.read.parquet(str(path))
    zones = {f.name: f.type.tz for f in schema if pa.types.is_timestamp(f.type)}
    types = dict(frame.dtypes)
    return frame.select(
        *(
            _timestamp(name, types[name], zones[name]).alias(name)
            if name in zones
            else quoted(name)
            for name in frame.columns
        )
    )


def _timestamp(name: str, dtype: str, zone: str | None) -> Column:
    column = quoted(name)
    if dtype == "bigint":
        column = F.timestamp_micros(F.expr(f"`{name.replace('`', '``')}` div 1000"))
    return column if zone else column.cast("timestamp_ntz")


def _parquet_schema(path: Path, place: str) -> pa.Schema:
    files = [file for file in sorted(files_below(path)) if file.stat().st_size]
    if not files:
        raise SourceError(f"{place}: no files in {path}. Give a folder with Parquet files.")
    try:
        return pq.read_schema(files[0])
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"{place}: {files[0]} is not a Parquet file ({error}). "
            "Correct the path or the format (csv, jsonl, delta)."
        ) from error


def _read_parquet(spark: SparkSession, request: SourceRequest) -> DataFrame:
    return read_parquet_files(spark, request.path(), request.place)


def _csv_options(options: dict[str, Any]) -> dict[str, str]:
    given = {
        _CSV_OPTIONS[name]: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in options.items()
    }
    return _CSV_DEFAULTS | given


def _read_csv(spark: SparkSession, request: SourceRequest) -> DataFrame:
    """Rows of all files as texts, each file by its own header line."""
    path, options = request.path(), _csv_options(request.source.options)
    try:
        whole = spark.read.options(**options, recursiveFileLookup="true").csv(str(path))
        if not whole.columns:
            raise SourceError(f"{request.place}: {path} is empty. Give a file with a header line.")
        headers = _headers(whole.inputFiles(), options)
        groups = groups_of(path, headers, lambda file: headers[file])
        frames = [_csv_rows(spark, group.paths, options | group.options) for group in groups]
        if len(frames) > 1:
            for group, frame in zip(groups, frames, strict=True):
                request.refuse_without_needed(frame.columns, group.files[0])
        return union(frames)
    except (PySparkException, Py4JError, OSError) as error:
        raise _unreadable(request, path, error) from error


def _csv_rows(spark: SparkSession, paths: Sequence[str], options: dict[str, str]) -> DataFrame:
    """Rows of files that have their columns in one order."""
    names = spark.read.options(**options).csv(list(paths)).columns
    fields = [StructField(name, StringType()) for name in (*names, MALFORMED_ROW)]
    return spark.read.options(**options, columnNameOfCorruptRecord=MALFORMED_ROW).csv(
        list(paths), schema=StructType(fields)
    )


def _headers(files: Sequence[str], options: dict[str, str]) -> dict[Path, bytes]:
    """The first line of each file that is not empty; files without one are left out.

    Args:
        files: URIs.
        options: Where they say that files have no header line, all are as one.

    Raises:
        OSError: a file is not packed as its name says.
    """
    paths = [path_of(uri) for uri in files]
    if options["header"] != "true":
        return dict.fromkeys(paths, b"")
    # What a line may hold that Spark takes for an empty one:
    empty = _EMPTY_LINE if options["multiLine"] == "true" else _EMPTY_LINE + b" "
    headers = {}
    for path in paths:
        with pa.input_stream(str(path)) as stream:  # unpacks what ends in .gz or .bz2
            line = next((line for line in BufferedReader(stream) if line.strip(empty)), b"")
        if line:
            headers[path] = line.rstrip(b"\r\n")
    return headers


def _read_jsonl(spark: SparkSession, request: SourceRequest) -> DataFrame:
    path = request.path()
    try:
        groups = groups_of(path, files_below(path))
        texts = [spark.read.options(**one.options).text(list(one.paths)) for one in groups]
        if not texts:
            raise SourceError(f"{request.place}: {path} is empty. Give a folder with files.")
        return json_rows(union(texts).where(F.trim("value") != ""), request)
    except (PySparkException, Py4JError) as error:
        raise _unreadable(request, path, error) from error


def _read_delta(spark: SparkSession, request: SourceRequest) -> DataFrame:
    path = request.path()
    reader = spark.read.format("delta")
    if "version" in request.source.options:
        reader = reader.option("versionAsOf", str(request.source.options["version"]))
    try:
        return reader.load(str(path))
    except AnalysisException as error:
        raise _unreadable(request, path, error) from error


def _delta_stamp(request: SourceRequest) -> Stamp:
    return stamp_of_files((request.path() / "_delta_log").glob("*"))


def _stamp(request: SourceRequest) -> Stamp:
    return stamp_of_files(files_below(request.path()))


def _unreadable(request: SourceRequest, path: Path, error: Exception) -> SourceError:
    return SourceError(
        f"{request.place}: {path} cannot be read as {request.source.format}: {reason_of(error)}. "
        "Correct the path, the format or its options."
    )


PARQUET: Final = Reader(read=_read_parquet, stamp=_stamp, reread=True)
CSV: Final = Reader(read=_read_csv, stamp=_stamp, options=tuple(_CSV_OPTIONS))
JSONL: Final = Reader(read=_read_jsonl, stamp=_stamp)
DELTA: Final = Reader(read=_read_delta, stamp=_delta_stamp, options=("version",), reread=True)
