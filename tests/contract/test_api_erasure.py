"""DELETE /v1/users/{user_id}, on a shop of its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from behavior_model.predictor import Predictor
from feature_store.erasure import USER_TABLES
from feature_store.online import held_online
from feature_store.settings import Shelf
from feature_store.tables import USER_STATE
from pipelines.erasure import is_suppressed, suppress, suppression_path, user_hash
from pipelines.flow.erasure_requests import PENDING_FILE, pending
from pipelines.workspace import Workspace
from serving.app import create_app
from serving.erasure import erase_due
from serving.live_events import Accepted, LiveEvents
from serving.settings import ServingSettings
from tests import small_shop
from tests.small_shop import USERS, live_event


def test_erasing_needs_the_token_of_the_settings(shop: Workspace) -> None:
    settings = ServingSettings(workspace=shop.root, admin_token=SecretStr("0123456789abcdef"))
    app = create_app(settings, small_shop.CountingPredictor.make())
    with TestClient(app) as client:
        for headers in (
            {},
            {"Authorization": "Bearer other"},
            {"Authorization": "0123456789abcdef"},
        ):
            refused = client.delete("/v1/users/nobody", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.headers["www-authenticate"] == "Bearer"
        assert not is_suppressed(shop, "nobody")
        granted = {"Authorization": "bEARER 0123456789abcdef"}
        assert client.delete("/v1/users/nobody", headers=granted).status_code == 200
        assert is_suppressed(shop, "nobody")
        assert client.post("/v1/recommendations", json={"user_id": "ada"}).status_code == 200
    suppression_path(shop).unlink()
    (shop.root / PENDING_FILE).unlink()


def published(folder: Path) -> Workspace:
    workspace = Workspace(folder)
    small_shop.put_on_shelf(workspace)
    return workspace


def test_events_of_a_user_who_is_erased_while_they_are_stored_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = published(tmp_path)
    add = LiveEvents.add

    def erased_meanwhile(self: LiveEvents, events: Any) -> Accepted:
        suppress(workspace, user_hash("ada"))
        return add(self, events)

    monkeypatch.setattr(LiveEvents, "add", erased_meanwhile)
    settings = ServingSettings(workspace=tmp_path)
    with TestClient(create_app(settings, small_shop.CountingPredictor.make())) as client:
        sent = {"events": [live_event(), live_event("bob", 101)]}
        assert client.post("/v1/events", json=sent).status_code == 200
    with closing(LiveEvents(workspace.live_events_path)) as events:
        assert (len(events.of_user("ada")), len(events.of_user("bob"))) == (0, 1)


def test_the_bundle_of_before_goes_when_another_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path)
    take_over: list[Callable[[Predictor], None]] = []

    def reloader(*given: Any) -> SimpleNamespace:
        take_over.append(given[2])
        return SimpleNamespace(look=lambda: False)

    monkeypatch.setattr("serving.app.Reloader", reloader)
    first = small_shop.CountingPredictor.make()
    known = weakref.ref(first)
    app = create_app(ServingSettings(workspace=tmp_path), first)
    del first
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/v1/model").status_code == 200, "it starts again and again"
    with TestClient(app):
        take_over[-1](small_shop.CountingPredictor.make())
        gc.collect()
        assert known() is None


def test_an_erased_user_is_unknown_and_stays_unknown(tmp_path: Path) -> None:
    workspace = published(tmp_path)
    settings = ServingSettings(workspace=tmp_path)
    with TestClient(create_app(settings, small_shop.CountingPredictor.make())) as client:
        client.post("/v1/events", json={"events": [live_event()]})
        erased = client.delete("/v1/users/ada")
        assert erased.status_code == 200
        assert erased.json()["num_live_events"] == 1
        assert erased.json()["lake_erased"] is False
        (request,) = pending(workspace)
        assert request.request_id == erased.json()["request_id"]
        assert request.user == user_hash("ada")
        after = client.post("/v1/recommendations", json={"user_id": "ada"}).json()
        assert (after["num_events"], after["fallback"]) == (0, True)
        refused = client.post("/v1/events", json={"events": [live_event(number=101)]})
        assert refused.status_code == 409
        assert client.delete("/v1/users/ada").json()["num_live_events"] == 0
        other = client.post("/v1/recommendations", json={"user_id": "bob"}).json()
        assert other["num_events"] == 4
    written = {path.name: path.read_bytes() for path in tmp_path.glob("live_events.db*")}
    assert "live_events.db" in written
    assert not any(b"live-ada" in content for content in written.values())


def test_blanks_around_an_id_hide_nobody_from_an_erasure(tmp_path: Path) -> None:
    workspace = published(tmp_path)
    settings = ServingSettings(workspace=tmp_path)
    with TestClient(create_app(settings, small_shop.CountingPredictor.make())) as client:
        client.post("/v1/events", json={"events": [live_event(user_id=" ada\t")]})
        erased = client.delete("/v1/users/ada%20%0A")
        assert (erased.json()["user_id"], erased.json()["num_live_events"]) == ("ada", 1)
        assert is_suppressed(workspace, "ada")
        for again in ("ada", "ada ", "\tada\r\n"):
            answer = client.post("/v1/recommendations", json={"user_id": again}).json()
            assert (answer["user_id"], answer["fallback"]) == ("ada", True)
            sent = {"events": [live_event(number=102, user_id=again)]}
            assert client.post("/v1/events", json=sent).status_code == 409
        assert client.delete("/v1/users/%20%09").status_code == 422
        assert client.delete("/v1/users/a%00b").status_code == 422
        assert client.delete("/v1/users/" + "x" * 257).status_code == 422


def test_the_counter_writes_no_file_of_the_shelf_anew_and_the_next_erase_due_does(
    tmp_path: Path,
) -> None:
    workspace = published(tmp_path)
    offline = Shelf(workspace).offline_path(USER_STATE.name)
    before = offline.read_bytes()
    settings = ServingSettings(workspace=tmp_path)
    with TestClient(create_app(settings, small_shop.CountingPredictor.make())) as client:
        assert client.delete("/v1/users/ada").status_code == 200
    assert offline.read_bytes() == before
    assert held_online(Shelf(workspace), USERS) == ["bob", "cyd"]
    (done,) = erase_due(workspace)
    assert done.removed["features/offline"] == len(USER_TABLES)
    assert b"ada" not in offline.read_bytes()
