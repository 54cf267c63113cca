"""Readers of raw tables. A new kind of source is one file and one line in `READERS`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession

from pipelines.company import CompanyConfig
from pipelines.errors import SourceError, UnknownNameError
from pipelines.sources.complete_journey.source import COMPLETE_JOURNEY
from pipelines.sources.files import CSV, DELTA, JSONL, PARQUET
from pipelines.sources.jdbc import JDBC
from pipelines.sources.kafka import KAFKA
from pipelines.sources.request import Reader, SourceRequest, Stamp
from pipelines.sources.whitespace import WHITESPACE

READERS: Final[dict[str, Reader]] = {
    "parquet": PARQUET,
    "csv": CSV,
    "jsonl": JSONL,
    "delta": DELTA,
    "jdbc": JDBC,
    "kafka": KAFKA,
    "whitespace": WHITESPACE,
    "complete_journey": COMPLETE_JOURNEY,
}


def reader_for(request: SourceRequest) -> Reader:
    """The reader that a table's `source.format` names.

    Raises:
        UnknownNameError: no reader has that name, or it does not know one of the options.
    """
    name = request.source.format
    if name not in READERS:
        kind = f"source format at {request.place}.source.format"
        raise UnknownNameError(kind, name, READERS)
    reader = READERS[name]
    for option in request.source.options:
        if option not in reader.options:
            kind = f"option of format '{name}' in {request.place}"
            raise UnknownNameError(kind, option, reader.options or ("(it has none)",))
    return reader


def read_source(spark: SparkSession, request: SourceRequest) -> DataFrame:
    """The raw rows of one table, with the source's own column names and types.

    Timestamps with a zone come as TIMESTAMP, those without as TIMESTAMP_NTZ.

    Raises:
        UnknownNameError: unknown format or option.
        SourceError: no such file, not readable as that format, or no columns in it.
    """
    frame = reader_for(request).read(spark, request)
    if not frame.columns:
        raise SourceError(f"{request.place}: no columns in {request.where}. Give a file with data.")
    return frame


def read_lookups(
    spark: SparkSession, company: CompanyConfig, company_path: Path
) -> dict[str, DataFrame]:
    """The lookup tables of a company by name.

    Raises:
        UnknownNameError, SourceError: as `read_source`.
    """
    return {
        one.name: read_source(spark, SourceRequest.of(one, company_path)) for one in company.lookups
    }


def source_fingerprint(request: SourceRequest) -> Stamp:
    """What decides whether a table has new rows, told without reading any.

    Raises:
        UnknownNameError: unknown format or option.
        SourceError: no such file.
    """
    return reader_for(request).stamp(request)


def needed_jars(requests: Iterable[SourceRequest]) -> tuple[str, ...]:
    """Names of the sets of Java libraries that reading these tables needs.

    Raises:
        UnknownNameError: unknown format or option.
    """
    return tuple(sorted({name for one in requests for name in reader_for(one).jars(one)}))
