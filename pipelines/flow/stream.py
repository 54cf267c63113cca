"""Streams: new rows of folders and topics go into the lake as they come, until told to stop.

Every micro-batch is written before Spark notes it as done, and by the keys of its events: a batch
that a kill leaves in between comes again and changes nothing. Counts are kept with the batch's
number, so that they count it once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from py4j.protocol import Py4JError

from pipelines.clock import from_micros
from pipelines.contracts import EVENTS
from pipelines.errors import BfmError, CompanyConfigError, SourceError, UnknownNameError
from pipelines.flow.lock import lake_lock
from pipelines.workspace import Workspace, write_json_atomically

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

    from pipelines.company import TableConfig
    from pipelines.flow.runner import StageContext
    from pipelines.quality.gate import Ledger
    from pipelines.stages.arrivals import Unpack
    from pipelines.stages.micro_batch import Intake, TakenIn

STREAMS: Final = "streams"
LATENESS: Final = timedelta(hours=1)
"""How far an event may lie behind the newest one before it counts as late."""
_POLL_S: Final = 0.2
_KAFKA: Final = "org.apache.kafka"
"""Package of errors that the client of a topic raises."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a stream has done since its first start.

    Args:
        query: Spark's id of the checkpoint that `batch` counts in.
        batch: Number of the last batch that is counted here.
        input_rows: All rows = accepted + quarantined + duplicates + expired.
        accepted: Sound rows, one per key and batch; those not new or changed were known before.
        quarantined: Rows that break a rule.
        duplicates: Rows whose key came again in their batch.
        expired: Rows that are older than what is kept.
        inserted: Accepted rows with a new key.
        updated: Accepted rows that corrected a stored one.
        late: Accepted rows that lay behind the watermark.
        newest_us: The largest event time so far, UTC microseconds.
    """

    query: str = ""
    batch: int = -1
    input_rows: int = 0
    accepted: int = 0
    quarantined: int = 0
    duplicates: int = 0
    expired: int = 0
    inserted: int = 0
    updated: int = 0
    late: int = 0
    newest_us: int | None = None

    @property
    def watermark(self) -> datetime | None:
        """Events before it are late."""
        if self.newest_us is None:
            return None
        return from_micros(self.newest_us) - LATENESS

    def plus(self, query: str, batch: int, taken: TakenIn) -> Progress:
        """With one more batch, unless it is counted already."""
        if query == self.query and batch <= self.batch:
            return self
        newest = [time for time in (self.newest_us, taken.newest_us) if time is not None]
        return replace(
            self,
            query=query,
            batch=batch,
            input_rows=self.input_rows + taken.ledger.input_rows,
            accepted=self.accepted + taken.ledger.accepted,
            quarantined=self.quarantined + taken.ledger.quarantined,
            duplicates=self.duplicates + taken.ledger.duplicates,
            expired=self.expired + taken.ledger.expired,
            inserted=self.inserted + taken.written.inserted,
            updated=self.updated + taken.written.updated,
            late=self.late + taken.num_late,
            newest_us=max(newest, default=None),
        )


@dataclass(eq=False, kw_only=True)
class TableStream:
    """The running stream of one table.

    Args:
        intake: Where its batches go.
        unpack: Makes raw rows of a micro-batch.
        say: Takes one line per batch.
    """

    intake: Intake
    unpack: Unpack
    say: Callable[[str], None]
    query: StreamingQuery | None = None
    failure: BaseException | None = field(default=None)

    def start(self, frame: DataFrame, *, once: bool, interval_s: float) -> None:
        """Begin where the last run of this stream ended."""
        checkpoint = _folder(self.intake.workspace, self.intake.table.name) / "checkpoint"
        writer = frame.writeStream.foreachBatch(self._take_in)
        trigger: dict[str, Any] = {"processingTime": f"{interval_s} seconds"}
        writer = writer.trigger(**({"availableNow": True} if once else trigger))
        self.query = writer.option("checkpointLocation", str(checkpoint)).start()

    def _take_in(self, batch: DataFrame, number: int) -> None:
        try:
            self._count(batch, number)
        except BaseException as error:
            self.failure = error
            raise

    def _count(self, batch: DataFrame, number: int) -> None:
        begun = time.monotonic()
        workspace, name = self.intake.workspace, self.intake.table.name
        arrivals = self.unpack(batch)
        if not arrivals.frames:
            return
        before = read_progress(workspace, name)
        with lake_lock(workspace):
            taken = self.intake.take_in(arrivals, before.watermark)
        query = str(self.query.id) if self.query is not None else before.query
        progress = before.plus(query, number, taken)
        write_json_atomically(_folder(workspace, name) / "progress.json", asdict(progress))
        self.say(_line(number, taken, time.monotonic() - begun, arrivals.since_us))
        if taken.ledger.quarantined_share > taken.ledger.max_quarantined_share:
            self.say(_warning(number, taken.ledger, workspace))


def run_streams(
    context: StageContext,
    *,
    names: Sequence[str] = (),
    once: bool = False,
    interval_s: float = 5.0,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Progress]:
    """Stream tables of events into the lake.

    Args:
        context: Where, and whose; its session runs the streams.
        names: Tables to stream; all that can by default.
        once: Take in what is there and end.
        interval_s: Shortest time between two batches of a table.
        stopped: Asked again and again; true ends the streams after the batches at work.

    Returns:
        What each stream has done since its first start.

    Raises:
        UnknownNameError: no such table of events.
        CompanyConfigError: a table's source cannot be waited for, or none can.
        SourceError: a file or topic cannot be read; the stream goes on there when it is mended.
    """
    spark = context.spark()
    streams = [_stream(context, spark, table) for table in _tables(context, names)]
    for stream, frame in streams:
        stream.start(frame, once=once, interval_s=interval_s)
    try:
        _wait([stream for stream, _ in streams], stopped)
    except (OSError, Py4JError):
        if not stopped():  # a signal to stop that goes to a whole group ends the JVM as well
            raise
    tables = [stream.intake.table.name for stream, _ in streams]
    return {name: read_progress(context.workspace, name) for name in tables}


def _wait(streams: Sequence[TableStream], stopped: Callable[[], bool]) -> None:
    try:
        while any(_is_running(stream) for stream in streams) and not stopped():
            time.sleep(_POLL_S)
            _raise_failure(streams)
    finally:
        for stream in streams:
            _stop(stream)
    _raise_failure(streams)


def read_progress(workspace: Workspace, table: str) -> Progress:
    """What the stream of a table has done; nothing before its first batch."""
    path = _folder(workspace, table) / "progress.json"
    return Progress(**json.loads(path.read_text())) if path.is_file() else Progress()


def streamed_tables(workspace: Workspace) -> list[str]:
    """Tables that streams took in, sorted; their sources are not read as a whole again."""
    return sorted(path.parent.name for path in (workspace.root / STREAMS).glob("*/progress.json"))


def _tables(context: StageContext, names: Sequence[str]) -> list[TableConfig]:
    from pipelines.stages.arrivals import can_stream

    events = {table.name: table for table in context.company.tables if table.into == EVENTS.name}
    for name in names:
        if name not in events:
            raise UnknownNameError("table of events", name, events)
    if names:
        return [events[name] for name in names]
    path = context.settings.company_path
    found = [table for table in events.values() if can_stream(table, path)]
    if not found:
        raise CompanyConfigError(
            f"{path}: no table of events can be waited for; a stream reads a folder of files or a "
            "kafka topic. Take single files and databases in with: bfm ingest"
        )
    return found


def _stream(
    context: StageContext, spark: SparkSession, table: TableConfig
) -> tuple[TableStream, DataFrame]:
    from pipelines.sources.registry import read_lookups
    from pipelines.stages.arrivals import open_stream
    from pipelines.stages.micro_batch import Intake

    path = context.settings.company_path
    frame, unpack = open_stream(spark, table, path)
    intake = Intake(
        workspace=context.workspace,
        company=context.company,
        company_path=path,
        table=table,
        lookups=read_lookups(spark, context.company, path),
        retained_from=context.retained_from,
    )
    return TableStream(intake=intake, unpack=unpack, say=context.say), frame


def _is_running(stream: TableStream) -> bool:
    return stream.query is not None and stream.query.isActive


def _raise_failure(streams: Sequence[TableStream]) -> None:
    for stream in streams:
        error = None if stream.query is None else stream.query.exception()
        if error is not None:
            raise _told(stream, error) from error


def _told(stream: TableStream, error: Exception) -> BaseException:
    """What ended a stream: in words where it is the source, as it is where it is this program."""
    from pipelines.sources.kafka import unreadable_topic
    from pipelines.sources.request import SourceRequest, reason_of

    if isinstance(stream.failure, BfmError):
        return stream.failure
    if stream.failure is not None and _KAFKA not in str(stream.failure):
        return error
    table = stream.intake.table
    request = SourceRequest.of(table, stream.intake.company_path)
    if table.source.format == "kafka":
        return unreadable_topic(request, error)
    return SourceError(
        f"{request.place}: {request.where} cannot be read: {reason_of(error)}. Correct the source "
        "and run the same command: the stream goes on where it ended."
    )


def _stop(stream: TableStream) -> None:
    """End a stream after the batch at work."""
    if stream.query is None:
        return
    while stream.query.isActive and stream.query.status["isTriggerActive"]:
        time.sleep(_POLL_S)
    stream.query.stop()


def _folder(workspace: Workspace, table: str) -> Path:
    return workspace.root / STREAMS / table


def _line(number: int, taken: TakenIn, seconds: float, since_us: int | None) -> str:
    written, ledger = taken.written, taken.ledger
    lag = 0.0 if since_us is None else time.time() - since_us / 1e6
    return (
        f"{ledger}; batch {number}: {written.inserted:,} inserted, {written.updated:,} updated, "
        f"{taken.num_late:,} late, {ledger.input_rows / seconds:,.0f} rows/s, lag {lag:.1f} s"
    )


def _warning(number: int, ledger: Ledger, workspace: Workspace) -> str:
    """A batch intake would stop here; a stream goes on, for its other rows are sound."""
    rule, count = max(ledger.rules.items(), key=lambda one: (one[1], one[0]))
    return (
        f"warning: {ledger.table}: batch {number} sent {ledger.quarantined:,} of "
        f"{ledger.kept_rows:,} rows to quarantine ({ledger.quarantined_share:.0%}, "
        f"max_quarantined_share is {ledger.max_quarantined_share:.0%}), most for {rule} "
        f"({count:,}). Look at them with: bfm quarantine --workspace {workspace.quoted}"
    )
