"""A person leaves a workspace: no byte is left, nobody else loses a row, nothing is retrained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from feature_store.publish import publish
from pipelines import lake
from pipelines.clock import to_micros
from pipelines.erasure import is_suppressed, user_hash
from pipelines.flow import erasure_requests, lake_erasure, markers
from pipelines.flow.erasure_requests import AUDIT_FILE, PENDING_FILE, pending
from pipelines.flow.markers import standings
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import RunSettings, StageContext, run_stages
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace, write_json_atomically
from serving.cli.main import app
from serving.erasure import erase, erase_due
from serving.erasure_places import PLACES
from serving.live_events import LiveEvents
from tests.small_shop import CountingPredictor
from tests.tiny_company import Rows, catalogue_table, events_table, orders, products, write_company
from tests.traces import traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PERSON = "customer-7f3a91"
NEIGHBOURS = ("customer-7f3a9", "o'brien", "zed", "12", "112")
USERS = (PERSON, *NEIGHBOURS)
AS_OF = datetime(2024, 2, 1, tzinfo=UTC)
NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)


def raw_orders() -> Rows:
    """Orders of all users; the person's and a neighbour's last ones are broken."""
    rows = orders(140)
    for i, row in enumerate(rows):
        row["customer"] = USERS[i % len(USERS)]
        row["id"] = f"{row['customer']}/{i}"
    for user in (PERSON, NEIGHBOURS[0]):
        rows.append({**rows[0], "id": f"{user}/bad", "customer": user, "pieces": -1})
    # Pieces are no user: this broken row of '112' is not that of '12'.
    rows.append({**rows[0], "id": "112/bad", "customer": "112", "pieces": 12, "paid": -1})
    return rows


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    source = {"format": "jsonl", "path": "orders.jsonl"}
    path = write_company(
        folder,
        events_table(source=source),
        catalogue_table(),
        files={"orders.jsonl": raw_orders(), "products.parquet": products()},
    )
    with (folder / "orders.jsonl").open("a", encoding="utf-8") as file:
        file.write(f'\n{{"id": "torn", "customer": "{PERSON}", "time": "2024-01')
    return path


def run(workspace: Workspace, company: Path, now: datetime = NOW) -> list[bool]:
    """Run rooms 1 to 4; which of them had nothing to do."""
    settings = RunSettings(company_path=company, as_of=AS_OF, window_days=7)
    settings.save(workspace)
    context = StageContext(workspace, settings, say=lambda line: None, now=now)
    return [report.skipped for report in run_stages(ROOMS, context)]


@pytest.fixture(scope="module")
def filled(
    spark: SparkSession, company: Path, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """Lake, shelf, exports, live events and a log that name everybody."""
    workspace = Workspace(tmp_path_factory.mktemp("filled") / "workspace")
    run(workspace, company)
    items = Vocabulary.load(workspace.vocabulary_path).items
    exported = workspace.embeddings / "user.parquet"
    write_embeddings(exported, USERS)
    write_embeddings(workspace.embeddings / "item.parquet", items)
    publish(
        workspace,
        as_of_us=to_micros(AS_OF),
        user_embeddings=exported,
        item_embeddings=workspace.embeddings / "item.parquet",
        model_version="v1",
    )
    pq.write_table(
        pa.table({"user_id": USERS, "score": np.ones(len(USERS))}), workspace.root / "churn.parquet"
    )
    (workspace.embeddings / ".user.parquet.torn").write_bytes(exported.read_bytes())
    page = workspace.data_quality / "index.html"
    page.write_text(page.read_text() + f"<pre>{PERSON}</pre>")
    log = [f"WARN task failed for {user}\n" for user in USERS]
    (workspace.logs / "spark.log").parent.mkdir(exist_ok=True)
    (workspace.logs / "spark.log").write_text("".join(log))
    add_live_events(workspace)
    return workspace


def write_embeddings(path: Path, ids: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pa.array([[0.5, 1.5]] * len(ids), type=pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": list(ids), "embedding": values}), path)


def add_live_events(workspace: Workspace) -> None:
    with closing(LiveEvents(workspace.live_events_path)) as events:
        for user in USERS:
            event = {"event_id": f"{user}/live", "user_id": user, "event_time": to_micros(AS_OF)}
            events.add([{**event, "event_type": "purchase"}])


@pytest.fixture
def workspace(filled: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the filled workspace."""
    shutil.copytree(filled.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


def rows_without(workspace: Workspace, user: str) -> dict[str, list[str]]:
    """All rows of everybody else, place by place."""
    names = ("events", "token_sequences", "labels", "catalogue", "quarantine")
    rows = {name: lake.read(workspace, name).to_pylist() for name in names}
    exports = ("embeddings/user.parquet", "churn.parquet")
    offline = (workspace.features / "offline").glob("*.parquet")
    for path in [*offline, *(workspace.root / name for name in exports)]:
        rows[path.name] = pq.read_table(path).to_pylist()
    return {
        name: sorted(repr(row) for row in table if not is_of(row, user))
        for name, table in rows.items()
    }


def is_of(row: dict[str, Any], user: str) -> bool:
    if "raw_row" in row:
        raw = json.loads(row["raw_row"])
        return raw["customer"] == user or f'"{user}"' in (raw["_malformed_row"] or "")
    return user in (row.get("user_id"), row.get("id"))


def test_no_byte_is_left_and_nobody_else_loses_a_row(
    workspace: Workspace, company: Path, spark: SparkSession
) -> None:
    found = {Path(name).parts[0] for name in traces(workspace.root, PERSON)}
    assert found == {
        *("lake", "features", "embeddings", "churn.parquet", "live_events.db", "logs", "reports")
    }
    expected = rows_without(workspace, PERSON)
    command = ["erase", "--user", PERSON, "--workspace", str(workspace.root)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert PERSON not in result.output
    for place in ("lake/events", "lake/quarantine", "features/online", "live_events.db", "logs"):
        assert place in result.output
    assert traces(workspace.root, PERSON) == []
    assert rows_without(workspace, PERSON) == rows_without(workspace, "nobody") == expected

    # Spark reads what delta-rs wrote, and the sources do not bring the person back.
    assert run(workspace, company) == [False, True]
    assert traces(workspace.root, PERSON) == []
    assert rows_without(workspace, "nobody") == expected
    events = spark.read.format("delta").load(str(workspace.table("events")))
    assert events.count() == len(expected["events"]) > 0


@pytest.mark.parametrize("user", ["12", "o'brien"])
def test_an_id_is_never_taken_for_a_part_of_another(workspace: Workspace, user: str) -> None:
    expected = rows_without(workspace, user)
    removed = erase(workspace, user).removed
    assert removed["lake/events"] > 0
    assert removed["lake/quarantine"] == 0
    assert rows_without(workspace, "nobody") == expected


def test_an_erasure_after_grace_that_is_killed_everywhere_finishes(
    workspace: Workspace, company: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = asdict(CountingPredictor.make().manifest)
    write_json_atomically(workspace.bundle / "manifest.json", manifest)
    asked = erase(workspace, PERSON, grace_days=7, now=NOW)
    assert asked.erased is None
    assert is_suppressed(workspace, PERSON)
    assert traces(workspace.root, PERSON)
    assert PERSON not in (workspace.root / PENDING_FILE).read_text()
    assert erase_due(workspace, now=NOW + timedelta(days=6)) == []

    due = NOW + timedelta(days=7)
    expected = kill_everywhere_once(monkeypatch)
    kills = []
    while pending(workspace):
        try:
            erase_due(workspace, now=due)
        except KilledError as error:
            kills.append(str(error))
    assert sorted(kills) == sorted(expected)
    assert traces(workspace.root, PERSON) == []
    audit = (workspace.reports / AUDIT_FILE).read_text()
    records = [json.loads(line) for line in audit.splitlines()]
    assert [record["request_id"] for record in records] == [asked.request_id]
    assert records[0]["trained_with"] == [manifest["model_version"]]
    assert records[0]["erased"] == due.isoformat()
    assert user_hash(PERSON) not in json.dumps(records)
    settings = RunSettings(company_path=company, as_of=AS_OF, window_days=7)
    context = StageContext(workspace, settings)
    assert standings(ROOMS, context, {})["tokenize"].inputs is not None


def test_events_beyond_their_age_leave_with_all_that_was_made_of_them(
    workspace: Workspace, company: Path
) -> None:
    oldest = datetime(2024, 1, 20, tzinfo=UTC)
    lasting = company.with_name("lasting.yaml")
    lasting.write_text(company.read_text() + "retention_days: 20\n")
    kept = sum(row["event_time"] >= oldest for row in lake.read(workspace, "events").to_pylist())
    now = datetime(2024, 2, 9, 12, tzinfo=UTC)
    assert run(workspace, lasting, now) == [False, False]
    events = lake.read(workspace, "events").to_pylist()
    assert 0 < len(events) == kept
    assert min(row["event_time"] for row in events) >= oldest
    sequences = lake.read(workspace, "token_sequences").column("times_us").to_pylist()
    assert sum(map(len, sequences)) == kept
    for name in ("events", "token_sequences", "labels"):
        files = {path.name for path in workspace.table(name).glob("*.parquet")}
        assert files == {Path(uri).name for uri in lake.open_table(workspace, name).file_uris()}
    assert run(workspace, lasting, now + timedelta(hours=11)) == [True, True]


class KilledError(Exception):
    pass


def kill_everywhere_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kill after the work of every place, before a table forgets its past, after a marker and after
    the record; gives the names of all kills."""
    places = {name: killed(name, work, after=True) for name, work in PLACES.items()}
    monkeypatch.setattr("serving.erasure.PLACES", places)
    functions = (
        (lake_erasure, "forget_past", False),
        (markers, "write_marker", True),
        (erasure_requests, "write_bytes_atomically", True),
    )
    for module, name, after in functions:
        monkeypatch.setattr(module, name, killed(name, getattr(module, name), after=after))
    return [*places, *(name for _, name, _ in functions)]


def killed(name: str, work: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """The same work, but it dies once, after or before it."""
    ahead = [KilledError(name)]

    def call(*given: Any) -> Any:
        if ahead and not after:
            raise ahead.pop()
        result = work(*given)
        if ahead:
            raise ahead.pop()
        return result

    return call
