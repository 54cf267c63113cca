"""Every route of the public contract: what it answers, and how it refuses."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pytest
import uvicorn
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from starlette.testclient import TestClient

from behavior_model.predictor import Ranking
from feature_store.online import online_states
from feature_store.published import Published
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace
from serving.app import AnnouncedServer, create_app, warn_if_open
from serving.settings import ServingSettings
from tests.small_shop import USERS, CountingPredictor, live_event

HAPPY: dict[str, dict[str, Any]] = {
    "/v1/recommendations": {"user_id": "ada", "k": 3},
    "/v1/search": {"query": "thing", "user_id": "ada", "k": 3},
    "/v1/predictions/churn": {"user_id": "ada"},
    "/v1/propensities": {"user_id": "ada"},
    "/v1/tags": {"item_id": "item-03", "k": 1},
    "/v1/similar-items": {"item_id": "item-03", "by": "content", "k": 3},
    "/v1/embeddings": {"entity": "user", "ids": ["ada", "nobody"]},
    "/v1/events": {"events": [live_event()]},
}
POSTS = sorted(HAPPY)


def assert_problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:bfm:problem:")
    assert body["title"]
    assert body["detail"]
    return body


@pytest.mark.parametrize("path", POSTS)
def test_answers_and_names_the_model(client: TestClient, path: str) -> None:
    response = client.post(path, json=HAPPY[path])
    assert response.status_code == 200, response.text
    assert response.json()["model_version"] == "0123456789abcdef"
    assert response.headers["x-model-version"] == "0123456789abcdef"


@pytest.mark.parametrize("path", ["/v1/model", "/healthz", "/readyz"])
def test_says_which_model_runs(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.json()["model_version"] == "0123456789abcdef"


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 5_000,
        b'{"user_id": "ada", "unknown": 1}',
        b'{"user_id": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"user_id": "ada", "k": 1e400}',
        b'{"user_id": "ada", "k": NaN}',
        b'{"user_id": "ada", "k": "1"}',
        b'{"user_id": "ada", "k": 1.0}',
        b'{"user_id": "ada", "k": 0}',
        b'{"user_id": "ada", "k": ' + b"9" * 5_000 + b"}",
        b'{"user_id": ""}',
        b'{"user_id": "a\\u0000b"}',
        b'{"user_id": "' + b"x" * 300 + b'"}',
        b'{"user_id": 7}',
        b'{"user_id": "ada", "as_of": "yesterday"}',
        b'{"user_id": "ada", "as_of": "2017-10-01T00:00:00"}',
        b'{"user_id": "ada", "as_of": "0001-01-01T00:00:00+23:00"}',
        b'{"user_id": "ada", "as_of": 1506816000}',
        b'{"user_id": "ada", "events": {}}',
        b'{"query": "", "item_id": "", "text": ""}',
        b'{"events": []}',
        b'{"entity": "user"}',
    ],
)
def test_refuses_what_breaks_the_schema(client: TestClient, path: str, body: bytes) -> None:
    response = client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422), (response.status_code, response.text)
    problem = assert_problem(response, response.status_code)
    assert "xxxx" not in json.dumps(problem)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"event_time": "2017-10-01"}, "/events/0/event_time"),
        ({"amount": -1.0}, "/events/0/amount"),
        ({"quantity": 0}, "/events/0/quantity"),
        ({"colour": "red"}, "/events/0/colour"),
        ({"store": 5.0}, "/events/0/store"),
        ({"discount": "much"}, "/events/0/discount"),
        ({"discount": True}, "/events/0/discount"),
        ({"discount": [1]}, "/events/0/discount"),
        ({"discount": 1e13}, "/events/0/discount"),
        ({"discount": 10**400}, "/events/0/discount"),
        ({"store": "x" * 257}, "/events/0/store"),
        ({"store": "a\x00b"}, "/events/0/store"),
        ({"query": "te\x00a"}, "/events/0/query"),
    ],
)
def test_events_are_typed_like_the_companys_contract(
    client: TestClient, change: dict[str, Any], pointer: str
) -> None:
    body = {"events": [live_event(**change)]}
    problem = assert_problem(client.post("/v1/events", json=body), 422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    inside = {"user_id": "ada", "events": [live_event(**change)]}
    assert_problem(client.post("/v1/recommendations", json=inside), 422)


def test_a_live_event_changes_the_next_answer(client: TestClient) -> None:
    ask = {"user_id": "ada", "k": 20}
    before = client.post("/v1/recommendations", json=ask).json()
    sent = client.post("/v1/events", json={"events": [live_event()]}).json()
    after = client.post("/v1/recommendations", json=ask).json()
    assert (sent["stored"], sent["known"]) == (1, 0)
    assert after["num_events"] == before["num_events"] + 1
    assert before["prediction_time"] == "2017-10-01T00:00:00Z"
    assert after["prediction_time"] == "2017-10-01T08:00:00.000001Z"
    assert "item-19" not in [item["item_id"] for item in before["items"][:5]]
    assert "item-19" in [item["item_id"] for item in after["items"][:5]]


def test_what_a_refresh_moves_to_the_shelf_while_it_is_read_is_not_missed(
    client: TestClient, shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live event is gone by the time the shelf is read; the shelf's own is there, or soon."""
    ask = {"user_id": "ada"}
    client.post("/v1/events", json={"events": [live_event()]})

    def moved_meanwhile(*asked: Any, **more: Any) -> Any:
        with closing(sqlite3.connect(shop.live_events_path, isolation_level=None)) as other:
            other.execute("DELETE FROM live_events")
        return online_states(*asked, **more)

    monkeypatch.setattr("serving.state.online_states", moved_meanwhile)
    assert client.post("/v1/recommendations", json=ask).json()["num_events"] == 5
    assert client.post("/v1/recommendations", json=ask).json()["num_events"] == 4


def test_events_of_a_request_count_once_and_are_not_kept(client: TestClient) -> None:
    ask = {"user_id": "ada", "events": [live_event(), live_event()]}
    assert client.post("/v1/recommendations", json=ask).json()["num_events"] == 5
    client.post("/v1/events", json={"events": [live_event()]})
    assert client.post("/v1/recommendations", json=ask).json()["num_events"] == 5
    assert client.post("/v1/recommendations", json={"user_id": "bob"}).json()["num_events"] == 4


def test_a_stored_event_sent_again_counts_once(client: TestClient) -> None:
    twin = live_event(event_id="ada-0", event_time="2017-09-27T00:00:00Z")
    ask = {"user_id": "ada", "events": [twin]}
    assert client.post("/v1/recommendations", json=ask).json()["num_events"] == 4


def test_blanks_around_an_event_id_make_no_other_event(client: TestClient) -> None:
    body = {"events": [live_event()]}
    spaced = {
        "events": [live_event(event_id=" live-ada-100\n", user_id="ada ", item_id="item-19 ")]
    }
    assert client.post("/v1/events", json=body).json()["stored"] == 1
    again = client.post("/v1/events", json=spaced).json()
    assert (again["stored"], again["known"]) == (0, 1)
    blank = {"events": [live_event(event_id=" \t")]}
    problem = assert_problem(client.post("/v1/events", json=blank), 422)
    assert [error["pointer"] for error in problem["errors"]] == ["/events/0/event_id"]


def test_only_the_past_of_as_of_counts(client: TestClient) -> None:
    ask = {"user_id": "ada", "as_of": "2017-09-29T12:00:00+02:00", "events": [live_event()]}
    found = client.post("/v1/recommendations", json=ask).json()
    assert found["prediction_time"] == "2017-09-29T10:00:00Z"
    assert found["num_events"] == 3


def test_events_of_another_user_are_refused(client: TestClient) -> None:
    ask = {"user_id": "ada", "events": [live_event("bob")]}
    problem = assert_problem(client.post("/v1/recommendations", json=ask), 422)
    assert problem["errors"][0]["pointer"] == "/events/0/user_id"


def test_posting_an_event_again_is_harmless_and_changing_it_is_a_conflict(
    client: TestClient,
) -> None:
    body = {"events": [live_event()]}
    assert client.post("/v1/events", json=body).json()["stored"] == 1
    assert client.post("/v1/events", json=body).json() == {
        "model_version": "0123456789abcdef",
        "stored": 0,
        "known": 1,
    }
    changed = {"events": [live_event(number=101), live_event(amount=4.0)]}
    problem = assert_problem(client.post("/v1/events", json=changed), 409)
    assert [error["pointer"] for error in problem["errors"]] == ["/events/1"]
    again = client.post("/v1/events", json={"events": [live_event(number=101)]}).json()
    assert again["stored"] == 1, "a refused request stores nothing"


def test_an_unknown_user_gets_a_fallback_and_the_answer_says_so(client: TestClient) -> None:
    known = client.post("/v1/recommendations", json={"user_id": "ada"}).json()
    unknown = client.post("/v1/recommendations", json={"user_id": "nobody", "k": 2}).json()
    assert (known["fallback"], unknown["fallback"]) == (False, True)
    assert unknown["num_events"] == 0
    assert [item["item_id"] for item in unknown["items"]] == ["item-00", "item-01"]
    assert [item["rank"] for item in unknown["items"]] == [1, 2]


def test_every_answer_without_a_history_is_counted(client: TestClient) -> None:
    def counted() -> float:
        (line,) = re.findall(r"^bfm_fallbacks_total (\S+)$", client.get("/metrics").text, re.M)
        return float(line)

    before = counted()
    for user in ("nobody", "ada", None):
        assert client.post("/v1/search", json={"query": "tea", "user_id": user}).status_code == 200
    client.post("/v1/recommendations", json={"user_id": "nobody"})
    assert counted() == before + 2


def test_a_list_of_what_is_popular_says_so_though_the_user_did_something(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a user who has typed queries alone: no item is known of them."""

    def popular(*_: object, **__: object) -> Ranking:
        return Ranking([["item-00"]], [[1.0]], [True])

    monkeypatch.setattr("tests.small_shop.CountingPredictor.recommend", popular)
    answer = client.post("/v1/recommendations", json={"user_id": "ada"}).json()
    assert answer["fallback"]
    assert answer["num_events"] > 0


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/x-www-form-urlencoded"}])
def test_a_body_that_is_not_sent_as_json_is_told_how(
    client: TestClient, headers: dict[str, str]
) -> None:
    body = json.dumps(HAPPY["/v1/search"]).encode()
    problem = assert_problem(client.post("/v1/search", content=body, headers=headers), 415)
    assert "Content-Type: application/json" in problem["detail"]


def test_a_blank_query_is_refused_and_an_unknown_name_is_no_wrong_address(
    client: TestClient,
) -> None:
    for query in (" \n\t", "\x00", "\x01 \x7f", "te\x00a", "\u2003"):
        problem = assert_problem(client.post("/v1/search", json={"query": query}), 422)
        assert problem["errors"][0]["pointer"] == "/query"
    unknown = assert_problem(client.post("/v1/tags", json={"item_id": "no-such"}), 404)
    assert unknown["type"] == "urn:bfm:problem:unknown-name"
    assert assert_problem(client.get("/v1/nothing"), 404)["type"] == "urn:bfm:problem:not-found"


def test_search_tells_when_a_query_is_unlike_all(client: TestClient) -> None:
    for query, unlike in (("thing", False), ("#1", True)):
        answer = client.post("/v1/search", json={"query": query}).json()
        assert answer["out_of_distribution"] is unlike
        assert answer["familiarity"] == (0.0 if unlike else 0.5)
        assert answer["items"], "the nearest there are"


def test_a_busy_file_of_live_events_is_a_503(shop: Workspace, client: TestClient) -> None:
    with closing(sqlite3.connect(shop.live_events_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        refused = client.post("/v1/events", json={"events": [live_event(number=500)]})
        assert time.monotonic() - begun < 9
        other.execute("ROLLBACK")
    assert_problem(refused, 503)
    assert refused.headers["retry-after"]
    assert client.post("/v1/events", json={"events": [live_event(number=500)]}).status_code == 200


@contextmanager
def busy_model(shop: Workspace, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Busy]:
    """A counter with one slot, which is taken until `go_on` is set."""
    go_on, taken = threading.Event(), threading.Event()
    recommend = CountingPredictor.recommend

    def wait(*given: Any, **named: Any) -> Ranking:
        taken.set()
        go_on.wait(60)
        return recommend(*given, **named)

    monkeypatch.setattr(CountingPredictor, "recommend", wait)
    chosen = ServingSettings(workspace=shop.root, max_concurrent_predictions=1, **settings)
    app = create_app(chosen, CountingPredictor.make())
    with (
        TestClient(app, raise_server_exceptions=False) as client,
        ThreadPoolExecutor(max_workers=121) as pool,
    ):
        first = pool.submit(client.post, "/v1/recommendations", json={"user_id": "ada"})
        assert taken.wait(30)
        try:
            yield Busy(client, pool, go_on)
        finally:
            go_on.set()
        assert first.result().status_code == 200


@dataclass(frozen=True)
class Busy:
    """How to ask while the model is busy, and what frees it."""

    client: TestClient
    pool: ThreadPoolExecutor
    go_on: threading.Event

    def ask(self, count: int) -> list[Future[Any]]:
        """So many questions at the same time."""
        asked = {"user_id": "ada"}
        post = self.client.post
        return [self.pool.submit(post, "/v1/recommendations", json=asked) for _ in range(count)]


def test_a_burst_waits_and_everybody_else_is_answered_meanwhile(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with busy_model(shop, monkeypatch, max_wait_s=60) as busy:
        sent = busy.ask(100)
        time.sleep(0.5)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert busy.pool.submit(busy.client.get, path).result(timeout=20).status_code == 200
        event = {"events": [live_event("dan")]}
        stored = busy.pool.submit(busy.client.post, "/v1/events", json=event)
        assert stored.result(timeout=20).status_code == 200
        assert not any(one.done() for one in sent)
        busy.go_on.set()
        assert {one.result().status_code for one in sent} == {200}


def test_who_waited_for_too_long_is_refused(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with busy_model(shop, monkeypatch, max_wait_s=0.5) as busy:
        begun = time.monotonic()
        (sent,) = busy.ask(1)
        refused = sent.result()
        assert time.monotonic() - begun >= 0.5
        assert_problem(refused, 503)
        assert refused.headers["retry-after"]
        busy.go_on.set()
        (again,) = busy.ask(1)
        assert again.result().status_code == 200, "the slot is free again"


def test_when_too_many_wait_further_ones_are_refused_at_once(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with busy_model(shop, monkeypatch, max_wait_s=60, max_waiting_predictions=5) as busy:
        sent = busy.ask(20)
        deadline = time.monotonic() + 30
        while sum(one.done() for one in sent) < 15 and time.monotonic() < deadline:
            time.sleep(0.05)
        busy.go_on.set()
        found = [one.result().status_code for one in sent]
    assert (found.count(503), found.count(200)) == (15, 5)


def test_no_trace_holds_the_name_of_who_is_erased(shop: Workspace) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before = trace.get_tracer_provider()
    trace._set_tracer_provider(provider, log=False)
    try:
        app = create_app(ServingSettings(workspace=shop.root), CountingPredictor.make())
        with TestClient(app) as client:
            client.post("/v1/recommendations", json={"user_id": "ada"})
            client.delete("/v1/users/anna@example.org")
    finally:
        trace._set_tracer_provider(before, log=False)
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    assert any("/v1/recommendations" in span for span in spans)
    assert not any("anna" in span for span in spans)


def test_errors_are_described_as_they_are_sent(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["info"]["version"] == version("bfm")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status.startswith(("4", "5")):
                    (kind,) = response["content"].items()
                    assert kind[0] == "application/problem+json", (path, status)
                    assert kind[1]["schema"]["$ref"].endswith("/Problem")


def test_problems_are_described_where_they_happen_and_erasing_names_its_token(
    client: TestClient,
) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/healthz", "/readyz", "/metrics", "/v1/model"):
        assert set(paths[path]["get"]["responses"]) == {"200", "500", "503"}
    body = {"200", "400", "413", "415", "422", "500", "503"}
    assert set(paths["/v1/events"]["post"]["responses"]) == {*body, "409"}
    assert set(paths["/v1/tags"]["post"]["responses"]) == {*body, "404"}
    assert set(paths["/v1/embeddings"]["post"]["responses"]) == body
    erase = paths["/v1/users/{user_id}"]["delete"]
    assert {"401", "422"} <= set(erase["responses"])
    assert erase["security"] == [{"HTTPBearer": []}]


def test_categories_and_new_things_can_be_asked_for(client: TestClient) -> None:
    categories = client.post(
        "/v1/recommendations", json={"user_id": "ada", "level": "category"}
    ).json()
    assert {item["item_id"] for item in categories["items"]} == {"food", "tools"}
    ask = {"user_id": "ada", "k": 16, "exclude_owned": True}
    new = client.post("/v1/recommendations", json=ask).json()
    assert not {f"item-{i:02d}" for i in range(4)} & {item["item_id"] for item in new["items"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predictions/weather", {"user_id": "ada"}),
        ("/v1/tags", {"item_id": "item-99"}),
        ("/v1/similar-items", {"item_id": "item-99"}),
    ],
)
def test_unknown_names_are_not_found_with_a_guess(
    client: TestClient, path: str, body: dict[str, Any]
) -> None:
    problem = assert_problem(client.post(path, json=body), 404)
    assert "Known" in problem["detail"]


def test_embeddings_name_what_is_unknown(client: TestClient) -> None:
    users = client.post("/v1/embeddings", json=HAPPY["/v1/embeddings"]).json()
    assert [one["id"] for one in users["embeddings"]] == ["ada"]
    assert users["unknown_ids"] == ["nobody"]
    items = client.post("/v1/embeddings", json={"entity": "item", "ids": ["item-01", "x"]}).json()
    assert [one["id"] for one in items["embeddings"]] == ["item-01"]
    assert items["unknown_ids"] == ["x"]
    text = client.post("/v1/embeddings", json={"entity": "text", "text": "tea"}).json()
    assert len(text["embeddings"][0]["embedding"]) == 4


def test_many_users_are_embedded_a_few_at_a_time_as_they_are_alone(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    embed, look = CountingPredictor.embed_users, online_states

    def counted(self: CountingPredictor, histories: Histories, times: Any) -> Any:
        asked.append(len(histories))
        return embed(self, histories, times) + times[:, None] % 1_000_003

    shelf_asked: list[list[str]] = []

    def looked(shelf: Any, user_ids: Any, **named: Any) -> Any:
        shelf_asked.append(list(user_ids))
        return look(shelf, user_ids, **named)

    monkeypatch.setattr(CountingPredictor, "embed_users", counted)
    monkeypatch.setattr("serving.state.online_states", looked)
    guests = [f"guest-{i}" for i in range(70)]
    sent = [
        live_event(guest, number, event_time=f"2017-10-02T{i % 24:02d}:0{number}:00Z")
        for i, guest in enumerate(guests)
        for number in range(1 + i % 3)
    ]
    client.post("/v1/events", json={"events": sent[:70]})
    client.post("/v1/events", json={"events": sent[70:]})
    ids = [*guests, "ada", "nobody", "ada"]
    together = client.post("/v1/embeddings", json={"entity": "user", "ids": ids}).json()
    assert [one["id"] for one in together["embeddings"]] == [*guests, "ada"]
    assert together["unknown_ids"] == ["nobody"]
    assert (asked, shelf_asked) == ([32, 32, 7], [[*guests, "ada", "nobody"]])
    for one in together["embeddings"][::9]:
        alone = client.post("/v1/embeddings", json={"entity": "user", "ids": [one["id"]]}).json()
        assert alone["embeddings"] == [one]


def test_addresses_and_methods_that_do_not_exist(client: TestClient) -> None:
    assert_problem(client.get("/v1/nothing"), 404)
    refused = client.get("/v1/recommendations")
    assert_problem(refused, 405)
    assert refused.headers["allow"] == "POST"


def test_long_bodies_are_refused_announced_or_not(client: TestClient) -> None:
    body = json.dumps({"user_id": "x" * 30_000}).encode()
    assert_problem(client.post("/v1/recommendations", content=body), 413)
    chunks = (body[i : i + 1_000] for i in range(0, len(body), 1_000))
    assert_problem(client.post("/v1/recommendations", content=chunks), 413)


def test_a_defect_is_a_problem_without_its_cause(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("tests.small_shop.CountingPredictor.recommend", fail)
    problem = assert_problem(client.post("/v1/recommendations", json={"user_id": "ada"}), 500)
    assert "secret" not in json.dumps(problem)


def test_a_replica_whose_store_fails_is_not_ready_and_the_log_says_why(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    logger: logging.Logger,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr("serving.problems._log", logger)
    monkeypatch.setattr("serving.routes.model.online_state", fail)
    with caplog.at_level(logging.ERROR):
        assert_problem(client.get("/readyz"), 503)
    assert "disk gone" in caplog.text
    assert client.get("/healthz").status_code == 200


def test_a_replica_with_a_bundle_of_before_answers_as_if_users_were_unknown(
    shop: Workspace,
) -> None:
    before = CountingPredictor.make()
    earlier = replace(before.vocabulary, fitted_before="2017-08-06T00:00:00+00:00")
    app = create_app(ServingSettings(workspace=shop.root), replace(before, vocabulary=earlier))
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/v1/recommendations", json={"user_id": "ada"})
        assert answer.status_code == 200
        assert (answer.json()["fallback"], answer.json()["num_events"]) == (True, 0)


def test_a_replica_whose_shelf_is_of_another_training_is_not_ready(
    client: TestClient,
    shop: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    logger: logging.Logger,
) -> None:
    monkeypatch.setattr("serving.routes.model._log", logger)
    published = Published.load(shop)
    assert published is not None
    assert client.get("/readyz").status_code == 200
    Published(model_version="another").save(shop)
    path = shop.features / "published.json"
    os.utime(path, (1, 1))
    try:
        with caplog.at_level(logging.WARNING):
            assert "restart it" in assert_problem(client.get("/readyz"), 503)["detail"]
        assert "restart it" in caplog.text
    finally:
        published.save(shop)


def test_health_and_metrics_are_told_while_all_threads_wait(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def wait(*_: object, **__: object) -> None:
        go_on.wait(30)
        raise RuntimeError("no answer")

    monkeypatch.setattr("tests.small_shop.CountingPredictor.recommend", wait)
    settings = ServingSettings(workspace=shop.root, max_concurrent_predictions=100)
    app = create_app(settings, CountingPredictor.make())
    asked = {"user_id": "ada"}
    with (
        TestClient(app, raise_server_exceptions=False) as client,
        ThreadPoolExecutor(max_workers=61) as pool,
    ):
        try:
            waiting = [
                pool.submit(client.post, "/v1/recommendations", json=asked) for _ in range(60)
            ]
            time.sleep(0.5)
            for path in ("/healthz", "/metrics"):
                assert pool.submit(client.get, path).result(timeout=10).status_code == 200
            assert not any(one.done() for one in waiting)
        finally:
            go_on.set()


def test_an_event_of_a_clock_far_ahead_is_refused(client: TestClient) -> None:
    far = {"events": [live_event(), live_event(number=101, event_time="2099-01-01T00:00:00Z")]}
    problem = assert_problem(client.post("/v1/events", json=far), 422)
    inside = client.post("/v1/recommendations", json={"user_id": "ada", **far})
    for (error,) in (problem["errors"], assert_problem(inside, 422)["errors"]):
        assert error["pointer"] == "/events/1/event_time"
        assert error["message"].startswith("2099-01-01T00:00:00+00:00 is later than a day from now")
    soon = (datetime.now(UTC) + timedelta(hours=20)).isoformat()
    near = {"events": [live_event(event_time=soon)]}
    assert client.post("/v1/events", json=near).json()["stored"] == 1, "nothing was stored before"


def test_metrics_count_routes_not_addresses(client: TestClient) -> None:
    first = client.post("/v1/predictions/churn", json={"user_id": "ada"})
    assert first.status_code == 200, first.text
    client.get("/v1/nothing")
    text = client.get("/metrics").text
    assert 'bfm_requests_total{route="/v1/predictions/{task}",status="200"} 1.0' in text
    assert 'bfm_requests_total{route="unmatched",status="404"} 1.0' in text
    assert 'bfm_model{model_version="0123456789abcdef"} 1.0' in text


def test_the_schema_shows_the_companys_own_fields(client: TestClient) -> None:
    event = client.get("/openapi.json").json()["components"]["schemas"]["LiveEvent"]
    assert event["properties"]["discount"]["anyOf"][0]["type"] == "number"
    assert event["properties"]["store"]["anyOf"][0]["type"] == "string"
    assert event["additionalProperties"] is False


def test_the_contract_is_whole(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    methods = {(method, path) for path, known in paths.items() for method in known}
    assert methods == {
        *(("post", path.replace("churn", "{task}")) for path in POSTS),
        ("delete", "/v1/users/{user_id}"),
        *(("get", path) for path in ("/v1/model", "/healthz", "/readyz", "/metrics")),
    }


def test_a_server_says_when_it_is_up_and_when_anybody_may_erase(
    shop: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    logger: logging.Logger,
) -> None:
    monkeypatch.setattr("serving.app._log", logger)
    settings = ServingSettings(workspace=shop.root)
    app = create_app(settings, CountingPredictor.make())
    server = AnnouncedServer(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    with caplog.at_level(logging.INFO):
        thread.start()
        deadline = time.monotonic() + 30
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.05)
        server.should_exit = True
        thread.join(30)
        for host in ("127.0.0.1", "::1", "localhost"):
            warn_if_open(settings, host)
        guarded = settings.model_copy(update={"admin_token": SecretStr("0123456789abcdef")})
        warn_if_open(guarded, "0.0.0.0")
        warn_if_open(settings, "0.0.0.0")
    up, warning = [record.message for record in caplog.records]
    assert up == "bundle 0123456789abcdef answers at http://127.0.0.1:0"
    assert "BFM_ADMIN_TOKEN is not set" in warning


def test_users_are_known(client: TestClient) -> None:
    for user in USERS:
        found = client.post("/v1/recommendations", json={"user_id": user}).json()
        assert found["num_events"] == 4
