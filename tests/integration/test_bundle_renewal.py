"""A renewed bundle: weights stay, memories move on, new items are answered for."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from safetensors.numpy import load_file
from starlette.testclient import TestClient

from behavior_model.bundle import MANIFEST_FILE, Bundle, Manifest, open_bundle, read_manifest
from behavior_model.predictor import Predictor
from behavior_model.renewal import renew_bundle
from pipelines import lake
from pipelines.contracts import CATALOGUE, PURCHASE, TOKEN_SEQUENCES
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories, merge
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace
from serving.app import create_app
from serving.reload import Reloader, looking
from serving.settings import ServingSettings
from tests.rhythm_bundle import AS_OF_US, NUM_USERS
from tests.rhythm_shop import CUT_US, shop_catalogue, shop_histories, shop_vocabulary

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NEW = "item-99"
TITLE = "bread with walnuts"
BUYERS = ("user-000", "user-001", "user-002")


def grown_vocabulary() -> Vocabulary:
    return shop_vocabulary().grown_by({NEW: "bread"})


def grown_histories() -> Histories:
    """Three users buy the new item four times each after the test cut."""
    rows = [
        {
            "event_id": f"new-{user}-{week}",
            "event_time": AS_OF_US + (7 * week + 1) * DAY_US,
            "event_type": PURCHASE,
            "item_id": NEW,
            "amount": 3.0,
            "note": None,
        }
        for user in range(len(BUYERS))
        for week in range(4)
    ]
    offsets = np.arange(len(BUYERS) + 1, dtype=np.int64) * 4
    new = encode(grown_vocabulary(), pa.Table.from_pylist(rows), list(BUYERS), offsets)
    return merge(shop_histories(NUM_USERS), new)


@pytest.fixture(scope="module")
def trained(rhythm_shop: Workspace) -> Bundle:
    return open_bundle(rhythm_shop.bundle)


@pytest.fixture(scope="module")
def shop(rhythm_shop: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the shop after the new item has come."""
    copy = Workspace(tmp_path_factory.mktemp("renewed") / "shop")
    shutil.copytree(rhythm_shop.root, copy.root)
    sequences = grown_histories().to_arrow(grown_vocabulary().vocabulary_id)
    write_deltalake(str(copy.table(TOKEN_SEQUENCES.name)), sequences, mode="overwrite")
    row = {**shop_catalogue().slice(0, 1).to_pylist()[0], "item_id": NEW, "title": TITLE}
    fresh = pa.Table.from_pylist([row], shop_catalogue().schema)
    write_deltalake(str(copy.table(CATALOGUE.name)), fresh, mode="append")
    return copy


@pytest.fixture(scope="module")
def manifest(shop: Workspace) -> Manifest:
    return renew_bundle(shop, open_bundle(shop.bundle), grown_vocabulary(), CUT_US, seed=0)


@pytest.fixture(scope="module")
def renewed(shop: Workspace, manifest: Manifest) -> Predictor:
    return Predictor.load(shop.bundle)


@pytest.fixture(scope="module")
def before(trained: Bundle) -> Predictor:
    return Predictor.load(trained.root)


def test_it_names_its_training_and_the_time_of_its_memories(
    manifest: Manifest, trained: Bundle
) -> None:
    assert trained.manifest.lineage == trained.manifest.model_version
    assert manifest.lineage == trained.manifest.model_version != manifest.model_version
    assert (manifest.as_of_us, manifest.knows_until_us) == (AS_OF_US, CUT_US)
    assert trained.manifest.knows_until_us == AS_OF_US
    assert manifest.vocabulary_id == trained.manifest.vocabulary_id
    assert manifest.tasks == trained.manifest.tasks


def test_renewing_again_gives_the_same_bundle(shop: Workspace, manifest: Manifest) -> None:
    left = shop.root / ".renewal.killed"
    left.mkdir()
    again = renew_bundle(shop, open_bundle(shop.bundle), grown_vocabulary(), CUT_US, seed=0)
    assert again == manifest == read_manifest(shop.bundle)
    assert not left.exists(), "what a kill left behind"


def test_weights_and_embeddings_of_users_stay(before: Predictor, renewed: Predictor) -> None:
    name = "backbone.safetensors"
    old, new = (load_file(one.bundle.backbone / name) for one in (before, renewed))
    assert {key for key in old if not np.array_equal(old[key], new[key])} == {"items.log_prior"}
    histories = shop_histories(NUM_USERS).before(AS_OF_US).non_empty()
    times = np.full(len(histories), AS_OF_US)
    np.testing.assert_array_equal(
        before.embed_users(histories, times), renewed.embed_users(histories, times)
    )
    np.testing.assert_array_equal(
        before.predict("churn", histories, times).scores,
        renewed.predict("churn", histories, times).scores,
    )


def test_a_new_item_is_found_by_its_words_tagged_and_likened(renewed: Predictor) -> None:
    assert renewed.search(["walnuts"], 3).ids[0][0] == NEW
    assert renewed.search(["walnutz"], 3).ids[0][0] == NEW
    assert "bread" in renewed.tags([NEW], 3).ids[0]
    likened = renewed.similar_items([NEW], 5, by="content").ids[0]
    assert sum(int(item.removeprefix("item-")) % 4 == 0 for item in likened) >= 3, "breads"
    assert renewed.catalogue.cards([NEW])[0].title == TITLE
    assert np.linalg.norm(renewed.embed_items([NEW])) == pytest.approx(1.0, abs=1e-5)


def test_a_new_item_is_recommended_to_those_who_take_it(renewed: Predictor) -> None:
    collective = renewed.rankers["item"].memories.collective
    assert renewed.vocabulary.item_idx_of[NEW] in collective.known
    histories = grown_histories().only(BUYERS)
    lists = renewed.recommend(histories, np.full(len(histories), CUT_US), 10).ids
    assert all(NEW in items for items in lists)


def test_a_bundle_of_before_reads_later_sequences(shop: Workspace, before: Predictor) -> None:
    known = lake.read_histories(shop, before.vocabulary, CUT_US)
    lists = before.recommend(known, np.full(len(known), CUT_US), 10).ids
    assert all(lists)
    assert not any(NEW in items for items in lists)


def test_a_running_counter_takes_it_over(
    rhythm_shop: Workspace, shop: Workspace, manifest: Manifest, workspace: Workspace
) -> None:
    shutil.copytree(rhythm_shop.root, workspace.root)
    settings = ServingSettings(workspace=workspace.root, reload_seconds=0.05)
    with TestClient(create_app(settings)) as client:
        asked = {"item_id": NEW, "k": 3}
        assert client.post("/v1/similar-items", json=asked).status_code == 404
        shutil.rmtree(workspace.bundle)
        shutil.copytree(shop.bundle, workspace.bundle)
        deadline = time.monotonic() + 60
        while client.get("/healthz").json()["model_version"] != manifest.model_version:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        answer = client.post("/v1/similar-items", json=asked)
        assert answer.status_code == 200
        assert answer.headers["x-model-version"] == manifest.model_version
        told = client.get("/metrics").text
        assert f'bfm_model{{model_version="{manifest.model_version}"}} 1.0' in told
        assert f'bfm_model{{model_version="{manifest.lineage}"}} 0.0' in told


def test_other_event_fields_need_a_restart(
    rhythm_shop: Workspace,
    workspace: Workspace,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    logger: logging.Logger,
) -> None:
    monkeypatch.setattr("serving.reload._log", logger)
    shutil.copytree(rhythm_shop.bundle, workspace.bundle)
    taken: list[Predictor] = []
    reloader = Reloader(workspace, read_manifest(workspace.bundle), taken.append)
    assert not reloader.look(), "the same bundle"
    path = workspace.bundle / MANIFEST_FILE
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "model_version": "another", "event_fields": {}}))
    with caplog.at_level(logging.WARNING):
        assert not reloader.look()
        assert not reloader.look(), "and says so once"
    assert [record.message for record in caplog.records] == [
        "bundle another is not served: its event fields are others: restart bfm serve"
    ]
    path.unlink()
    assert not reloader.look(), "a bundle that is just being written"
    assert not taken


def test_a_look_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, logger: logging.Logger
) -> None:
    monkeypatch.setattr("serving.reload._log", logger)
    looks: list[int] = []
    seen = threading.Event()

    class Failing(Reloader):
        def __init__(self) -> None:
            pass

        def look(self) -> bool:
            looks.append(1)
            if len(looks) == 1:
                raise RuntimeError("half a bundle")
            seen.set()
            return False

    with looking(Failing(), 0.01):
        assert seen.wait(10)
