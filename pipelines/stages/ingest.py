"""Rooms 1 and 2 together: every source table through the gate, then into the lake."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Final, Literal

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.company import CompanyConfig, TableConfig
from pipelines.contracts import (
    EVENTS,
    ITEM_ID,
    RAW_ROW,
    SOURCE_TABLE,
    USER_ID,
)
from pipelines.erasure import WORD_BREAKS, suppressed_digests
from pipelines.errors import CompanyConfigError, QualityError, SourceError
from pipelines.lake import version_of
from pipelines.quality.alarm import Alarm
from pipelines.quality.gate import Gated, Ledger, gate
from pipelines.quality.report import Finding, Report, validate, write_report
from pipelines.sources.registry import read_lookups, read_source, reader_for
from pipelines.sources.request import SourceRequest
from pipelines.stages import delta
from pipelines.stages.canonical import WITHOUT_TIME_ZONE, canonical_rows, no_time_zone
from pipelines.stages.descriptions import (
    no_longer_described,
    refuse_counting_twice,
    remember,
)
from pipelines.stages.schemas import stored
from pipelines.stages.store import store
from pipelines.stages.watch import watch_new_events
from pipelines.workspace import Workspace

Into = Literal["catalogue", "profiles", "events"]
TABLES: Final[tuple[Into, ...]] = ("catalogue", "profiles", "events")

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Ingested:
    """What one intake did."""

    ledgers: list[Ledger]
    written: dict[str, delta.Written]
    alarms: list[Alarm] = field(default_factory=list)


def ingest(
    spark: SparkSession,
    workspace: Workspace,
    company: CompanyConfig,
    company_path: Path,
    say: Say = print,
    retained_from: datetime | None = None,
    streamed: Collection[str] = (),
) -> Ingested:
    """Read, check and store all tables of a company. Nothing is written when a promise is broken.

    Args:
        spark: Session with Delta.
        workspace: Where the lake and the report are.
        company: The company's description.
        company_path: Where it was read from; relative paths start there.
        say: Takes one line per table, and one per warning.
        retained_from: Older events are left out, and quarantine holds what this intake and the
            streams refused; None: everything is kept.
        streamed: Tables that a stream takes in: it knows which of two rows came later, a second
            reading of the whole source does not.

    Raises:
        SourceError: a table is missing, empty, or lacks a column.
        CompanyConfigError: times need a zone or a unit.
        QualityError: a promise about a whole table is broken; the report shows which.
    """
    lookups = read_lookups(spark, company, company_path)
    tables = [table for table in company.tables if table.name not in streamed]
    gated = [
        _gate(spark, workspace, company, into, theirs, company_path, lookups, retained_from)
        for into in TABLES
        if (theirs := [table for table in tables if table.into == into])
    ]
    if not gated:
        return Ingested(ledgers=[], written={}, alarms=[])
    try:
        ledgers = _with_unknown_items(gated)
        for ledger in ledgers:
            say(str(ledger))
        _refuse_unusable(company, company_path, ledgers, retained_from)
        report = _check(workspace, company, gated, ledgers, say)
        for name in no_longer_described(workspace, company):
            say(
                f"warning: table '{name}' is not in {company_path} any more; what it brought "
                "stays. To be without it, take everything in anew with another --workspace."
            )
        known = version_of(workspace, EVENTS.name)
        if known >= 0 and (events := [one for one in gated if one.contract.name == EVENTS.name]):
            refuse_counting_twice(spark, workspace, company, company_path, events[0].accepted)
        written = store(workspace, gated, retained_from, streamed)
        remember(workspace, tables)
        alarms = _watch(workspace, gated, known, written, say)
        if alarms:
            write_report(workspace, replace(report, alarms=alarms))
        return Ingested(ledgers=ledgers, written=written, alarms=alarms)
    finally:
        for one in gated:
            one.staged.unpersist()


def _gate(
    spark: SparkSession,
    workspace: Workspace,
    company: CompanyConfig,
    into: Into,
    tables: Sequence[TableConfig],
    company_path: Path,
    lookups: Mapping[str, DataFrame],
    retained_from: datetime | None,
) -> Gated:
    contract = company.contract(into)
    frames = [_canonical(spark, table, company, company_path, lookups) for table in tables]
    rows = without_suppressed(reduce(DataFrame.unionByName, frames), workspace)
    requests = [SourceRequest.of(table, company_path) for table in tables]
    reread = all(reader_for(request).reread for request in requests)
    return gate(rows, stored(contract), tables, reread=reread, retained_from=retained_from)


def _canonical(
    spark: SparkSession,
    table: TableConfig,
    company: CompanyConfig,
    company_path: Path,
    lookups: Mapping[str, DataFrame],
) -> DataFrame:
    raw = read_source(spark, SourceRequest.of(table, company_path))
    return canonical_rows(raw, table, company.contract(table.into), company_path, lookups)


def without_suppressed(rows: DataFrame, workspace: Workspace) -> DataFrame:
    """Rows of erased users are left out before anything is counted or kept."""
    digests = suppressed_digests(workspace)
    if not digests or USER_ID not in rows.columns:
        return rows
    words = F.split(RAW_ROW, WORD_BREAKS)
    named = F.exists(words, lambda word: F.sha2(word, 256).isin(digests))
    erased = F.when(F.col(USER_ID).isNull(), named).otherwise(F.sha2(USER_ID, 256).isin(digests))
    return rows.where(~F.coalesce(erased, F.lit(False)))


def _with_unknown_items(gated: Sequence[Gated]) -> list[Ledger]:
    by_name = {one.contract.name: one for one in gated}
    ledgers = [ledger for one in gated for ledger in one.ledgers]
    if "catalogue" not in by_name or EVENTS.name not in by_name:
        return ledgers
    known = by_name["catalogue"].accepted.select(ITEM_ID)
    named = by_name[EVENTS.name].accepted.groupBy(SOURCE_TABLE, ITEM_ID).count()
    unknown = (
        named.where(F.col(ITEM_ID).isNotNull())
        .join(known, ITEM_ID, "left_anti")
        .groupBy(SOURCE_TABLE)
        .agg(F.sum("count").alias("num"))
    )
    counts = {row[SOURCE_TABLE]: row["num"] for row in unknown.collect()}
    return [replace(one, unknown_items=counts.get(one.table, 0)) for one in ledgers]


def _refuse_unusable(
    company: CompanyConfig,
    company_path: Path,
    ledgers: Sequence[Ledger],
    retained_from: datetime | None,
) -> None:
    tables = {table.name: table for table in company.tables}
    for ledger in ledgers:
        where = f"{company_path}: tables.{ledger.table}"
        if not ledger.kept_rows:
            kept = f" from {retained_from:%Y-%m-%d} on (retention_days)" if retained_from else ""
            raise SourceError(
                f"{where}: the source holds no rows{kept}. Give a file with data, or take the "
                "table out."
            )
        for rule in ledger.rules:
            if rule.endswith(WITHOUT_TIME_ZONE):
                name = rule.removesuffix(f"_{WITHOUT_TIME_ZONE}")
                raise CompanyConfigError(no_time_zone(tables[ledger.table], company_path, name))


def _check(
    workspace: Workspace,
    company: CompanyConfig,
    gated: Sequence[Gated],
    ledgers: Sequence[Ledger],
    say: Say,
) -> Report:
    findings = validate(gated, ledgers)
    conflicts = [row for one in gated for row in one.conflicts]
    report = Report(company=company.name, ledgers=ledgers, findings=findings, conflicts=conflicts)
    path = write_report(workspace, report)
    failed = [one for one in findings if not one.success]
    for finding in failed:
        if not finding.critical:
            say(f"warning: {finding}")
    lost = [ledger for ledger in ledgers if not ledger.accepted]
    if lost or any(finding.critical for finding in failed):
        raise QualityError(_describe(path, lost, gated, failed))
    return report


def _watch(
    workspace: Workspace,
    gated: Sequence[Gated],
    known_version: int,
    written: Mapping[str, delta.Written],
    say: Say,
) -> list[Alarm]:
    """Warn of events that are unlike those before them."""
    events = next((one for one in gated if one.contract.name == EVENTS.name), None)
    if events is None:
        return []
    alarms = watch_new_events(
        workspace,
        events.contract,
        tables=[ledger.table for ledger in events.ledgers],
        after_version=known_version,
        num_rows=written[EVENTS.name].inserted,
        now=datetime.now(UTC),
    )
    for alarm in alarms:
        say(f"warning: {alarm}")
    return alarms


def _describe(
    path: Path, lost: Sequence[Ledger], gated: Sequence[Gated], failed: Sequence[Finding]
) -> str:
    lines = ["The data breaks a promise about a whole table; nothing was written."]
    for ledger in lost:
        lines.append(f"  All rows are in quarantine. {ledger}")
    for one in gated:
        if one.conflicts:
            key = ", ".join(one.contract.key)
            lines.append(f"  {one.contract.name}: the same {key} came with different content:")
            lines += [f"    {row}" for row in one.conflicts]
    lines += [f"  {finding}" for finding in failed if finding.critical]
    lines.append(f"See {path}. Correct the source or company.yaml and run again.")
    return "\n".join(lines)
