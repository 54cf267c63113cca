"""A small company is trained without Ray, in the steps that a Ray worker would take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake
from safetensors.torch import load_file

from behavior_model import stage_pretrain
from behavior_model.model.backbone import WEIGHTS_FILE
from behavior_model.stage_pretrain import PretrainResult, pretrain
from behavior_model.training.ray_trainer import shard_of
from behavior_model.training.worker import PretrainingJob, Rank, run_worker
from pipelines.contracts import USER_FLAGS
from pipelines.erasure import suppress, user_hash
from pipelines.workspace import Workspace
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    shop_histories,
    shop_job,
    shop_recipe,
    shop_vocabulary,
    shop_workspace,
)

pytestmark = pytest.mark.integration

BOT, FORGOTTEN = "user-003", "user-007"


class RayStartedError(Exception):
    """Stands for a Ray session that was asked for."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(num_cpus: int) -> None:
        raise RayStartedError(num_cpus)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(stage_pretrain, "ray_session", start)


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    """A shop with a bot, and with one who is to be forgotten."""
    shop = shop_workspace(Workspace(tmp_path / "shop"))
    flags = {"user_id": [BOT], "flag": ["bot"], "reason": ["planted"], "score": [9.0]}
    write_deltalake(str(shop.table(USER_FLAGS.name)), pa.table(flags))
    suppress(shop, user_hash(FORGOTTEN))
    return shop


def train(shop: Workspace, num_workers: int = 1) -> PretrainResult:
    recipe, vocabulary = shop_recipe(), shop_vocabulary()
    return pretrain(shop, vocabulary, recipe, CUT_US, WINDOW_US, seed=1, num_workers=num_workers)


def weights(shop: Workspace) -> dict[str, torch.Tensor]:
    return load_file(shop.checkpoints / "backbone" / WEIGHTS_FILE)


@pytest.mark.parametrize("num_shards", [1, 2])
def test_it_walks_the_path_of_a_worker(
    shop: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_shards: int
) -> None:
    def as_begun(job: PretrainingJob) -> PretrainingJob:
        return shop_job(job.workspace.root, shop_recipe(), num_shards=num_shards, seed=1)

    monkeypatch.setattr(stage_pretrain, "_as_begun", as_begun)  # as a run of more workers began
    threads = torch.get_num_threads()
    result = train(shop)
    assert result.num_steps >= 4
    assert torch.get_num_threads() == threads
    alone = shop_workspace(Workspace(tmp_path / "alone"))
    for path in (shop.checkpoints / "items").iterdir():
        (alone.checkpoints / "items" / path.name).write_bytes(path.read_bytes())
    everybody = shop_histories(24).before(CUT_US)
    known = [user for user in everybody.user_ids if user not in (BOT, FORGOTTEN)]
    shards = {
        number: everybody.only([user for user in known if shard_of(user, num_shards) == number])
        for number in range(num_shards)
    }
    job = shop_job(alone.root, shop_recipe(), num_shards=num_shards, seed=1)
    run_worker(job, shop_vocabulary(), shards, Rank())
    expected = weights(alone)
    for name, found in weights(shop).items():
        np.testing.assert_array_equal(found.numpy(), expected[name].numpy(), err_msg=name)


@pytest.mark.parametrize("reason", ["workers", "events", "cluster"])
def test_ray_trains_where_there_is_more_to_do(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "events":
        monkeypatch.setattr(stage_pretrain, "MAX_EVENTS_HERE", 10)
    if reason == "cluster":
        monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    with pytest.raises(RayStartedError):
        train(shop, num_workers=2 if reason == "workers" else 1)
