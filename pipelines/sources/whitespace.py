"""Reader of text files whose columns stand apart by blanks, as many as look nice.

Without a header line (`header: false`) the columns are named `_c0`, `_c1`, ... A line with another
number of values than the first one is kept for quarantine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.errors import SourceError
from pipelines.sources.request import (
    MALFORMED_ROW,
    Reader,
    SourceRequest,
    files_below,
    reason_of,
    stamp_of_files,
)

_BLANKS: Final = r"\s+"


def _read(spark: SparkSession, request: SourceRequest) -> DataFrame:
    path = request.path()
    try:
        first = _lines(spark, request, min(files_below(path), default=path)).first()
    except PySparkException as error:
        raise SourceError(f"{request.place}: {path} cannot be read: {reason_of(error)}.") from error
    if first is None:
        raise SourceError(f"{request.place}: {path} is empty. Give a file with lines.")
    names, texts = first["line"].split(" "), _lines(spark, request, path)
    if request.source.options.get("header", True):
        texts = texts.where(F.col("line") != first["line"])
    else:
        names = [f"_c{index}" for index in range(len(names))]
    return _columns(texts, names)


def _lines(spark: SparkSession, request: SourceRequest, path: Path) -> DataFrame:
    encoding = str(request.source.options.get("encoding", "UTF-8"))
    options = {"encoding": encoding, "recursiveFileLookup": "true"}
    lines = spark.read.options(**options).text(str(path))
    line = F.trim(F.regexp_replace("value", _BLANKS, " "))
    return lines.select(line.alias("line")).where("line <> ''")


def _columns(texts: DataFrame, names: list[str]) -> DataFrame:
    values = F.split("line", " ")
    sound = F.size(values) == len(names)
    return texts.select(
        *(F.when(sound, values[index]).alias(name) for index, name in enumerate(names)),
        F.when(~sound, F.col("line")).alias(MALFORMED_ROW),
    )


WHITESPACE: Final = Reader(
    read=_read,
    stamp=lambda request: stamp_of_files(files_below(request.path())),
    options=("header", "encoding"),
)
