"""One micro-batch of a stream: through the gate and into the lake, as a batch intake goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipelines.company import CompanyConfig, TableConfig
from pipelines.contracts import EVENT_TIME, EVENTS
from pipelines.quality.gate import Gated, Ledger, gate
from pipelines.stages.arrivals import Arrivals
from pipelines.stages.canonical import canonical_rows
from pipelines.stages.delta import Written
from pipelines.stages.ingest import without_suppressed
from pipelines.stages.schemas import stored
from pipelines.stages.store import store
from pipelines.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class TakenIn:
    """What became of a micro-batch.

    Args:
        ledger: Rows in = accepted + quarantined + duplicates inside the batch + expired.
        written: Accepted rows that were new or corrected; the others were known already.
        num_late: Accepted rows from before the watermark.
        newest_us: The largest event time among them, UTC microseconds.
    """

    ledger: Ledger
    written: Written
    num_late: int
    newest_us: int | None


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Where the micro-batches of one table go.

    Args:
        workspace: Where the lake is.
        company: The company's description.
        company_path: Named in messages.
        table: The table that streams.
        lookups: The company's lookup tables by name.
        retained_from: Older events are left out.
    """

    workspace: Workspace
    company: CompanyConfig
    company_path: Path
    table: TableConfig
    lookups: Mapping[str, DataFrame]
    retained_from: datetime | None

    def take_in(self, arrivals: Arrivals, watermark: datetime | None) -> TakenIn:
        """Store a micro-batch; the same batch again changes nothing.

        Args:
            arrivals: Raw rows, at least one frame.
            watermark: Events before it are late: stored and counted.
        """
        gated = self._gate(arrivals)
        try:
            times = gated.accepted.agg(
                F.count_if(F.col(EVENT_TIME) < F.lit(watermark)),
                F.unix_micros(F.max(EVENT_TIME)),
            ).first()
            late, newest_us = times or (0, None)
            written = store(self.workspace, [gated], None)
            return TakenIn(
                ledger=gated.ledgers[0],
                written=written[EVENTS.name],
                num_late=late,
                newest_us=newest_us,
            )
        finally:
            gated.staged.unpersist()

    def _gate(self, arrivals: Arrivals) -> Gated:
        contract = self.company.contract("events")
        frames = [
            canonical_rows(raw, self.table, contract, self.company_path, self.lookups)
            for raw in arrivals.frames
        ]
        rows = without_suppressed(reduce(DataFrame.unionByName, frames), self.workspace)
        return gate(rows, stored(contract), [self.table], retained_from=self.retained_from)
