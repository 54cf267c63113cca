"""The whole line on 25 households, from raw tables to answers, through the console command.

Its one workspace was killed in the first minute and run again, so that each test also judges what a
kill left behind.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from nbclient import NotebookClient
from starlette.testclient import TestClient

from behavior_model.bundle import read_manifest
from behavior_model.scoring import score
from behavior_model.session import Session
from feature_store.erasure import published_users
from feature_store.offline import historical_features
from feature_store.online import online_state
from feature_store.settings import Shelf
from pipelines.errors import UserError
from pipelines.flow.markers import standings
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import RunSettings, Stage, StageContext, file_stamp, run_stages
from pipelines.workspace import Workspace
from serving.app import create_app
from serving.erasure_places import known_users
from serving.line import line
from serving.refresh import refresh
from serving.settings import ServingSettings
from tests.complete_journey_cut import write_cut

AS_OF = "2017-10-01T00:00:00Z"
NUM_HOUSEHOLDS = 25
ONE_PRODUCT_IN = 3
"""Making embeddings of texts would take most of the time."""
TABLES = ("events", "catalogue", "profiles", "quarantine", "token_sequences", "labels")
RUN_TIMEOUT_S = 900
QUESTION = """
from behavior_model.tasks import Doubles, Futures, Past, TaskKind, user_task


@user_task("spends_more", kind=TaskKind.BINARY)
def spends_more(past: Past, future: Futures) -> Doubles:
    return (future.amounts > past.amounts()).astype(float)
"""
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "start_here.ipynb"

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1_800)]


def bfm(*arguments: str | Path, timeout_s: float = RUN_TIMEOUT_S) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "serving.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def versions(workspace: Path) -> dict[str, tuple[int, int]]:
    tables = {name: DeltaTable(str(workspace / "lake" / name)) for name in TABLES}
    return {name: (table.version(), table.count()) for name, table in tables.items()}


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_cut(tmp_path_factory.mktemp("cut"), NUM_HOUSEHOLDS, ONE_PRODUCT_IN)
    path.with_name("questions.py").write_text(QUESTION, encoding="utf-8")
    path.write_text(f"tasks: questions.py\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def workspace(company: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace, whose first run was killed at a moment of chance."""
    path = tmp_path_factory.mktemp("workspace")
    command = [sys.executable, "-m", "serving.cli.main", "run", "--company", str(company)]
    command += ["--workspace", str(path), "--size", "tiny", "--as-of", AS_OF]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    delay_s = random.uniform(5, 60)
    time.sleep(delay_s)
    assert process.poll() is None, "the first run ended before it was killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = bfm("run", "--company", company, "--workspace", path, "--as-of", AS_OF)
    assert done.returncode == 0, f"killed after {delay_s:.1f} s: {done.stdout}{done.stderr}"
    return path


def test_every_input_row_is_accounted_for(workspace: Path) -> None:
    quarantined = DeltaTable(str(workspace / "lake" / "quarantine")).to_pyarrow_table()
    events = DeltaTable(str(workspace / "lake" / "events")).count()
    assert events + quarantined.num_rows == 4_783 + 15 + 65
    assert quarantined.num_rows > 0


def test_a_second_run_changes_no_table_and_is_quick(workspace: Path, company: Path) -> None:
    before = versions(workspace)
    begun = time.monotonic()
    done = bfm("run", "--company", company, "--workspace", workspace, "--as-of", AS_OF)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 60
    assert versions(workspace) == before


def test_evaluation_stands_beside_baselines(workspace: Path) -> None:
    content = json.loads((workspace / "reports" / "evaluation.json").read_text())
    assert content["schema_version"] == 1
    by_task = {result["task"]: result for result in content["results"]}
    assert set(by_task) >= {
        "recommendation",
        "category_recommendation",
        "churn",
        "spends_more",
        "search",
        "tagging",
    }
    for result in content["results"]:
        assert result["baselines"], result["task"]
        assert result["interval"][0] <= result["interval"][1]
    assert {"popularity", "als"} <= set(by_task["recommendation"]["baselines"])
    table = Session(workspace).evaluation
    assert len(table) == len(content["results"])
    ranked = table[table.metric.str.startswith(("ndcg", "recall"))]
    assert ranked["gain"].between(ranked["gain low"], ranked["gain high"]).all()


def test_scores_cover_every_user_with_any_history(workspace: Path, tmp_path: Path) -> None:
    users = set(
        DeltaTable(str(workspace / "lake" / "labels"))
        .to_pyarrow_table(filters=[("prediction_time", "=", np.datetime64("2017-10-01").item())])
        .column("user_id")
        .to_pylist()
    )
    out = tmp_path / "recommendation.parquet"
    done = bfm("score", "recommendation", "--workspace", workspace, "--out", out, "--as-of", AS_OF)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(out).to_pandas()
    assert list(table.columns) == ["user_id", "item_id", "rank", "score"]
    assert set(table.user_id) == users
    assert (
        table.groupby("user_id")["rank"].apply(list).map(lambda r: r == list(range(1, 11)))
    ).all()


def test_embeddings_are_exported(workspace: Path, tmp_path: Path) -> None:
    out = tmp_path / "user.parquet"
    done = bfm("export", "--entity", "user", "--workspace", workspace, "--out", out)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(out)
    assert table.column_names == ["id", "embedding"]
    matrix = np.stack(table.column("embedding").to_pylist())
    assert np.isfinite(matrix).all()
    assert matrix.std(axis=0).max() > 0


@pytest.mark.usefixtures("spark")
def test_a_killed_run_goes_on_to_the_tables_of_an_undisturbed_one(
    company: Path, workspace: Path, tmp_path: Path
) -> None:
    settings = RunSettings(company_path=company, as_of=datetime.fromisoformat(AS_OF))
    run_stages(ROOMS, StageContext(Workspace(tmp_path), settings, say=lambda line: None))
    for name in TABLES:
        assert content(tmp_path, name) == content(workspace, name), name


def content(workspace: Path, name: str) -> list[str]:
    table = DeltaTable(str(workspace / "lake" / name)).to_pyarrow_table()
    return sorted(json.dumps(row, default=str, sort_keys=True) for row in table.to_pylist())


def test_the_notebook_runs_on_the_workspace(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BFM_WORKSPACE", str(workspace))
    # The tests' own choice of backend draws nothing into a notebook.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    images = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(images) == 3


def test_an_erased_household_is_gone_and_nothing_is_trained_again(workspace: Path) -> None:
    place = Workspace(workspace)
    households = [row.get("household_id") for row in raw_rows(workspace)]
    household = str(next(one for one in households if one is not None))
    context = StageContext(place, RunSettings.load(place))
    done = bfm("erase", "--user", household, "--workspace", workspace)
    assert done.returncode == 0, done.stdout + done.stderr
    assert household not in {str(row.get("household_id")) for row in raw_rows(workspace)}
    assert household not in set(known_users(place))
    undone = {stage.name for stage in line() if not standing_of(stage, context)}
    assert undone == {"ingest"}, "intake alone runs again: who is left out is one of its inputs"


def raw_rows(workspace: Path) -> list[dict[str, Any]]:
    rows = DeltaTable(str(workspace / "lake" / "quarantine")).to_pyarrow_table().to_pylist()
    return [json.loads(row["raw_row"]) for row in rows]


def standing_of(stage: Stage, context: StageContext) -> bool:
    found = standings([stage], context, {})
    return stage.name in found and found[stage.name].inputs is not None


@pytest.mark.usefixtures("spark")
def test_a_new_day_reaches_the_shelf_without_a_training(workspace: Path, company: Path) -> None:
    """After an erasure, with a product that the model does not know."""
    place = Workspace(workspace)
    trained = file_stamp(place.checkpoints, place.embeddings)
    lineage = read_manifest(place.bundle).model_version
    first = refresh(place, say=lambda line: None)
    assert first.num_embedded == first.num_users == NUM_HOUSEHOLDS - 1
    assert first.as_of_us == np.datetime64("2017-12-31T23:36:24.000001").astype(int)
    before = states(place)

    buyer = add_purchase(company, np.datetime64("2018-01-02T12:00:00"))
    second = refresh(place, say=lambda line: None)
    assert (second.num_embedded, second.num_users) == (1, NUM_HOUSEHOLDS - 1)
    assert (second.num_removed, second.num_new_items) == (0, 1)
    assert first.is_renewed
    assert second.is_renewed
    after = states(place)
    assert {user for user in after if after[user] != before[user]} == {buyer}
    assert after.keys() == before.keys() == set(Session(workspace).users)
    assert after[buyer].as_of_us == second.as_of_us > first.as_of_us
    assert after[buyer].num_events == before[buyer].num_events + 1

    with TestClient(create_app(ServingSettings(workspace=workspace))) as client:
        told = client.get("/v1/model").json()
        assert told["as_of"].startswith("2017-10-01T00:00:00")
        assert told["shelf_as_of"].startswith("2018-01-02T12:00:00")
        assert told["model_version"] == second.model_version
        assert told["trained_version"] == lineage
        assert told["memories_as_of"] == told["shelf_as_of"]
        found = client.post("/v1/search", json={"query": "quince marmalade", "k": 3}).json()
        assert found["items"][0]["item_id"] == "7", "a product that came after the training"
        own = client.post("/v1/predictions/spends_more", json={"user_id": buyer}).json()
        assert 0 < own["score"] < 1, "a question of the company's own"
        answers = {
            user: client.post("/v1/predictions/churn", json={"user_id": user}).json()
            for user in after
        }
    scored = score_churn(place, second.as_of_us)
    assert {user: answer["score"] for user, answer in answers.items()} == pytest.approx(
        scored, abs=1e-6
    ), "the quiet ones, too, are judged at the time of the refresh"

    third = refresh(place, say=lambda line: None)
    assert (third.num_embedded, third.is_renewed) == (0, False)
    assert states(place) == after
    assert file_stamp(place.checkpoints, place.embeddings) == trained
    assert read_manifest(place.bundle).model_version == second.model_version
    shown = historical_features(
        Shelf(place),
        pa.table({"item_id": ["7"], "event_timestamp": [pd.Timestamp("2018-02-01", tz="UTC")]}),
        ["item_embedding:model_version"],
    )
    assert shown.column("model_version").to_pylist() == [lineage]
    context = StageContext(place, RunSettings.load(place))
    undone = {stage.name for stage in line() if not standing_of(stage, context)}
    assert undone == {"tokenize", "publish"}, "a new product, and sequences of a new day"
    with pytest.raises(UserError, match="know what happened up to 2018-01-02T12:00:00"):
        refresh(place, as_of=datetime.fromisoformat("2017-12-01T00:00:00Z"), say=lambda line: None)


@dataclass(frozen=True)
class Known:
    as_of_us: int
    num_events: int


def states(workspace: Workspace) -> dict[str, Known]:
    """What the shelf's newest rows say of every user, online."""
    shelf = Shelf(workspace)
    users = sorted(published_users(shelf))
    found = {user: online_state(shelf, user) for user in users}
    return {
        user: Known(state.as_of_us, state.histories.num_events)
        for user, state in found.items()
        if state is not None
    }


def add_purchase(company: Path, time: np.datetime64) -> str:
    """One household buys a new product; gives the household."""
    products = pq.read_table(company.with_name("products.parquet"))
    fresh = {**products.slice(0, 1).to_pylist()[0], "product_id": 7}
    fresh["product_type"] = "QUINCE MARMALADE"
    grow(company.with_name("products.parquet"), fresh)
    path = company.with_name("transactions.parquet")
    row = pq.read_table(path).slice(0, 1).to_pylist()[0]
    bought = {"transaction_timestamp": time.item(), "basket_id": 1, "product_id": 7}
    household = pq.read_table(path).column("household_id").to_pylist()[-1]
    grow(path, {**row, **bought, "household_id": household})
    return str(household)


def grow(path: Path, row: dict[str, Any]) -> None:
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, pa.Table.from_pylist([row], table.schema)]), path)


def score_churn(workspace: Workspace, as_of_us: int) -> dict[str, float]:
    out = workspace.root / "churn.parquet"
    score(workspace, "churn", out, as_of_us=as_of_us)
    churn = pq.read_table(out).to_pandas()
    out.unlink()
    assert list(churn.columns) == ["user_id", "score", "lower", "upper"]
    assert churn.score.between(churn.lower, churn.upper).all()
    assert churn.lower.ge(0).all()
    assert churn.upper.le(1).all()
    return dict(zip(churn.user_id, churn.score, strict=True))
