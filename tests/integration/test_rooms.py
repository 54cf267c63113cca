"""Rooms 1 to 4 through the runner: skipping, resuming after a kill, and the tables' contracts."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from deltalake import DeltaTable

from pipelines import lake
from pipelines.clock import to_micros
from pipelines.errors import WorkspaceError
from pipelines.flow.growth import grow
from pipelines.flow.rooms import INGEST, ROOMS
from pipelines.flow.runner import RunSettings, StageContext, StageReport, run_stages
from pipelines.flow.tokenized import JUDGED, LEARNED, tokenized_stamp
from pipelines.stages.sequences import encode_sorted
from pipelines.stages.user_ranges import sorted_events
from pipelines.tokens.binning import UNKNOWN_IDX
from pipelines.tokens.vocabulary import Vocabulary, latest_vocabulary
from pipelines.workspace import Workspace
from serving.erasure import erase
from tests.tiny_company import order, orders, products, write_rows, write_tiny_company
from tests.tiny_histories import same

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

AS_OF = datetime(2024, 2, 1, tzinfo=UTC)
WINDOW_DAYS = 7
TABLES = ("catalogue", "events", "labels", "quarantine", "token_sequences")
KEYS = {"labels": [("user_id", "ascending"), ("prediction_time", "ascending")]}

RUN_ROOMS = """
import sys
from datetime import datetime
from pathlib import Path
from pipelines.flow.growth import grow
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import RunSettings, StageContext, run_stages
from pipelines.workspace import Workspace
settings = RunSettings(company_path=Path(sys.argv[1]),
                       as_of=datetime.fromisoformat(sys.argv[3]), window_days=int(sys.argv[4]))
run_stages(ROOMS, StageContext(Workspace(Path(sys.argv[2])), settings,
                               say=lambda line: print(line, flush=True)))
"""


def run(workspace: Workspace, company: Path, as_of: datetime = AS_OF) -> list[StageReport]:
    settings = RunSettings(company_path=company, as_of=as_of, window_days=WINDOW_DAYS)
    return run_stages(ROOMS, StageContext(workspace, settings, say=lambda line: None))


def versions(workspace: Workspace) -> dict[str, int]:
    return {name: DeltaTable(str(workspace.table(name))).version() for name in TABLES}


def content(workspace: Workspace) -> dict[str, Any]:
    """All rows of all tables in order of their first columns, and the vocabulary's id."""
    tables = {name: lake.read(workspace, name) for name in TABLES}
    rows: dict[str, Any] = {
        name: table.sort_by(KEYS.get(name, [(table.column_names[0], "ascending")])).to_pylist()
        for name, table in tables.items()
    }
    return rows | {"vocabulary": Vocabulary.load(workspace.vocabulary_path).vocabulary_id}


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_company(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def finished(
    spark: SparkSession, company: Path, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("finished"))
    run(workspace, company)
    return workspace


def test_a_second_run_skips_everything_without_spark(
    finished: Workspace, company: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_spark(context: StageContext) -> None:
        raise AssertionError("Spark was asked for")

    before = versions(finished)
    monkeypatch.setattr(StageContext, "spark", no_spark)
    assert [report.skipped for report in run(finished, company)] == [True, True]
    assert versions(finished) == before


def test_stages_that_run_again_on_the_same_data_commit_nothing(
    finished: Workspace, company: Path
) -> None:
    before, rows = versions(finished), content(finished)
    for name in ("ingest", "tokenize"):
        (finished.state / f"{name}.json").unlink()
    assert [report.skipped for report in run(finished, company)] == [False, False]
    assert versions(finished) == before
    assert content(finished) == rows


def test_a_table_that_was_lost_is_made_again(
    finished: Workspace, company: Path, workspace: Workspace
) -> None:
    shutil.copytree(finished.root, workspace.root)
    shutil.rmtree(workspace.table("token_sequences"))
    assert [report.skipped for report in run(workspace, company)] == [True, False]
    assert content(workspace) == content(finished)


def test_another_cut_tokenizes_again_and_takes_nothing_in(
    finished: Workspace, company: Path, workspace: Workspace
) -> None:
    shutil.copytree(finished.root, workspace.root)
    before = versions(workspace)
    later = run(workspace, company, as_of=datetime(2024, 1, 25, tzinfo=UTC))
    assert [report.skipped for report in later] == [True, False]
    after = versions(workspace)
    assert after["events"] == before["events"]
    assert after["labels"] == before["labels"] + 1


def test_questions_of_a_company_are_no_input_of_its_intake(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = write_tiny_company(tmp_path / "raw")
    settings = RunSettings(company_path=path, as_of=AS_OF, window_days=WINDOW_DAYS)
    before = INGEST.inputs(StageContext(workspace, settings))
    path.write_text(f"{path.read_text()}tasks: questions.py\n")
    asking = StageContext(workspace, settings)
    assert asking.company.tasks == "questions.py"
    assert INGEST.inputs(asking) == before


def test_new_rows_at_the_source_run_everything_again(
    finished: Workspace, company: Path, workspace: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(finished.root, workspace.root)
    shutil.copytree(company.parent, tmp_path / "raw")
    write_rows(tmp_path / "raw" / "orders.parquet", orders(121))
    reports = run(workspace, tmp_path / "raw" / company.name)
    assert [report.skipped for report in reports] == [False, False]
    assert lake.read(workspace, "events").num_rows == 121
    histories = lake.read_histories(
        workspace, Vocabulary.load(workspace.vocabulary_path), before_us=2**62
    )
    assert histories.num_events == 121


def rows_added(workspace: Workspace, name: str) -> int:
    """Rows that the last commit of a table added, by either writer; it took none away."""
    commit = DeltaTable(str(workspace.table(name))).history(1)[0]
    assert (commit["operation"], commit["operationParameters"]["mode"]) == ("WRITE", "Append")
    metrics = commit["operationMetrics"]
    return int(metrics.get("num_added_rows", metrics.get("numOutputRows")))


def test_a_new_day_makes_only_the_users_it_names_again(
    finished: Workspace, company: Path, workspace: Workspace, tmp_path: Path
) -> None:
    shutil.copytree(finished.root, workspace.root)
    shutil.copytree(company.parent, tmp_path / "raw")
    write_rows(tmp_path / "raw" / "orders.parquet", orders(121))
    before, stamp = versions(workspace), tokenized_stamp(workspace)
    run(workspace, tmp_path / "raw" / company.name)
    assert versions(workspace)["token_sequences"] == before["token_sequences"] + 1
    assert tokenized_stamp(workspace)[LEARNED] == stamp[LEARNED], "the day lies after the cut"
    assert tokenized_stamp(workspace)[JUDGED] != stamp[JUDGED], "and in the test window"
    assert rows_added(workspace, "token_sequences") == 1
    assert versions(workspace)["labels"] == before["labels"] + 1, "one user's window"
    afresh = Workspace(tmp_path / "afresh")
    run(afresh, tmp_path / "raw" / company.name)
    assert content(workspace) == content(afresh)


def test_a_corrected_event_rebuilds_what_depends_on_it(
    finished: Workspace, company: Path, workspace: Workspace, tmp_path: Path
) -> None:
    """Order 3 moves from user u3 to a new user, long before the cut; the vocabulary stays."""
    shutil.copytree(finished.root, workspace.root)
    shutil.copytree(company.parent, tmp_path / "raw")
    rows = orders(120)
    rows[3]["customer"] = "somebody new"
    write_rows(tmp_path / "raw" / "orders.parquet", rows)
    before, stamp = content(workspace), tokenized_stamp(workspace)
    run(workspace, tmp_path / "raw" / company.name)
    after = content(workspace)
    assert tokenized_stamp(workspace)[LEARNED] != stamp[LEARNED]
    assert after["vocabulary"] == before["vocabulary"]
    changed = [
        row["user_id"] for row in after["token_sequences"] if row not in before["token_sequences"]
    ]
    assert changed == ["somebody new", "u3"]
    vocabulary = Vocabulary.load(workspace.vocabulary_path)
    events = sorted_events(lake.read(workspace, "events"))
    assert same(
        lake.read_histories(workspace, vocabulary, 2**62), encode_sorted(events, vocabulary)
    )
    assert {row["user_id"] for row in after["labels"] if row not in before["labels"]} == {
        "somebody new"
    }


def test_after_an_erasure_a_new_day_makes_only_its_users_again(
    finished: Workspace,
    company: Path,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One order came and was not tokenized, then u2 leaves, then another order comes."""
    monkeypatch.setattr("pipelines.flow.tokenize.REBUILD_SHARE", 0.5)
    shutil.copytree(finished.root, workspace.root)
    shutil.copytree(company.parent, tmp_path / "raw")
    settings = RunSettings(
        company_path=tmp_path / "raw" / company.name, as_of=AS_OF, window_days=WINDOW_DAYS
    )
    settings.save(workspace)
    write_rows(tmp_path / "raw" / "orders.parquet", orders(121))
    run_stages(ROOMS, StageContext(workspace, settings, say=lambda line: None), first="ingest")
    erase(workspace, "u2")
    write_rows(tmp_path / "raw" / "orders.parquet", orders(122))
    before, stamp = content(workspace), tokenized_stamp(workspace)
    said: list[str] = []
    run_stages(ROOMS, StageContext(workspace, settings, say=said.append))
    assert any("2 users have new or corrected events" in line for line in said), said
    assert rows_added(workspace, "token_sequences") == 1, "u1 is lengthened, u0 was made again"
    after = content(workspace)
    assert after["vocabulary"] == before["vocabulary"]
    assert tokenized_stamp(workspace)[LEARNED] == stamp[LEARNED], "nothing is trained again"
    changed = [
        row["user_id"] for row in after["token_sequences"] if row not in before["token_sequences"]
    ]
    assert changed == ["u0", "u1"]
    assert lake.renewed_since(workspace, 0) == changed
    events = sorted_events(lake.read(workspace, "events"))
    vocabulary = Vocabulary.load(workspace.vocabulary_path)
    assert "u2" not in events.column("user_id").to_pylist()
    assert same(
        lake.read_histories(workspace, vocabulary, 2**62), encode_sorted(events, vocabulary)
    )


def own_copy(
    finished: Workspace, company: Path, workspace: Workspace, tmp_path: Path
) -> RunSettings:
    """Copies of a finished workspace and of its raw tables, and the settings to go on with."""
    shutil.copytree(finished.root, workspace.root)
    shutil.copytree(company.parent, tmp_path / "raw")
    path = tmp_path / "raw" / company.name
    return RunSettings(company_path=path, as_of=AS_OF, window_days=WINDOW_DAYS)


def test_a_kept_vocabulary_grows_by_what_came_after_it(
    finished: Workspace, company: Path, workspace: Workspace, tmp_path: Path
) -> None:
    """Item 99 is bought, first of all by u1, before the catalogue names it."""
    settings = own_copy(finished, company, workspace, tmp_path)
    path = settings.company_path

    def once(**kept: bool) -> list[bool]:
        context = StageContext(workspace, settings, say=lambda line: None, **kept)
        return [report.skipped for report in run_stages(ROOMS, context)]

    def changed(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
        return [row for row in after["token_sequences"] if row not in before["token_sequences"]]

    fitted = Vocabulary.load(workspace.vocabulary_path)
    before = content(workspace)
    write_rows(path.with_name("orders.parquet"), [*orders(120), order(121, item=99)])
    assert once() == [False, False]
    (row,) = changed(before, content(workspace))
    assert (row["user_id"], row["token_item"][-1]) == ("u1", UNKNOWN_IDX)

    before = content(workspace)
    new = {**products()[0], "item": 99, "name": "New thing"}
    write_rows(path.with_name("products.parquet"), [*products(), new])
    rows = [*orders(120), order(121, item=99), order(120, item=99), order(122, item=98)]
    write_rows(path.with_name("orders.parquet"), rows)
    assert once(keeps_vocabulary=True) == [False, False]
    after = content(workspace)
    assert after["vocabulary"] == before["vocabulary"]
    grown = latest_vocabulary(workspace)
    assert grown.items == (*fitted.items, "98", "99")
    known = grown.item_idx_of
    assert [(row["user_id"], row["token_item"][-1]) for row in changed(before, after)] == [
        ("u0", known["99"]),
        ("u1", known["99"]),
        ("u2", known["98"]),
    ]
    histories = lake.read_histories(workspace, fitted, 2**62)
    assert histories.tokens["item"].max() < fitted.num_item_indices, "the model's own vocabulary"

    assert once(keeps_vocabulary=True) == [True, True]
    assert once() == [True, False], "a training fits a vocabulary that knows the product"
    assert content(workspace)["vocabulary"] != before["vocabulary"]
    assert latest_vocabulary(workspace).num_added == 0
    settings = replace(settings, as_of=AS_OF + timedelta(days=1))
    with pytest.raises(WorkspaceError, match="bfm run --workspace"):
        once(keeps_vocabulary=True)


def test_a_kill_after_the_vocabulary_has_grown_is_made_good(
    finished: Workspace, company: Path, workspace: Workspace, tmp_path: Path
) -> None:
    settings = own_copy(finished, company, workspace, tmp_path)
    path = settings.company_path
    write_rows(path.with_name("orders.parquet"), [*orders(120), order(121, item=99)])
    run(workspace, path)
    grow(workspace, lake.version_of(workspace, "events"), latest_vocabulary(workspace))
    context = StageContext(workspace, settings, say=lambda line: None, keeps_vocabulary=True)
    run_stages(ROOMS, context)
    grown = latest_vocabulary(workspace)
    histories = lake.read_histories(workspace, grown, 2**62, ["u1"])
    assert histories.tokens["item"][-1] == grown.item_idx_of["99"]


def test_history_is_read_strictly_before_the_prediction_time(finished: Workspace) -> None:
    vocabulary = Vocabulary.load(finished.vocabulary_path)
    cut_us = to_micros(AS_OF)
    histories = lake.read_histories(finished, vocabulary, cut_us)
    events = lake.read(finished, "events").to_pylist()
    assert histories.num_events == sum(row["event_time"] < AS_OF for row in events)
    assert histories.times_us.max() < cut_us


def test_the_default_cut_is_one_window_before_the_last_midnight(
    finished: Workspace, company: Path
) -> None:
    settings = RunSettings(company_path=company, window_days=WINDOW_DAYS)
    last = max(row["event_time"] for row in lake.read(finished, "events").to_pylist())
    as_of = StageContext(finished, settings).as_of
    assert last.date() - as_of.date() == timedelta(days=WINDOW_DAYS)
    assert (as_of.hour, as_of.minute, as_of.tzinfo is not None) == (0, 0, True)


@pytest.mark.slow
def test_a_kill_at_any_moment_is_made_good_by_the_next_run(
    finished: Workspace, company: Path, workspace: Workspace
) -> None:
    """One kill falls into the gate and the writes of intake, one into tokenize."""
    chance = random.Random(7)
    arguments = [str(company), str(workspace.root), AS_OF.isoformat(), str(WINDOW_DAYS)]
    for moment in (b"orders: ", b"tokenize: started"):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN_ROOMS, *arguments],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        with process.stdout:
            assert any(line.startswith(moment) for line in process.stdout)
            time.sleep(chance.uniform(0.0, 3.0))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert not (workspace.state / "tokenize.json").exists()
    run(workspace, company)
    assert content(workspace) == content(finished)
