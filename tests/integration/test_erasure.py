"""A person leaves a workspace: no byte is left, nobody else's row is touched, nothing is retrained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from feature_store.publish import publish
from feature_store.settings import Shelf
from pipelines import lake
from pipelines.flow.erasure_requests import pending
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import RunSettings, StageContext, run_stages
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace
from serving import erasure, erasure_places
from serving.cli.main import app
from serving.erasure import erase, erase_due
from serving.live_events import LiveEvents
from serving.line import micros
from tests.tiny_company import Rows, catalogue_table, events_table, orders, products, write_company
from tests.traces import traces

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

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


def run(workspace: Workspace, company: Path) -> list[bool]:
    """Run rooms 1 to 4; which of them had nothing to do."""
    settings = RunSettings(company_path=company, as_of=AS_OF, window_days=7)
    settings.save(workspace)
    context = StageContext(workspace, settings, say=lambda line: None)
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
        as_of_us=micros(AS_OF),
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
            event = {"event_id": f"{user}/live", "user_id": user, "event_time": micros(AS_OF)}
            events.add([{**event, "event_type": "purchase"}])


@pytest.fixture
def workspace(filled: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A copy of the filled workspace, which hides the person nowhere."""
    shutil.copytree(filled.root, tmp_path / "copy")
    yield Workspace(tmp_path / "copy")


def others(workspace: Workspace) -> dict[str, Any]:
    """All rows of everybody else, place by place."""
    rows = {
        name: lake.read(workspace, name).to_pylist()
        for name in ("events", "token_sequences", "labels", "catalogue", "quarantine")
    }
    for path in sorted((workspace.features / "offline").glob("*.parquet")):
        rows[path.name] = pq.read_table(path).to_pylist()
    for name in ("embeddings/user.parquet", "embeddings/item.parquet", "churn.parquet"):
        rows[name] = pq.read_table(workspace.root / name).to_pylist()
    return {
        name: sorted(text for row in table if not is_persons(text := repr(row)))
        for name, table in rows.items()
    }


def is_persons(row: str) -> bool:
    return f"'{PERSON}'" in row or f'"{PERSON}' in row


def test_no_byte_is_left_and_nobody_else_loses_a_row(
    workspace: Workspace, company: Path, spark: SparkSession
) -> None:
    found = {Path(name).parts[0] for name in traces(workspace.root, PERSON)}
    assert found == {
        "lake",
        "features",
        "embeddings",
        "churn.parquet",
        "live_events.db",
        "logs",
        "reports",
    }
    before = others(workspace)
    result = CliRunner().invoke(
        app, ["erase", "--user", PERSON, "--workspace", str(workspace.root)]
    )
    assert result.exit_code == 0, result.output
    assert PERSON not in result.output
    assert traces(workspace.root, PERSON) == []
    assert others(workspace) == before

    # Spark reads what delta-rs wrote, and the sources do not bring the person back.
    assert run(workspace, company) == [False, True]
    assert others(workspace) == before
    assert traces(workspace.root, PERSON) == []
    events = spark.read.format("delta").load(str(workspace.table("events")))
    assert events.count() == lake.read(workspace, "events").num_rows == 140 * 5 // 6
