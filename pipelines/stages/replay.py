"""Repaired rows of quarantine, taken in as rows of their source table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipelines.company import CompanyConfig, TableConfig
from pipelines.contracts import QUARANTINE, ROW_HASH, RULE
from pipelines.errors import QualityError, SourceError, UnknownNameError
from pipelines.quality.gate import Gated, Ledger, gate
from pipelines.quality.quarantine import HASH_KEY, RESERVED_KEYS, TABLE_KEY
from pipelines.sources.registry import read_lookups, read_source
from pipelines.sources.request import SourceRequest
from pipelines.stages import delta
from pipelines.stages.canonical import canonical_rows
from pipelines.stages.ingest import without_suppressed
from pipelines.stages.repairs import remember_repaired
from pipelines.stages.schemas import stored
from pipelines.stages.store import merge_refused, release, store_accepted
from pipelines.workspace import Workspace

_VALUE: Final = "value"
_UNFIT: Final = "_unfit"
_ROW: Final = "_row"


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What became of a file of repaired rows.

    Args:
        ledger: Where its rows went.
        written: What they changed in the table they belong to.
        released: Rows that left quarantine.
    """

    ledger: Ledger
    written: delta.Written
    released: int


@dataclass(frozen=True, kw_only=True)
class _Repaired:
    """A file of repaired rows: texts without reserved keys, and the hashes they came with."""

    path: Path
    texts: list[str]
    hashes: list[str]


def replay(
    spark: SparkSession,
    workspace: Workspace,
    company: CompanyConfig,
    company_path: Path,
    path: Path,
    table_name: str,
) -> Replayed:
    """Take repaired rows in. Doing it again changes nothing.

    Rows that are sound now go where their table goes and leave quarantine; a row that is still
    broken stays there as it is now, with what is wrong about it now.

    Args:
        spark: Session with Delta.
        workspace: Where the lake is.
        company: The company's description.
        company_path: Where it was read from.
        path: JSON lines as `pipelines.quality.quarantine.export` writes them.
        table_name: The source table that the rows belong to.

    Raises:
        UnknownNameError: the company has no such table.
        SourceError: the file is missing, or a line is no row of that table.
        QualityError: one key came with different contents; nothing was written.
    """
    tables = {table.name: table for table in company.tables}
    if table_name not in tables:
        raise UnknownNameError("table", table_name, tables)
    table, repaired = tables[table_name], _read(path, table_name)
    raw = _raw_rows(spark, repaired, SourceRequest.of(table, company_path))
    contract = company.contract(table.into)
    lookups = read_lookups(spark, company, company_path)
    rows = canonical_rows(raw, table, contract, company_path, lookups)
    gated = gate(without_suppressed(rows, workspace), stored(contract), [table])
    try:
        return _store(workspace, gated, table, repaired)
    finally:
        gated.staged.unpersist()


def _store(workspace: Workspace, gated: Gated, table: TableConfig, repaired: _Repaired) -> Replayed:
    if gated.conflicts:
        rows = "\n".join(f"    {row}" for row in gated.conflicts)
        raise QualityError(
            f"{repaired.path}: the same {', '.join(gated.contract.key)} came with different "
            f"content; nothing was written:\n{rows}\nCorrect the lines and replay the file again."
        )
    written = store_accepted(workspace, gated)
    (ledger,) = gated.ledgers
    merge_refused(workspace, gated.quarantine, ledger.quarantined)
    again = {row[ROW_HASH] for row in gated.quarantine.select(ROW_HASH).collect()}
    changed = sorted(set(repaired.hashes) - again)
    remember_repaired(workspace, changed)
    return Replayed(ledger=ledger, written=written, released=_release(workspace, gated, changed))


def _release(workspace: Workspace, gated: Gated, row_hashes: list[str]) -> int:
    spark = gated.accepted.sparkSession
    hashes = spark.createDataFrame([(one,) for one in row_hashes], f"{ROW_HASH} string")
    held = spark.read.format("delta").load(str(workspace.table(QUARANTINE.name)))
    return release(workspace, held.select(ROW_HASH, RULE).join(hashes, ROW_HASH, "left_semi"))


def _read(path: Path, table_name: str) -> _Repaired:
    if not path.is_file():
        raise SourceError(
            f"{path}: no such file. Write one with: "
            f"bfm quarantine --workspace DIR --export {path} --table {table_name}"
        )
    rows = [
        _row(path, number, line, table_name)
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1)
        if line.strip()
    ]
    if not rows:
        raise SourceError(f"{path}: no rows. Give one JSON object per line.")
    return _Repaired(
        path=path,
        hashes=[row[HASH_KEY] for row in rows],
        texts=[
            json.dumps({key: value for key, value in row.items() if key not in RESERVED_KEYS})
            for row in rows
        ],
    )


def _row(path: Path, number: int, line: str, table_name: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise SourceError(
            f"{path}, line {number}: not JSON ({error}). Correct the line and replay again."
        ) from error
    if not isinstance(row, dict) or not isinstance(row.get(HASH_KEY), str):
        raise SourceError(
            f"{path}, line {number}: no '{HASH_KEY}', which tells the row of quarantine that this "
            "line repairs. Keep the key as the export wrote it."
        )
    if row.get(TABLE_KEY, table_name) != table_name:
        raise SourceError(
            f"{path}, line {number}: a row of table '{row[TABLE_KEY]}', not of '{table_name}'. "
            f"Export each table into a file of its own, with --table."
        )
    return row


def _raw_rows(spark: SparkSession, repaired: _Repaired, request: SourceRequest) -> DataFrame:
    """The rows with columns and types of their source."""
    source = read_source(spark, request).schema
    schema = StructType([*source.fields, StructField(_UNFIT, StringType())])
    texts = spark.createDataFrame([(text,) for text in repaired.texts], f"{_VALUE} string")
    parsed = F.from_json(_VALUE, schema, {"columnNameOfCorruptRecord": _UNFIT})
    rows = texts.select(parsed.alias(_ROW))
    unfit = rows.where(F.col(_ROW)[_UNFIT].isNotNull()).select(F.col(_ROW)[_UNFIT]).first()
    if unfit is not None:
        types = ", ".join(f"{one.name} {one.dataType.simpleString()}" for one in source)
        raise SourceError(
            f"{repaired.path}: {unfit[0]:.300} does not fit the columns of the source ({types}). "
            "Correct the value and replay again."
        )
    return rows.select(*(F.col(_ROW)[name].alias(name) for name in source.names))
