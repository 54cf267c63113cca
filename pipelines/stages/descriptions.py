"""Which description each table was taken in with, and what a change of it would count twice.

Where a source names no event ids, they are made of what rows say. Under another time zone, or with
a field more, the same rows have other ids, and would stand beside those of before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.company import CompanyConfig, TableConfig
from pipelines.contracts import EVENT_ID, EVENTS, SOURCE_TABLE
from pipelines.errors import CompanyConfigError
from pipelines.workspace import Workspace, write_json_atomically

_NOT_OF_VALUES: Final = {"name", "source", "max_quarantined_share"}


def refuse_counting_twice(
    spark: SparkSession,
    workspace: Workspace,
    company: CompanyConfig,
    company_path: Path,
    accepted: DataFrame,
) -> None:
    """Stop where rows that are known would come again under other ids.

    Args:
        spark: Session with Delta.
        workspace: Holds the events of before.
        company: The company's description.
        company_path: Named in messages.
        accepted: Events of this intake.

    Raises:
        CompanyConfigError: the description of a table without event ids has changed, some of its
            known events do not come again, and others come instead.
    """
    before = _read(workspace)
    changed = [
        table.name
        for table in company.tables
        if table.into == "events"
        and EVENT_ID not in table.columns
        and before.get(table.name, _hash_of(table)) != _hash_of(table)
    ]
    if not changed:
        return
    stored = spark.read.format("delta").load(str(workspace.table(EVENTS.name)))
    known, come = (
        rows.where(F.col(SOURCE_TABLE).isin(changed)).select(SOURCE_TABLE, EVENT_ID).distinct()
        for rows in (stored, accepted)
    )
    gone = _counts(known.join(come, [SOURCE_TABLE, EVENT_ID], "left_anti"))
    new = _counts(come.join(known, [SOURCE_TABLE, EVENT_ID], "left_anti"))
    for name in changed:
        if gone.get(name) and new.get(name):
            raise CompanyConfigError(
                f"{company_path}: tables.{name}: its description has changed, and no 'event_id' is "
                f"mapped, so that ids are made of what rows say: {new[name]:,} events would come "
                f"beside {gone[name]:,} that are known and not among them, most likely the same "
                "ones again. Map event_id to a column of the source from the beginning, or take "
                "the change back, or take everything in anew with another --workspace."
            )


def remember(workspace: Workspace, tables: Sequence[TableConfig]) -> None:
    """Keep the descriptions that an intake was stored with, beside those of other tables."""
    hashes = {table.name: _hash_of(table) for table in tables}
    write_json_atomically(_path(workspace), _read(workspace) | hashes)


def no_longer_described(workspace: Workspace, company: CompanyConfig) -> Collection[str]:
    """Tables that were taken in and stand in the description no more; what they brought stays."""
    return sorted(set(_read(workspace)) - {table.name for table in company.tables})


def _counts(rows: DataFrame) -> dict[str, int]:
    return {row[SOURCE_TABLE]: row["count"] for row in rows.groupBy(SOURCE_TABLE).count().collect()}


def _hash_of(table: TableConfig) -> str:
    """SHA-256 of what of a description decides values."""
    described = table.model_dump_json(exclude=_NOT_OF_VALUES)
    return hashlib.sha256(described.encode()).hexdigest()


def _read(workspace: Workspace) -> dict[str, str]:
    path = _path(workspace)
    if not path.is_file():
        return {}
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _path(workspace: Workspace) -> Path:
    return workspace.root / "descriptions.json"
