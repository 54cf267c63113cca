"""Streams of a landing folder: exactly once, across kills, with late and corrected events."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import Row
from pyspark.sql import functions as F

from pipelines import lake
from pipelines.company import load_company
from pipelines.contracts import ARRIVAL
from pipelines.errors import CompanyConfigError, SourceError, UnknownNameError
from pipelines.flow import stream
from pipelines.flow.lock import lake_lock
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import RunSettings, StageContext, run_stages
from pipelines.flow.stream import Progress, read_progress, run_streams
from pipelines.sources.registry import read_source
from pipelines.sources.request import SourceRequest
from pipelines.stages.arrivals import Arrivals, open_stream
from pipelines.stages.micro_batch import Intake
from pipelines.workspace import Workspace
from tests.tiny_company import events_table, write_company

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.integration

AS_OF = datetime(2024, 1, 3, tzinfo=UTC)


def click(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"c{number}",
        "customer": f"u{number % 3}",
        "time": f"2024-01-01T{number:02d}:00:00Z",
        "kind": "page_view",
        "item": f"i{number % 4}",
        **changes,
    }


@pytest.fixture
def company(tmp_path: Path) -> Path:
    """One table of clicks: JSON lines that land in a folder."""
    (tmp_path / "landing").mkdir()
    table = events_table(
        name="clicks",
        source={"format": "jsonl", "path": "landing"},
        columns={
            "event_id": "id",
            "user_id": "customer",
            "event_time": "time",
            "event_type": "kind",
            "item_id": "item",
        },
        fields={"colour": {"type": "categorical"}},
    )
    return write_company(tmp_path, table, files={})


def land(company: Path, name: str, *rows: dict[str, Any] | str) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (company.parent / "landing" / name).write_text("".join(f"{line}\n" for line in lines))


def run_once(spark: SparkSession, workspace: Workspace, company: Path) -> Progress:
    context = StageContext(workspace, RunSettings(company_path=company), say=lambda line: None)
    return run_streams(context, once=True)["clicks"]


def events(workspace: Workspace) -> dict[str, dict[str, Any]]:
    rows = lake.read(workspace, "events").to_pylist()
    assert len({row["event_id"] for row in rows}) == len(rows)
    return {row["event_id"]: row for row in rows}


def test_files_count_once_with_late_repeated_broken_and_corrected_rows(
    spark: SparkSession, workspace: Workspace, company: Path
) -> None:
    land(company, "a.jsonl", click(5), click(6), click(6), "{broken", click(7, time="noon"))
    first = run_once(spark, workspace, company)
    assert (first.input_rows, first.accepted, first.quarantined, first.duplicates) == (5, 2, 2, 1)
    assert (first.inserted, first.late) == (2, 0)
    assert run_once(spark, workspace, company) == first

    land(
        company, "b.jsonl",
        click(1),  # hours behind the newest
        click(6),  # sent again
        click(8, item="wrong"), click(8, item="right", colour="red"),  # corrected at once
        click(5, item="i9"),  # corrects an earlier file
    )  # fmt: skip
    second = run_once(spark, workspace, company)
    assert (second.input_rows, second.accepted, second.duplicates) == (10, 6, 2)
    assert (second.inserted, second.updated, second.late) == (4, 1, 1)
    found = events(workspace)
    assert sorted(found) == ["c1", "c5", "c6", "c8"]
    assert (found["c8"]["item_id"], found["c8"]["colour"]) == ("right", "red")
    assert (found["c5"]["item_id"], found["c5"]["colour"]) == ("i9", None)
    rules = lake.read(workspace, "quarantine", ["rule"]).column(0).to_pylist()
    assert sorted(rules) == ["event_time_not_a_time", "malformed_row"]


def test_a_file_that_lands_with_an_old_time_is_read(
    spark: SparkSession, workspace: Workspace, company: Path
) -> None:
    """Copies that keep times, and repaired files of last month."""
    land(company, "a.jsonl", click(1))
    run_once(spark, workspace, company)
    land(company, "b.jsonl", click(2))
    month_ago = (company.parent / "landing" / "a.jsonl").stat().st_mtime - 30 * 86_400
    os.utime(company.parent / "landing" / "b.jsonl", (month_ago, month_ago))
    assert run_once(spark, workspace, company).accepted == 2
    assert sorted(events(workspace)) == ["c1", "c2"]


def test_rows_that_are_too_old_are_counted(
    spark: SparkSession, workspace: Workspace, company: Path
) -> None:
    company.write_text(f"{company.read_text()}retention_days: 30\n")
    recent = datetime.now(UTC).isoformat()
    land(company, "a.jsonl", click(1), click(2, time=recent), click(3, kind=None))
    done = run_once(spark, workspace, company)
    assert (done.input_rows, done.accepted, done.quarantined, done.expired) == (3, 1, 0, 2)
    assert sorted(events(workspace)) == ["c2"]


def test_the_line_leaves_a_streamed_table_to_its_stream(
    spark: SparkSession, workspace: Workspace, company: Path
) -> None:
    """A folder read as a whole would hold one event with two contents."""
    land(company, "a.jsonl", *(click(number) for number in range(9)))
    land(company, "b.jsonl", click(5, item="i9"))
    run_once(spark, workspace, company)
    settings = RunSettings(company_path=company, as_of=AS_OF, window_days=1)
    said: list[str] = []
    for _ in range(2):
        run_stages(ROOMS, StageContext(workspace, settings, say=said.append))
    assert "clicks: taken in by bfm stream" in said
    assert said[-2:] == ["ingest: nothing to do", "tokenize: nothing to do"]
    assert lake.read(workspace, "token_sequences", ["user_id"]).num_rows == 3
    assert events(workspace)["c5"]["item_id"] == "i9"


def test_all_rows_of_a_file_of_many_partitions_stand_before_those_of_the_next(
    spark: SparkSession, company: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_parts(session: SparkSession, request: SourceRequest) -> DataFrame:
        return read_source(session, request).repartition(130)

    monkeypatch.setattr("pipelines.stages.arrivals.read_source", in_parts)
    (table,) = load_company(company).tables
    for name in ("a", "b"):
        land(company, f"{name}.jsonl", *[click(1, kind=name)] * 260)
    paths = [((company.parent / "landing" / f"{name}.jsonl").as_uri(), 0) for name in ("a", "b")]
    _, unpack = open_stream(spark, table, company)
    arrived = unpack(spark.createDataFrame(paths, "path string, since_us long")).frames
    first, second = (frame.agg(F.min(ARRIVAL), F.max(ARRIVAL)).collect()[0] for frame in arrived)
    assert first[1] >= 129 << 33
    assert first[1] < second[0]


@pytest.mark.parametrize("written", [False, True])
def test_a_kill_around_the_write_neither_loses_nor_repeats(
    spark: SparkSession,
    workspace: Workspace,
    company: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: bool,
) -> None:
    """Once before the lake is written, once after it and before the batch is noted as done."""

    def killed(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("killed")

    land(company, "a.jsonl", click(1), click(2), click(2))
    with monkeypatch.context() as patch:
        target = "write_json_atomically" if written else "lake_lock"
        patch.setattr(stream, target, killed)
        with pytest.raises(Exception, match="killed"):
            run_once(spark, workspace, company)
    assert workspace.table("events").exists() == written
    land(company, "b.jsonl", click(3))
    done = run_once(spark, workspace, company)
    assert sorted(events(workspace)) == ["c1", "c2", "c3"]
    assert (done.input_rows, done.accepted, done.duplicates) == (4, 3, 1)


def test_a_stream_ends_when_told_and_goes_on_later(
    spark: SparkSession, workspace: Workspace, company: Path
) -> None:
    land(company, "a.jsonl", click(1))
    context = StageContext(workspace, RunSettings(company_path=company), say=lambda line: None)
    run_streams(
        context, interval_s=0.1, stopped=lambda: read_progress(workspace, "clicks").accepted == 1
    )
    land(company, "b.jsonl", click(2))
    assert run_once(spark, workspace, company).accepted == 2


def test_what_cannot_be_read_stops_the_stream_and_waits(
    spark: SparkSession, workspace: Workspace, company: Path
) -> None:
    land(company, "a.jsonl", {"id": "c1", "customer": "u1", "kind": "page_view", "item": "i1"})
    with pytest.raises(SourceError, match=r"a\.jsonl: no column 'time', .* It has: customer, id"):
        run_once(spark, workspace, company)
    land(company, "a.jsonl", click(1))
    assert run_once(spark, workspace, company).accepted == 1


def test_a_batch_of_refused_rows_is_a_warning(
    spark: SparkSession, workspace: Workspace, company: Path
) -> None:
    """A producer that renames a key is told of at once; what is sound goes on."""
    said: list[str] = []
    context = StageContext(workspace, RunSettings(company_path=company), say=said.append)
    renamed = [{**click(number), "customer": None, "client": "u"} for number in range(2)]
    land(company, "a.jsonl", *renamed, click(3, time="noon"), click(4))
    done = run_streams(context, once=True)["clicks"]
    assert (done.accepted, done.quarantined) == (1, 3)
    (warning,) = (line for line in said if line.startswith("warning: "))
    assert "clicks: batch 0 sent 3 of 4 rows to quarantine (75%, max_quarantined_share" in warning
    assert "most for user_id_missing (2). Look at them with: bfm quarantine" in warning
    land(company, "b.jsonl", click(5), click(6), "{broken")
    run_streams(context, once=True)
    assert sum(line.startswith("warning: ") for line in said) == 1


def test_sources_that_cannot_be_waited_for_are_refused(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    path = write_company(tmp_path, events_table(), files={})
    (tmp_path / "orders.parquet").touch()
    context = StageContext(workspace, RunSettings(company_path=path), say=lambda line: None)
    with pytest.raises(CompanyConfigError, match="no table of events can be waited for"):
        run_streams(context, once=True)
    with pytest.raises(CompanyConfigError, match=r"tables\.orders: a stream reads a folder"):
        run_streams(context, names=["orders"], once=True)
    with pytest.raises(UnknownNameError, match="Did you mean 'orders'"):
        run_streams(context, names=["order"], once=True)


def test_four_writers_at_once_lose_nothing(
    spark: SparkSession, workspace: Workspace, company: Path
) -> None:
    """Each holds rows of its own, and all hold one that is the same."""
    described = load_company(company)
    intake = Intake(
        workspace=workspace,
        company=described,
        company_path=company,
        table=described.tables[0],
        lookups={},
        retained_from=None,
    )

    def write(writer: int) -> int:
        rows = [click(number % 24, id=f"w{writer}-{number}") for number in range(5)]
        frame = spark.createDataFrame([Row(**row) for row in [*rows, click(1)]])
        arrivals = Arrivals(
            frames=(frame.withColumns({"colour": F.lit("red"), ARRIVAL: F.lit(0)}),), since_us=0
        )
        with lake_lock(workspace):
            return intake.take_in(arrivals, None).written.inserted

    with ThreadPoolExecutor(4) as pool:
        inserted = list(pool.map(write, range(4)))
    assert sorted(inserted) == [5, 5, 5, 6]
    own = {f"w{writer}-{number}" for writer in range(4) for number in range(5)}
    assert events(workspace).keys() == own | {"c1"}
