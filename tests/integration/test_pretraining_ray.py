"""Pretraining through Ray Train: reads Delta, logs to MLflow, agrees with one process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from behavior_model.model.backbone import WEIGHTS_FILE, load_backbone
from behavior_model.stage_pretrain import pretrain
from behavior_model.training import ray_trainer
from behavior_model.training.processes import Sharding
from behavior_model.training.ray_session import ray_session
from behavior_model.training.worker import Rank, run_worker
from pipelines.workspace import Workspace
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    shop_job,
    shop_recipe,
    shop_shards,
    shop_vocabulary,
    shop_workspace,
)

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Ray for all trainings here: starting it costs as much as they do."""
    with ray_session(num_cpus=3):
        yield


def test_two_workers_walk_the_path_of_one_with_two_shards(tmp_path: Path) -> None:
    vocabulary, recipe = shop_vocabulary(), shop_recipe()
    distributed = shop_workspace(Workspace(tmp_path / "two"))
    result = pretrain(distributed, vocabulary, recipe, CUT_US, WINDOW_US, seed=1, num_workers=2)
    assert result.num_steps >= 4
    assert result.peak_memory_bytes > 0

    alone = shop_workspace(Workspace(tmp_path / "one"))
    job = shop_job(alone.root, shop_recipe(), num_shards=2, seed=1)
    # The stage makes item content with the best text encoder of this machine: take the same one.
    for name in ("items.safetensors", "items.json"):
        content = (distributed.checkpoints / "items" / name).read_bytes()
        (alone.checkpoints / "items" / name).write_bytes(content)
    run_worker(job, vocabulary, shop_shards(24, 2), Rank())
    one, two = (
        load_file(space.checkpoints / "backbone" / WEIGHTS_FILE) for space in (alone, distributed)
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-4, rtol=2e-3, msg=name)

    load_backbone(distributed.checkpoints / "backbone", vocabulary)
    assert_logged(distributed, result.num_steps)


def test_two_workers_that_share_the_model_walk_it_too(tmp_path: Path) -> None:
    vocabulary = shop_vocabulary()
    shared, alone = (shop_workspace(Workspace(tmp_path / name)) for name in ("shared", "alone"))
    job = shop_job(shared.root, shop_recipe(), num_shards=2, seed=1)
    ray_trainer.fit(job, 2, Sharding.FULL)
    run_worker(replace(job, root=str(alone.root)), vocabulary, shop_shards(24, 2), Rank())
    one, two = (
        json.loads((space.checkpoints / "pretraining" / "log.jsonl").read_text().splitlines()[-1])
        for space in (alone, shared)
    )
    for name in ("step", "loss", "gradient_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-5), name
    one, two = (
        load_file(space.checkpoints / "backbone" / WEIGHTS_FILE) for space in (alone, shared)
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-5, msg=name)


def assert_logged(workspace: Workspace, num_steps: int) -> None:
    client = MlflowClient(tracking_uri=workspace.mlflow_uri)
    experiment = client.get_experiment_by_name("pretraining")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.size"] == "tiny"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert history[-1].step == num_steps
    log = (workspace.checkpoints / "pretraining" / "log.jsonl").read_text().splitlines()
    assert len(history) == len(log)
    assert history[-1].value == pytest.approx(json.loads(log[-1])["loss"])


_RAY_FIRST = """
import ray
from ray._private import ray_constants
from behavior_model.training import ray_trainer
from behavior_model.training.processes import Sharding
from behavior_model.training.ray_session import ray_session
with ray_session(1):
    print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


def test_a_session_starts_where_ray_was_imported_before_it() -> None:
    environment = {name: text for name, text in os.environ.items() if "RAY_AUTH" not in name}
    done = subprocess.run(
        [sys.executable, "-c", _RAY_FIRST],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout.strip() == "42", done.stderr


_ENDED_WHILE_IT_WAITS = """
import os, signal, threading, time
from behavior_model.training.ray_session import ray_session
from serving.cli.console import guarded

def wait():
    with ray_session(1):
        import ray
        threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        ray.get(ray.remote(lambda: time.sleep(600)).remote())

guarded(wait)
"""


def test_who_waits_for_ray_is_ended_by_sigterm() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ENDED_WHILE_IT_WAITS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "Ended on request" in done.stderr
