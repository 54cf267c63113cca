"""One real bundle behind both counters: the HTTP answer and the batch row are the same."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import yaml
from deltalake import write_deltalake
from starlette.testclient import TestClient
from typer.testing import CliRunner

from behavior_model import scoring
from behavior_model.audit import profiles
from behavior_model.audit.report import audit
from behavior_model.context import ModelContext
from behavior_model.core import Core
from behavior_model.predictor import Predictor
from behavior_model.scoring import embed, export, score
from behavior_model.session import Session
from behavior_model.training.ray_session import ray_session
from behavior_model.training.worker import Rank, run_worker
from feature_store.published import Published
from pipelines import lake
from pipelines.clock import from_micros
from pipelines.erasure import suppress, suppressed_digests, suppression_path, user_hash
from pipelines.errors import (
    BundleError,
    EnvironmentProblemError,
    UnknownNameError,
    UserError,
    WorkspaceError,
)
from pipelines.flow.runner import RunSettings
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace
from serving.app import create_app, require_free_port, running, serve
from serving.cli.demo import _print_requests, tour
from serving.cli.main import app
from serving.erasure import erase, erase_due
from serving.live_events import LiveEvents
from serving.refresh import refresh
from serving.settings import ServingSettings
from tests import small_shop
from tests.rhythm_bundle import AS_OF_US
from tests.rhythm_shop import (
    shop_job,
    shop_recipe,
    shop_shards,
    shop_vocabulary,
    shop_workspace,
)
from tests.traces import traces

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ERASED = "user-005"
RENEWED = "user-000"
RANKERS = {"recommendation": "item", "category_recommendation": "category"}


@pytest.fixture(scope="module")
def shop(rhythm_shop: Workspace) -> Workspace:
    return rhythm_shop


@pytest.fixture(scope="module")
def predictor(shop: Workspace) -> Predictor:
    return Predictor.load(shop.bundle)


@pytest.fixture
def client(shop: Workspace, predictor: Predictor) -> Iterator[TestClient]:
    with TestClient(create_app(ServingSettings(workspace=shop.root), predictor)) as running_app:
        yield running_app
    for path in shop.root.glob(f"{shop.live_events_path.name}*"):
        path.unlink()


@pytest.fixture(scope="module")
def batches(shop: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """Every batch output: three from one Ray session, as of a large shop, the others from here."""
    folder = tmp_path_factory.mktemp("batches")
    shop.state.mkdir(exist_ok=True)
    with ray_session(3), pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "MAX_ROWS_HERE", 0)
        score(shop, "recommendation", folder / "recommendation", k=5)
        export(shop, "item", folder / "item")
        suppress(shop, user_hash(ERASED))
        with renewed(shop):
            export(shop, "user", folder / "renewed")
        suppression_path(shop).unlink()
    for task in ("category_recommendation", "category_propensity", "tagging"):
        score(shop, task, folder / task, k=5)
    score(shop, "recommendation", folder / "later", k=5, as_of_us=AS_OF_US + 7 * DAY_US)
    for name, command in (("churn", ["score", "churn"]), ("user", ["export", "--entity=user"])):
        place = ["--workspace", str(shop.root), "--out", str(folder / name)]
        done = CliRunner().invoke(app, [*command, *place])
        assert done.exit_code == 0, done.output
    return {path.name: pq.read_table(path) for path in folder.iterdir()}


@contextlib.contextmanager
def renewed(shop: Workspace) -> Iterator[None]:
    """Meanwhile the newest row of RENEWED, the first user, holds the history of the second."""
    table = lake.open_table(shop, "token_sequences")
    before = table.version()
    first, second = lake.read(shop, "token_sequences").sort_by("user_id").to_pylist()[:2]
    row = {**second, "user_id": first["user_id"], "generation": before + 1}
    schema = pa.schema(table.schema().to_arrow()).append(pa.field("generation", pa.int64()))
    rows = pa.Table.from_pylist([row], schema)
    write_deltalake(table, rows, mode="append", schema_mode="merge")
    yield
    lake.open_table(shop, "token_sequences").restore(before)


@pytest.fixture(scope="module")
def stored(shop: Workspace, predictor: Predictor) -> Histories:
    return lake.read_histories(shop, predictor.vocabulary, AS_OF_US)


def rows_of(table: pa.Table, user: str) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["user_id"] == user]


def test_users_are_embedded_here_as_on_ray(shop: Workspace, batches: dict[str, pa.Table]) -> None:
    on_ray = dict(zip(*batches["renewed"].to_pydict().values(), strict=True))
    here = dict(zip(*batches["user"].to_pydict().values(), strict=True))
    assert here.keys() - on_ray.keys() == {ERASED}
    for user in on_ray.keys() - {RENEWED}:
        assert here[user] == pytest.approx(on_ray[user], abs=1e-5)
    suppress(shop, user_hash(ERASED))
    some = embed(shop, AS_OF_US, [ERASED, "user-001", "user-002", "nobody"])
    suppression_path(shop).unlink()
    assert some.column("id").to_pylist() == ["user-001", "user-002"]
    assert some.column("embedding")[0].as_py() == pytest.approx(here["user-001"], abs=1e-5)


def test_a_training_that_begins_with_a_model_has_less_to_learn(
    shop: Workspace, predictor: Predictor, tmp_path: Path
) -> None:
    core = (str(shop.root), predictor.manifest.model_version)
    assert Core.open(shop.root).model_version == core[1]
    first: dict[str, float] = {}
    for name, begun in (("afresh", None), ("with a core", core)):
        workspace = shop_workspace(Workspace(tmp_path / name))
        job = replace(shop_job(workspace.root, shop_recipe(epochs=1)), core=begun)
        run_worker(job, shop_vocabulary(), shop_shards(24, 1), Rank())
        first[name] = json.loads(job.log_path.read_text().splitlines()[0])["loss"]
        assert (workspace.checkpoints / "backbone" / "backbone.safetensors").is_file()
    assert first["with a core"] < 0.95 * first["afresh"]


@pytest.mark.parametrize(("task", "level"), RANKERS.items())
def test_recommendations_over_http_equal_the_batch(
    client: TestClient, batches: dict[str, pa.Table], stored: Histories, task: str, level: str
) -> None:
    table = batches[task]
    assert table.column_names == ["user_id", "item_id", "rank", "score"]
    assert sorted(set(table.column("user_id").to_pylist())) == sorted(stored.user_ids)
    for user in stored.user_ids:
        body = {"user_id": user, "k": 5, "level": level}
        answer = client.post("/v1/recommendations", json=body).json()
        batch = rows_of(table, user)
        assert [row["rank"] for row in batch] == list(range(1, len(batch) + 1))
        assert [item["score"] for item in answer["items"]] == pytest.approx(
            [row["score"] for row in batch], abs=1e-5
        )
        assert [i["item_id"] for i in answer["items"]] == [row["item_id"] for row in batch]


def test_predictions_over_http_equal_the_batch(
    client: TestClient, batches: dict[str, pa.Table], stored: Histories
) -> None:
    table = batches["churn"]
    assert table.column_names == ["user_id", "score", "lower", "upper"]
    assert sorted(table.column("user_id").to_pylist()) == sorted(stored.user_ids)
    for row in table.to_pylist():
        answer = client.post("/v1/predictions/churn", json={"user_id": row["user_id"]}).json()
        for name in ("score", "lower", "upper"):
            assert answer[name] == pytest.approx(row[name], abs=1e-5)
        assert 0 <= row["lower"] <= row["score"] <= row["upper"] <= 1


def test_propensities_of_a_batch_are_those_of_the_predictor(
    batches: dict[str, pa.Table], stored: Histories, predictor: Predictor
) -> None:
    table = batches["category_propensity"]
    assert table.column_names == ["user_id", "item_id", "score", "lower", "upper"]
    found = predictor.propensities(stored, np.full(len(stored), AS_OF_US))
    order = np.argsort(found.categories)
    assert table.column("user_id").to_pylist() == sorted(stored.user_ids * len(order))
    for place, user in enumerate(stored.user_ids):
        rows = rows_of(table, user)
        assert [row["item_id"] for row in rows] == [found.categories[i] for i in order]
        for name in ("score", "lower", "upper"):
            values = getattr(found, f"{name}s")[place, order]
            assert [row[name] for row in rows] == pytest.approx(list(values), abs=1e-5)


def test_propensities_over_http_equal_the_batch(
    client: TestClient, batches: dict[str, pa.Table], stored: Histories
) -> None:
    user = stored.user_ids[0]
    answer = client.post("/v1/propensities", json={"user_id": user}).json()
    scores = [one["score"] for one in answer["categories"]]
    assert scores == sorted(scores, reverse=True)
    batch = {row["item_id"]: row for row in rows_of(batches["category_propensity"], user)}
    assert {one["category"] for one in answer["categories"]} == batch.keys()
    for one in answer["categories"]:
        for name in ("score", "lower", "upper"):
            assert one[name] == pytest.approx(batch[one["category"]][name], abs=1e-5)
    nobody = client.post("/v1/propensities", json={"user_id": "nobody"}).json()
    assert nobody["fallback"]
    assert len(nobody["categories"]) == len(batch)
    assert all(
        0 <= one["lower"] <= one["score"] <= one["upper"] <= 1 for one in nobody["categories"]
    )


def test_events_of_a_request_equal_a_later_batch(
    client: TestClient, batches: dict[str, pa.Table], shop: Workspace, predictor: Predictor
) -> None:
    """What a client sends with the request counts like what the batch reads from the lake."""
    later_us = AS_OF_US + 7 * DAY_US
    user = "user-000"
    history = lake.read_histories(shop, predictor.vocabulary, later_us, [user])
    fresh = np.flatnonzero(history.times_us >= AS_OF_US)
    assert len(fresh)
    events = [
        {
            "event_id": f"sent-{i}",
            "user_id": user,
            "event_time": from_micros(int(history.times_us[i])).isoformat(),
            "event_type": "purchase",
            "item_id": predictor.vocabulary.items[history.tokens["item"][i] - 3],
            "amount": float(history.amounts[i]),
        }
        for i in fresh
    ]
    body = {"user_id": user, "k": 5, "as_of": from_micros(later_us).isoformat()}
    answer = client.post("/v1/recommendations", json={**body, "events": events}).json()
    assert answer["num_events"] == history.num_events
    expected = [row["score"] for row in rows_of(batches["later"], user)]
    assert [item["score"] for item in answer["items"]] == pytest.approx(expected, abs=1e-5)
    without = client.post("/v1/recommendations", json=body).json()
    assert [item["score"] for item in without["items"]] != pytest.approx(expected, abs=1e-5)


def test_embeddings_over_http_equal_the_export(
    client: TestClient, batches: dict[str, pa.Table], stored: Histories
) -> None:
    for entity, ids in (("user", stored.user_ids[:5]), ("item", ["item-00", "item-39"])):
        table = batches[entity]
        assert table.column_names == ["id", "embedding"]
        exported = dict(zip(*table.to_pydict().values(), strict=True))
        answer = client.post("/v1/embeddings", json={"entity": entity, "ids": ids}).json()
        for one in answer["embeddings"]:
            assert one["embedding"] == pytest.approx(exported[one["id"]], abs=1e-5)


def test_the_newest_row_of_a_user_is_embedded_alone(batches: dict[str, pa.Table]) -> None:
    first, second = (batches["user"].column("embedding")[k].as_py() for k in (0, 1))
    assert batches["renewed"].column("id")[0].as_py() == RENEWED
    newest = batches["renewed"].column("embedding")[0].as_py()
    assert newest == pytest.approx(second, abs=1e-5)
    assert newest != pytest.approx(first, abs=1e-3)


def test_exports_equal_what_the_line_wrote(shop: Workspace, batches: dict[str, pa.Table]) -> None:
    for entity in ("user", "item"):
        written = pq.read_table(shop.embeddings / f"{entity}.parquet").sort_by("id")
        assert written.column("id").equals(batches[entity].column("id"))
        ours, theirs = (
            np.stack(table.column("embedding").to_pylist()) for table in (written, batches[entity])
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_tags_over_http_equal_the_batch(client: TestClient, batches: dict[str, pa.Table]) -> None:
    table = batches["tagging"]
    assert table.column_names == ["item_id", "tag", "rank", "score"]
    answer = client.post("/v1/tags", json={"item_id": "item-03", "k": 5}).json()
    expected = [row for row in table.to_pylist() if row["item_id"] == "item-03"]
    assert expected
    assert [one["tag"] for one in answer["tags"]] == [row["tag"] for row in expected]


def test_no_answer_depends_on_who_else_is_asked_about(
    predictor: Predictor, stored: Histories
) -> None:
    times = np.full(len(stored), AS_OF_US, dtype=np.int64)
    together = predictor.predict("churn", stored, times).scores
    ranked = predictor.recommend(stored, times, 5)
    for user in range(0, len(stored), 5):
        alone = stored.select([user])
        assert predictor.predict("churn", alone, times[:1]).scores[0] == pytest.approx(
            together[user], abs=1e-5
        )
        one = predictor.recommend(alone, times[:1], 5)
        assert one.scores[0] == pytest.approx(ranked.scores[user], abs=1e-5)


def test_a_live_event_changes_the_next_answer(client: TestClient, stored: Histories) -> None:
    user = stored.user_ids[0]
    body = {"user_id": user, "k": 40}
    before = client.post("/v1/recommendations", json=body).json()
    last = before["items"][-1]
    event = {
        "event_id": "live-1",
        "user_id": user,
        "event_time": from_micros(AS_OF_US + DAY_US).isoformat(),
        "event_type": "purchase",
        "item_id": last["item_id"],
        "amount": 3.0,
        "note": "by hand",
    }
    assert client.post("/v1/events", json={"events": [event]}).json()["stored"] == 1
    after = client.post("/v1/recommendations", json=body).json()
    assert after["num_events"] == before["num_events"] + 1

    (bought,) = [item for item in after["items"] if item["item_id"] == last["item_id"]]
    assert abs(bought["score"] - last["score"]) > 1e-3


def test_a_user_without_history_gets_what_is_popular(client: TestClient) -> None:
    answers = [
        client.post("/v1/recommendations", json={"user_id": user, "k": 5}).json()
        for user in ("nobody", "nobody-else")
    ]
    assert all(answer["fallback"] for answer in answers)
    assert answers[0]["items"] == answers[1]["items"]
    assert len(answers[0]["items"]) == 5
    churn = client.post("/v1/predictions/churn", json={"user_id": "nobody"}).json()
    assert churn["fallback"]
    assert churn["out_of_distribution"]
    assert 0 <= churn["lower"] <= churn["upper"] <= 1


@pytest.mark.parametrize("by", ["behavior", "content"])
def test_similar_items_leave_the_item_out(client: TestClient, by: str) -> None:
    body = {"item_id": "item-04", "by": by, "k": 5}
    items = client.post("/v1/similar-items", json=body).json()["items"]
    assert len(items) == 5
    assert "item-04" not in [item["item_id"] for item in items]
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)
    text = {"text": "bread number 1", "by": by, "k": 1}
    assert client.post("/v1/similar-items", json=text).json()["items"][0]["category"] == "bread"


def test_every_request_that_the_demo_shows_is_answered(client: TestClient) -> None:
    for method, path, body in tour("user-001", "item-04"):
        answer = client.request(method, path, json=body)
        assert answer.status_code == 200, (method, path, answer.text)


def test_the_demo_leaves_the_shop_as_it_was(
    shop: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = suppressed_digests(shop)
    _print_requests(shop)
    assert "POST /v1/events" in capsys.readouterr().out
    assert suppressed_digests(shop) == before
    with contextlib.closing(LiveEvents(shop.live_events_path)) as events:
        assert list(events.users()) == []


def test_search_finds_by_words(client: TestClient) -> None:
    items = client.post("/v1/search", json={"query": "soap", "k": 5}).json()["items"]
    assert {item["category"] for item in items} == {"soap"}
    personal = client.post("/v1/search", json={"query": "soap", "user_id": "user-001"}).json()
    assert personal["personalised"]


def test_what_is_excluded_was_bought(client: TestClient, stored: Histories) -> None:
    user = stored.select([0])
    owned = {f"item-{i - 3:02d}" for i in user.tokens["item"].tolist()}
    body = {"user_id": user.user_ids[0], "k": 30, "exclude_owned": True}
    items = client.post("/v1/recommendations", json=body).json()["items"]
    assert items
    assert not owned & {item["item_id"] for item in items}


def test_a_changed_byte_stops_the_server_before_it_listens(shop: Workspace, tmp_path: Path) -> None:
    weights = shop.bundle / "backbone" / "backbone.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        for start in (
            lambda: serve(shop, port=8_765),
            lambda: running(shop).__enter__(),
            lambda: score(shop, "churn", tmp_path / "out.parquet"),
        ):
            with pytest.raises(BundleError, match=r"backbone\.safetensors"):
                start()
    finally:
        weights.write_bytes(content)
    assert not (tmp_path / "out.parquet").exists()


def test_a_taken_port_is_named_with_the_way_out(shop: Workspace) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblemError, match=f"{port}.*--port"):
            serve(shop, port=port)
    require_free_port("127.0.0.1", port)


def test_an_unpublished_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="bfm publish"):
        serve(Workspace(tmp_path), port=8_765)


def test_a_lost_online_store_stops_the_server_before_it_starts(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    small_shop.put_on_shelf(workspace)
    for path in workspace.features.glob("online.db*"):
        path.unlink()
    with pytest.raises(WorkspaceError, match="bfm publish --again"):
        serve(workspace, port=8_765)


def test_a_shelf_of_another_bundle_is_not_refreshed(shop: Workspace) -> None:
    published = Published.load(shop)
    assert published is not None
    replace(published, model_version="another").save(shop)
    try:
        with pytest.raises(WorkspaceError, match=r"not published for the bundle.*bfm publish"):
            refresh(shop, say=lambda line: None)
    finally:
        published.save(shop)


def test_the_server_answers_over_a_socket(shop: Workspace) -> None:
    with running(shop) as base:
        ready = requests.get(f"{base}/readyz", timeout=10)
        missing = requests.get(f"{base}/nothing", timeout=10)
    assert ready.json()["status"] == "ok"
    assert missing.headers["content-type"] == "application/problem+json"


def test_scoring_refuses_what_it_cannot_answer(shop: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'churn'"):
        score(shop, "chrun", tmp_path / "out")
    with pytest.raises(UnknownNameError, match="user"):
        export(shop, "usr", tmp_path / "out")
    with pytest.raises((UserError, WorkspaceError)):
        score(shop, "search", tmp_path / "out")


def test_an_earlier_time_is_answered_with_a_warning(
    shop: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier_us = AS_OF_US - 180 * DAY_US
    with caplog.at_level(logging.WARNING):
        num_rows = export(shop, "user", tmp_path / "out", as_of_us=earlier_us)
    assert "know the future" in caplog.text
    assert 0 <= num_rows < 24


def test_an_erased_user_is_answered_nowhere_and_left_in_no_file(
    shop: Workspace, client: TestClient, batches: dict[str, pa.Table]
) -> None:
    all_ids, without = (batches[name].column("id").to_pylist() for name in ("user", "renewed"))
    assert without == [one for one in all_ids if one != ERASED]
    body = {"user_id": ERASED, "k": 5}
    assert not client.post("/v1/recommendations", json=body).json()["fallback"]
    assert {Path(name).parts[0] for name in traces(shop.root, ERASED)} == {
        *("lake", "features", "embeddings")
    }
    request = erase(shop, ERASED, grace_days=1)
    assert client.post("/v1/recommendations", json=body).json()["fallback"]
    assert Session(shop.root).users == without
    done = {one.request_id: one for one in erase_due(shop, now=request.due)}
    present = client.get("/v1/model").json()["model_version"]
    assert done[request.request_id].trained_with == (present,)
    assert traces(shop.root, ERASED) == []
    Predictor.load(shop.bundle)


def test_an_audit_needs_profiles(shop: Workspace) -> None:
    context = ModelContext.open(shop, as_of_us=AS_OF_US)
    with pytest.raises(WorkspaceError, match=r"no profile has a field of text.*into: profiles"):
        audit(context, ["rhythm"], seed=0, say=lambda line: None)


def test_an_audit_judges_the_served_answers_by_group(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "MIN_USERS", 5)
    context = ModelContext.open(shop, as_of_us=AS_OF_US)
    users = context.histories(AS_OF_US).user_ids
    table = pa.table(
        {
            "user_id": users[:-1],
            "rhythm": [("days", "weeks")[int(user[-3:]) % 4 // 2] for user in users[:-1]],
            "card": [user[-3:] for user in users[:-1]],  # one value each: no groups
        }
    )
    write_deltalake(str(shop.table("profiles")), table)
    found = audit(context, ["rhythm", "card"], seed=0, say=lambda line: None)
    assert found.num_users == len(users)
    assert found.num_profiles == len(users) - 1
    (guessed,) = found.guesses
    assert (guessed.field, guessed.values) == ("rhythm", ["days", "weeks"])
    assert guessed.aucs["hand-made features"] > 0.9  # who comes weekly is easily told
    groups = {(row.value, row.task, row.metric) for row in found.groups}
    assert ("days", "recommendation", "ndcg@10") in groups
    assert ("weeks", "churn", "calibration gap") in groups
    assert {row.field for row in found.groups} == {"rhythm"}
    page = (shop.reports / "audit.html").read_text()
    assert "rhythm" in page
    assert json.loads((shop.reports / "audit.json").read_text())["num_profiles"] == len(users) - 1


def test_the_command_prints_what_an_audit_finds(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(profiles, "MIN_USERS", 5)
    company = tmp_path / "company.yaml"
    people = {
        "name": "people",
        "into": "profiles",
        "source": {"format": "parquet", "path": "people.parquet"},
        "columns": {"user_id": "user"},
        "fields": {"rhythm": {"type": "categorical"}},
    }
    described = yaml.safe_load(shop.company_path.read_text())
    described["tables"].append(people)
    company.write_text(yaml.safe_dump(described))
    settings = RunSettings(company_path=company, as_of=from_micros(AS_OF_US))
    settings.save(shop)
    shop.state.mkdir(exist_ok=True)
    users = ModelContext.open(shop, as_of_us=AS_OF_US).histories(AS_OF_US).user_ids
    rhythm = [("days", "weeks")[int(user[-3:]) % 4 // 2] for user in users]
    table = pa.table({"user_id": users, "rhythm": rhythm})
    write_deltalake(str(shop.table("profiles")), table, mode="overwrite", schema_mode="overwrite")
    done = CliRunner().invoke(app, ["audit", "--workspace", str(shop.root)])
    assert done.exit_code == 0, done.output
    assert f"What can be guessed of {len(users)} profiles" in done.output
    assert "rhythm" in done.output
    refused = CliRunner().invoke(app, ["audit", "--workspace", str(shop.root), "--field", "rhytm"])
    assert isinstance(refused.exception, UnknownNameError)
    assert "rhythm" in str(refused.exception)
