"""Readers of files: Parquet, CSV, JSON lines and Delta tables."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from pipelines.sources.folders import Group, groups_of, union
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
_NESTED: Final = ("array", "map", "struct", "binary")
_WIDENED: Final = ({"tinyint", "smallint", "int", "bigint"}, {"float", "double"})
"""Types that Spark brings together itself, and loses nothing."""
_LARGEST_EXACT: Final = 1e15
_CSV_OPTIONS: Final = {
    "delimiter": "sep",
    "encoding": "encoding",
    "escape": "escape",
    "header": "header",
    "multiline": "multiLine",
    "null_value": "nullValue",
    "quote": "quote",
}
_MIN_COLUMNS: Final = 3
"""Fewer columns have too few separators to know a row by."""
_EMPTY_LINE: Final = b"\r\n"
_CSV_DEFAULTS: Final = {"header": "true", "escape": '"', "multiLine": "true"}


def read_parquet_files(
    spark: SparkSession,
    path: Path,
    place: str,
    refuse: Callable[[Sequence[str], Path], None] = lambda columns, file: None,
) -> DataFrame:
    """Rows of a Parquet file or folder; times of any unit come as microseconds.

    Spark takes INT96 for an instant although it holds no zone, and refuses nanoseconds: the first
    becomes TIMESTAMP_NTZ here, the second is read as integers and divided. A column that a file
    lacks is missing there, and one whose type differs between files becomes text.

    Args:
        spark: The session.
        path: A file or folder.
        place: Named in messages.
        refuse: Raises where one of several files lacks a column that all need.

    Raises:
        SourceError: not Parquet, or nested values of two types.
    """
    schemas = _parquet_schemas(path, place)
    groups = groups_of(path, schemas, lambda file: _shape(schemas[file]))
    frames = [_parquet_rows(spark, group, schemas[group.files[0]]) for group in groups]
    if len(frames) == 1:
        return frames[0]
    for group, frame in zip(groups, frames, strict=True):
        refuse(frame.columns, group.files[0])
    return union(list(_of_one_type(frames, [group.files[0] for group in groups], place)))


def _parquet_rows(spark: SparkSession, group: Group, schema: pa.Schema) -> DataFrame:
    if any(pa.types.is_timestamp(field.type) and field.type.unit == "ns" for field in schema):
        spark.conf.set(_NANOS_AS_LONG, "true")
    frame = spark.read.options(**group.options).parquet(*group.paths)
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


def _parquet_schemas(path: Path, place: str) -> dict[Path, pa.Schema]:
    """Schemas of all files that are not empty, by absolute path."""
    files = [file for file in sorted(files_below(path.absolute())) if file.stat().st_size]
    if not files:
        raise SourceError(f"{place}: no files in {path}. Give a folder with Parquet files.")
    return {Path(os.path.abspath(file)): _parquet_schema(file, place) for file in files}


def _parquet_schema(file: Path, place: str) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{place}: {file} is not a Parquet file ({error}). "
            "Correct the path or the format (csv, jsonl, delta)."
        ) from error


def _shape(schema: pa.Schema) -> frozenset[tuple[str, pa.DataType]]:
    return frozenset((field.name, field.type) for field in schema)


def _of_one_type(
    frames: Sequence[DataFrame], files: Sequence[Path], place: str
) -> Iterator[DataFrame]:
    """Columns whose types differ between frames as texts."""
    types: dict[str, dict[str, Path]] = {}
    for frame, file in zip(frames, files, strict=True):
        for name, dtype in frame.dtypes:
            types.setdefault(name, {}).setdefault(dtype, file)
    differing = {
        name
        for name, seen in types.items()
        if len(held := seen.keys() - {"void"}) > 1 and not any(held <= one for one in _WIDENED)
    }
    for name in sorted(differing):
        for dtype, file in types[name].items():
            if dtype.startswith(_NESTED):
                others = ", ".join(other for other in types[name] if other != dtype)
                raise SourceError(
                    f"{place}: column '{name}' is {dtype} in {file}, and {others} in other files. "
                    "Write it with one type."
                )
    for frame in frames:
        dtypes = dict(frame.dtypes)
        yield frame.withColumns(
            {name: _text(name, dtypes[name]) for name in frame.columns if name in differing}
        )


def _text(name: str, dtype: str) -> Column:
    """A value as it would stand in a text: whole numbers without decimals, instants with a zone."""
    column = quoted(name)
    text = column.cast("string")
    if dtype in ("float", "double") or dtype.startswith("decimal"):
        is_whole = (column == F.floor(column)) & (F.abs(column) < _LARGEST_EXACT)
        return F.when(is_whole, column.cast("bigint").cast("string")).otherwise(text)
    if dtype == "timestamp":
        return F.concat(F.to_utc_timestamp(column, F.current_timezone()).cast("string"), F.lit("Z"))
    return text


def _read_parquet(spark: SparkSession, request: SourceRequest) -> DataFrame:
    path = request.path()
    return read_parquet_files(spark, path, request.place, request.refuse_without_needed)


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
        for file, line in headers.items():
            _refuse_twins(line, options, request, file)
        groups = groups_of(path, headers, lambda file: headers[file])
        frames = [_csv_rows(spark, group.paths, options | group.options) for group in groups]
        if len(frames) > 1:
            for group, frame in zip(groups, frames, strict=True):
                request.refuse_without_needed(frame.columns, group.files[0])
        return union(frames)
    except (PySparkException, Py4JError, OSError) as error:
        raise _unreadable(request, path, error) from error


def _refuse_twins(line: bytes, options: dict[str, str], request: SourceRequest, file: Path) -> None:
    """Columns of one name get numbers from Spark, and other ones when a column is put between.

    Raises:
        SourceError: a needed column's name stands twice in a header line, case aside.
    """
    encoding, separator = options.get("encoding", "utf-8"), options.get("sep", ",")
    if encoding.lower().startswith(("utf-16", "utf-32")) or len(separator) != 1:
        return  # a line by bytes is none by characters there
    text = line.decode(encoding, errors="replace").removeprefix("\ufeff")
    names = next(csv.reader([text], delimiter=separator, quotechar=options.get("quote", '"')), [])
    spellings = Counter(name.strip().lower() for name in names if name.strip())
    for needed in request.needed_columns:
        if spellings[needed.lower()] > 1:
            raise SourceError(
                f"{request.place}: {file}: several columns are called '{needed}', case aside. Give "
                "each a name of its own in the header line."
            )


def _csv_rows(spark: SparkSession, paths: Sequence[str], options: dict[str, str]) -> DataFrame:
    """Rows of files that have their columns in one order."""
    names = spark.read.options(**options).csv(list(paths)).columns
    fields = [StructField(name, StringType()) for name in (*names, MALFORMED_ROW)]
    rows = spark.read.options(**options, columnNameOfCorruptRecord=MALFORMED_ROW).csv(
        list(paths), schema=StructType(fields)
    )
    if options["multiLine"] != "true" or len(names) < _MIN_COLUMNS:
        return rows
    swallowed = [_swallowed(name, options.get("sep", ","), len(names)) for name in names]
    return rows.withColumn(MALFORMED_ROW, F.coalesce(quoted(MALFORMED_ROW), *swallowed))


def _swallowed(name: str, separator: str, num_columns: int) -> Column:
    """The value if it holds rows of the file, as it does after a quote that is not closed: each of
    its whole lines, and there is one, has all of a row's separators. Else null."""
    value, mark = quoted(name), F.lit(separator)
    lines = F.split(value, "\n")
    whole = F.slice(lines, 2, F.greatest(F.size(lines) - 2, F.lit(0)))
    width = F.length(mark) * (num_columns - 1)

    def is_row(line: Column) -> Column:
        return F.length(line) - F.length(F.replace(line, mark)) == width

    holds_rows = (F.size(whole) > 0) & F.forall(whole, is_row)
    return F.when(value.contains("\n"), F.when(holds_rows, value))


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
