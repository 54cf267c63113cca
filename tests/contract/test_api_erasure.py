"""DELETE /v1/users/{user_id}, on a shop of its own."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from starlette.testclient import TestClient

from feature_store.publish import publish
from pipelines.erasure import is_suppressed, suppression_path
from pipelines.workspace import Workspace
from serving.app import create_app
from serving.settings import ServingSettings
from tests import small_shop
from tests.small_shop import live_event


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
        granted = {"Authorization": "Bearer 0123456789abcdef"}
        assert client.delete("/v1/users/nobody", headers=granted).status_code == 200
        assert is_suppressed(shop, "nobody")
        assert client.post("/v1/recommendations", json={"user_id": "ada"}).status_code == 200
    suppression_path(shop).unlink()


def test_an_erased_user_is_unknown_and_stays_unknown(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    small_shop.write_lake(workspace, small_shop.histories())
    publish(
        workspace,
        as_of_us=small_shop.AS_OF_US,
        user_embeddings=small_shop.write_embeddings(tmp_path, small_shop.USERS),
        item_embeddings=small_shop.write_embeddings(tmp_path, small_shop.vocabulary().items),
        model_version=small_shop.MODEL_VERSION,
    )
    settings = ServingSettings(workspace=tmp_path)
    with TestClient(create_app(settings, small_shop.CountingPredictor.make())) as client:
        client.post("/v1/events", json={"events": [live_event()]})
        erased = client.delete("/v1/users/ada")
        assert erased.status_code == 200
        assert erased.json()["num_live_events"] == 1
        assert erased.json()["lake_erased"] is False
        after = client.post("/v1/recommendations", json={"user_id": "ada"}).json()
        assert (after["num_events"], after["fallback"]) == (0, True)
        refused = client.post("/v1/events", json={"events": [live_event(number=101)]})
        assert refused.status_code == 409
        assert client.delete("/v1/users/ada").json()["num_live_events"] == 0
        other = client.post("/v1/recommendations", json={"user_id": "bob"}).json()
        assert other["num_events"] == 4
    for name in ("live_events.db", "live_events.db-wal"):
        path = tmp_path / name
        assert not path.is_file() or b"live-ada" not in path.read_bytes()
