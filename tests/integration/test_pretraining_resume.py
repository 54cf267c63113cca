"""A run that was killed and went on equals one that never stopped, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from behavior_model.model.backbone import WEIGHTS_FILE
from behavior_model.recipes import Recipe
from behavior_model.training import worker
from behavior_model.training.worker import PretrainingJob, Rank, run_worker
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace
from tests.rhythm_shop import (
    shop_histories,
    shop_job,
    shop_recipe,
    shop_vocabulary,
    shop_workspace,
)

HISTORIES = shop_histories(24)


def train(root: Path, recipe: Recipe, histories: Histories = HISTORIES) -> list[dict[str, float]]:
    """Train to the end; every step's losses as logged."""
    one = shop_job(root, recipe)
    run_worker(one, shop_vocabulary(), {0: histories}, Rank())
    return [json.loads(line) for line in one.log_path.read_text().splitlines()]


def losses(log: list[dict[str, float]]) -> dict[int, float]:
    return {int(row["step"]): row["loss"] for row in log}


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LOG_EVERY_STEPS", 1)


class KilledError(Exception):
    """Stands for a process that dies between two steps."""


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("dies_at", [2, 5, 9])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, dies_at: int) -> None:
    recipe = shop_recipe(checkpoint_every_s=0.0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    shop_workspace(Workspace(whole))
    shop_workspace(Workspace(broken))
    expected = losses(train(whole, recipe))
    assert len(expected) > dies_at

    def die(metrics: dict[str, float]) -> None:
        if metrics["step"] == dies_at:
            raise KilledError

    with pytest.raises(KilledError):
        run_worker(shop_job(broken, recipe), shop_vocabulary(), {0: HISTORIES}, Rank(report=die))
    before = len(shop_job(broken, recipe).log_path.read_text().splitlines())
    log = train(broken, recipe)
    assert log[before]["step"] == dies_at, "the run began again instead of going on"
    assert losses(log) == expected
    assert_same_weights(whole, broken)


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = (
        load_file(Workspace(root).checkpoints / "backbone" / WEIGHTS_FILE)
        for root in (first, second)
    )
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.usefixtures("every_step")
def test_another_seed_does_not_continue_a_run(tmp_path: Path) -> None:
    shop_workspace(Workspace(tmp_path))
    recipe = shop_recipe(checkpoint_every_s=0.0)
    first = shop_job(tmp_path, recipe)

    def die(metrics: dict[str, float]) -> None:
        if metrics["step"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        run_worker(first, shop_vocabulary(), {0: HISTORIES}, Rank(report=die))
    first.log_path.unlink()
    other = PretrainingJob(**{**vars(first), "seed": 6})
    run_worker(other, shop_vocabulary(), {0: HISTORIES}, Rank())
    steps = [json.loads(line)["step"] for line in other.log_path.read_text().splitlines()]
    assert steps[0] == 1


def test_a_finished_run_leaves_a_backbone_and_no_checkpoints(tmp_path: Path) -> None:
    shop_workspace(Workspace(tmp_path))
    train(tmp_path, shop_recipe(checkpoint_every_s=0.0))
    assert (Workspace(tmp_path).checkpoints / "backbone" / WEIGHTS_FILE).is_file()
    assert list(shop_job(tmp_path, shop_recipe()).folder.glob("*.safetensors")) == []


def test_training_lowers_every_loss_it_can(tmp_path: Path) -> None:
    shop_workspace(Workspace(tmp_path))
    log = train(tmp_path, shop_recipe(epochs=12, learning_rate=5e-3))
    for name in ("next_item", "next_fields", "window_categories", "window_activity", "loss"):
        late = sum(step[name] for step in log[-3:]) / 3
        assert late < log[0][name], name


_CHILD = """
import sys
from pathlib import Path
from behavior_model.training import worker
from tests.integration.test_pretraining_resume import train
from tests.rhythm_shop import shop_recipe
worker.LOG_EVERY_STEPS = 1
train(Path(sys.argv[1]), shop_recipe(checkpoint_every_s=0.0, epochs=30))
"""


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.usefixtures("every_step")
def test_after_sigkill_the_next_run_resumes_inside_the_epoch(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shop_workspace(Workspace(whole))
    shop_workspace(Workspace(killed))
    recipe = shop_recipe(checkpoint_every_s=0.0, epochs=30)
    expected = losses(train(whole, recipe))
    log = shop_job(killed, recipe).log_path
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(killed)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    deadline = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) > 20):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = len(log.read_text().splitlines())
    resumed = losses(train(killed, recipe))
    total = len(log.read_text().splitlines())
    assert before < len(expected), "the child finished before it was killed"
    assert total < before + len(expected), "the run began again instead of going on"
    assert resumed == expected
    assert_same_weights(whole, killed)
