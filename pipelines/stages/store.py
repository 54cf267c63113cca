"""Checked rows to the lake: sound ones to their tables, refused ones to quarantine."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import reduce
from typing import Final

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines import lake
from pipelines.contracts import (
    EVENT_ID,
    EVENT_TIME,
    EVENTS,
    ITEM_ID,
    QUARANTINE,
    RAW_ROW,
    ROW_HASH,
    SESSION_ID,
    SOURCE_TABLE,
    USER_ID,
)
from pipelines.quality.gate import Gated, row_hash
from pipelines.stages import delta
from pipelines.stages.repairs import repaired_hashes
from pipelines.stages.user_ranges import user_ranges
from pipelines.workspace import Workspace

CLUSTER: Final = {
    "catalogue": [ITEM_ID],
    "profiles": [USER_ID],
    "events": [USER_ID, EVENT_TIME, SESSION_ID, EVENT_ID],
    "quarantine": [ROW_HASH],
}
_KEY: Final = list(QUARANTINE.key)


def store(
    workspace: Workspace,
    gated: Sequence[Gated],
    retained_from: datetime | None,
    streamed: Collection[str] = (),
) -> dict[str, delta.Written]:
    """Write everything; what was refused before and is sound now leaves quarantine.

    Args:
        workspace: Where the lake is.
        gated: All tables behind the gate.
        retained_from: Quarantine holds what this intake refused, and what streams did; None: it
            grows.
        streamed: Tables that streams take in, and no intake reads.
    """
    written = {QUARANTINE.name: _store_refused(workspace, gated, retained_from, streamed)}
    for one in gated:
        written[one.contract.name] = store_accepted(workspace, one)
    _sort_again(workspace, gated[0].accepted.sparkSession)
    return written


def store_accepted(workspace: Workspace, gated: Gated) -> delta.Written:
    """Merge the sound rows of one table."""
    name = gated.contract.name
    return delta.merge(
        gated.accepted,
        workspace.table(name),
        gated.contract,
        CLUSTER[name],
        num_rows=sum(ledger.accepted for ledger in gated.ledgers),
        since_us=gated.since_us,
    )


def merge_refused(workspace: Workspace, refused: DataFrame, num_rows: int) -> delta.Written:
    """Add refused rows to quarantine."""
    path = workspace.table(QUARANTINE.name)
    return delta.merge(refused, path, QUARANTINE, CLUSTER[QUARANTINE.name], num_rows=num_rows)


def release(workspace: Workspace, rows: DataFrame) -> int:
    """Take rows out of quarantine, by hash and rule; the number of rows that left."""
    path = workspace.table(QUARANTINE.name)
    held = rows.sparkSession.read.format("delta").load(str(path)).select(*_KEY)
    leaving = held.join(rows, _KEY, "left_semi").persist()
    try:
        num = leaving.count()
        if num:
            same = " AND ".join(f"held.{name} = leaving.{name}" for name in _KEY)
            table = DeltaTable.forPath(rows.sparkSession, str(path)).alias("held")
            table.merge(leaving.alias("leaving"), same).whenMatchedDelete().execute()
        return num
    finally:
        leaving.unpersist()


def _store_refused(
    workspace: Workspace,
    gated: Sequence[Gated],
    retained_from: datetime | None,
    streamed: Collection[str],
) -> delta.Written:
    refused = _unrepaired(workspace, reduce(DataFrame.unionByName, [o.quarantine for o in gated]))
    num_refused = sum(ledger.quarantined for one in gated for ledger in one.ledgers)
    if retained_from is None:
        written = merge_refused(workspace, refused, num_refused)
        held = lake.num_rows(workspace, QUARANTINE.name)
        released = sum(_release_sound(workspace, one) for one in gated) if held else 0
        return delta.Written(inserted=written.inserted, deleted=released)
    path = workspace.table(QUARANTINE.name)
    if streamed and delta.has_table(refused.sparkSession, path):
        before = refused.sparkSession.read.format("delta").load(str(path))
        refused = refused.unionByName(before.where(F.col(SOURCE_TABLE).isin(list(streamed))))
    changed = delta.replace(refused, path, CLUSTER[QUARANTINE.name])
    return delta.Written(inserted=num_refused if changed else 0)


def _unrepaired(workspace: Workspace, refused: DataFrame) -> DataFrame:
    """Refused rows but those that were repaired and replayed: their source still holds them."""
    repaired = repaired_hashes(workspace)
    if not repaired:
        return refused
    rows = refused.sparkSession.createDataFrame([(one,) for one in repaired], f"{ROW_HASH} string")
    return refused.join(F.broadcast(rows), ROW_HASH, "left_anti").select(*refused.columns)


def _release_sound(workspace: Workspace, gated: Gated) -> int:
    """Rows in quarantine that came again and were not refused again for the same reason.

    Raw rows are hashed only where quarantine holds such candidates.
    """
    spark = gated.accepted.sparkSession
    held = spark.read.format("delta").load(str(workspace.table(QUARANTINE.name)))
    theirs = held.where(F.col(SOURCE_TABLE).isin([ledger.table for ledger in gated.ledgers]))
    not_again = theirs.select(*_KEY).join(gated.quarantine, _KEY, "left_anti")
    if not_again.isEmpty():
        return 0
    came = gated.read.where(F.col(RAW_ROW).isNotNull()).select(row_hash())
    return release(workspace, not_again.join(came, ROW_HASH, "left_semi"))


def _sort_again(workspace: Workspace, spark: SparkSession) -> None:
    """Many small intakes lie across all users; from time to time events are sorted as a whole."""
    path = workspace.table(EVENTS.name)
    if user_ranges(path).is_scattered:
        delta.sort_again(spark, path, CLUSTER[EVENTS.name])
