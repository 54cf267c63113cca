"""Processes that share the model train as one does, and leave files that do not tell of them."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from behavior_model.model.backbone import WEIGHTS_FILE, load_backbone
from behavior_model.objectives.pretraining import PretrainingModel
from behavior_model.training import worker
from behavior_model.training.group import rank_in_group
from behavior_model.training.processes import Sharding
from behavior_model.training.worker import PretrainingJob, Rank, run_worker
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace
from tests.rhythm_shop import (
    shop_job,
    shop_recipe,
    shop_shards,
    shop_vocabulary,
    shop_workspace,
)

pytestmark = [pytest.mark.slow, pytest.mark.integration]

NUM_SHARDS = 2
KILLED_AT = 3
TOLERANCE = 1e-5
"""Sums in another order."""
HALF_TOLERANCE = torch.finfo(torch.bfloat16).eps
"""A weight that differs by such a sum may be rounded to the next number of half the bits."""
CHILD = """
import sys
from pathlib import Path
from tests.integration.test_sharded_training import train_as_rank
train_as_rank(int(sys.argv[1]), Path(sys.argv[2]))
"""


class KilledError(Exception):
    """Stands for a process that dies between two steps."""


def job(root: Path, *, halves: bool = False) -> PretrainingJob:
    """By halves: in half the bits, two batches of half the size to a step."""
    recipe = shop_recipe(checkpoint_every_s=0.0)
    if halves:
        half = replace(
            recipe.training, bfloat16=True, batch_tokens=256, accumulated_batches=2, epochs=3
        )
        recipe = replace(recipe, training=half)
    return shop_job(root, recipe, NUM_SHARDS)


def shards() -> dict[int, Histories]:
    return shop_shards(24, NUM_SHARDS)


def die(metrics: dict[str, float]) -> None:
    if metrics["step"] == KILLED_AT:
        raise KilledError


def train_as_rank(index: int, folder: Path) -> None:
    """All runs of one of two processes."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'group'}", rank=index, world_size=NUM_SHARDS
    )
    worker.LOG_EVERY_STEPS = 1
    own = {index: shards()[index]}
    vocabulary = shop_vocabulary()

    held: dict[str, int] = {}

    def train(name: str, sharding: Sharding, *, killed: bool = False, halves: bool = False) -> None:
        rank = rank_in_group(sharding)

        def wrap(model: PretrainingModel) -> nn.Module:
            whole = sum(parameter.numel() for parameter in model.parameters())
            wrapped = rank.wrap(model)
            held[name] = sum(map(num_held, wrapped.parameters()))
            held["whole"] = whole
            return wrapped

        place = replace(rank, wrap=wrap, report=die if killed else rank.report)
        try:
            run_worker(job(folder / name, halves=halves), vocabulary, own, place)
        except KilledError:
            dist.barrier()

    train("full", Sharding.FULL)
    train("halves", Sharding.FULL, halves=True)
    train("full-killed", Sharding.FULL, killed=True)
    train("full-then-none", Sharding.FULL, killed=True)
    train("full-then-one", Sharding.FULL, killed=True)
    train("full-killed", Sharding.FULL)
    train("full-then-none", Sharding.NONE)
    dist.destroy_process_group()
    (folder / f"held-{index}.json").write_text(json.dumps(held))


def num_held(parameter: nn.Parameter) -> int:
    return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()


NAMES = ("one", "one-halves", "full", "halves", "full-killed", "full-then-none", "full-then-one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspaces that were trained in, by one process and by two."""
    folder = tmp_path_factory.mktemp("sharded")
    for name in NAMES:
        shop_workspace(Workspace(folder / name))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(index), str(folder)],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(NUM_SHARDS)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "LOG_EVERY_STEPS", 1)
        train_alone(folder / "one")
        train_alone(folder / "one-halves", halves=True)
        errors = [child.communicate(timeout=400)[1] for child in children]
        assert [child.returncode for child in children] == [0, 0], errors
        train_alone(folder / "full-then-one")
    return folder


def train_alone(root: Path, *, halves: bool = False) -> None:
    run_worker(job(root, halves=halves), shop_vocabulary(), shards(), Rank())


def log(root: Path) -> list[dict[str, float]]:
    lines = (job(root).folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(root: Path) -> dict[str, torch.Tensor]:
    return load_file(Workspace(root).checkpoints / "backbone" / WEIGHTS_FILE)


def assert_alike(one: Path, other: Path, tolerance: float, weights_tolerance: float) -> None:
    """Equal losses, gradients and weights, step by step, but for the tolerances."""
    steps, expected = log(one), log(other)
    assert [step["step"] for step in steps] == [step["step"] for step in expected]
    assert len(steps) > KILLED_AT + 1
    for name in ("loss", "next_item", "window_items", "contrastive", "gradient_norm"):
        logged = [step[name] for step in steps]
        wanted = [s[name] for s in expected]
        assert logged == pytest.approx(wanted, rel=tolerance, abs=tolerance), name
        assert logged[0] == pytest.approx(wanted[0], rel=min(tolerance, TOLERANCE)), name
    trained, needed = weights(one), weights(other)
    assert trained.keys() == needed.keys()
    for name, tensor in trained.items():
        torch.testing.assert_close(
            tensor, needed[name], rtol=weights_tolerance, atol=weights_tolerance, msg=name
        )


def test_two_that_share_a_model_train_as_one_does(folder: Path) -> None:
    assert_alike(folder / "full", folder / "one", TOLERANCE, TOLERANCE)
    load_backbone(Workspace(folder / "full").checkpoints / "backbone", shop_vocabulary())


def test_they_do_so_by_halves(folder: Path) -> None:
    one_step = job(folder / "halves").recipe.training.learning_rate
    assert_alike(folder / "halves", folder / "one-halves", HALF_TOLERANCE, one_step)
    assert log(folder / "halves")[0]["loss"] != log(folder / "full")[0]["loss"]


def test_a_resumed_shared_run_equals_an_uninterrupted_one(folder: Path) -> None:
    assert_alike(folder / "full-killed", folder / "full", 0.0, 0.0)


@pytest.mark.parametrize("name", ["full-then-none", "full-then-one"])
def test_others_go_on_with_what_a_shared_run_left(folder: Path, name: str) -> None:
    assert_alike(folder / name, folder / "one", TOLERANCE, TOLERANCE)


def test_each_holds_its_part_of_the_model_alone(folder: Path) -> None:
    held = [json.loads((folder / f"held-{i}.json").read_text()) for i in range(NUM_SHARDS)]
    whole = held[0]["whole"]
    assert sum(one["full"] for one in held) == whole
    assert [one["full"] for one in held] == pytest.approx([whole / NUM_SHARDS] * 2, rel=0.05)
    assert [one["full-then-none"] for one in held] == [whole, whole]
