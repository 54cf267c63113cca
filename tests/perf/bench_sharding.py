"""Two processes on this machine, each with the whole model or with a part: memory and step time.

Run: `python tests/perf/bench_sharding.py [--size small] [--batch-tokens N]`. Made-up histories, one
thread per process, gloo; the two ways take turns, so that a busy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from behavior_model.recipes import Recipe, recipe_for
from behavior_model.training.group import rank_in_group
from behavior_model.training.loader import ShardLoader
from behavior_model.training.loop import TrainingRun
from behavior_model.training.processes import Sharding
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    shop_content,
    shop_histories,
    shop_model,
    shop_vocabulary,
)

NUM_PROCESSES = 2
WARM_STEPS = 1
STEPS = 5
MIB = 2**20


def measure(sharding: Sharding, recipe: Recipe) -> dict[str, float]:
    """Of this process: median step, memory held between steps by the training, largest memory."""
    torch.set_num_threads(1)
    vocabulary = shop_vocabulary()
    content = shop_content(vocabulary)
    rank = rank_in_group(sharding)
    torch.manual_seed(0)
    model = shop_model(recipe, content)
    loader = ShardLoader(
        vocabulary=vocabulary,
        histories=shop_histories(400, seed=rank.index),
        recipe=recipe,
        cut_us=CUT_US,
        window_us=WINDOW_US,
        seed=0,
        shard=rank.index,
        num_shards=NUM_PROCESSES,
    )
    run = TrainingRun(
        model=rank.wrap(model),
        config=recipe.training,
        loaders=[loader],
        seed=0,
        agree=rank.agree,
        placement=rank.placement,
    )
    seconds, processor, started = [], [], (time.monotonic(), time.process_time())
    for report in run.steps():
        now = (time.monotonic(), time.process_time())
        if report.progress.global_step > WARM_STEPS:
            seconds.append(now[0] - started[0])
            processor.append(now[1] - started[1])
        if report.progress.global_step == WARM_STEPS + STEPS:
            break
        started = (time.monotonic(), time.process_time())
    parameters = list(run.model.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    moments = [t for p in parameters for t in run.optimiser.state[p].values()]
    return {
        "parameters": sum(p.numel() for p in parameters),
        "loss": report.losses["loss"],
        "step_s": statistics.median(seconds),
        "processor_s": statistics.median(processor),
        "held_mib": sum(map(held_bytes, [parameters, gradients, moments])) / MIB,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024,
    }


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of this process."""
    local = (one.to_local() if isinstance(one, DTensor) else one for one in tensors)
    return sum(one.numel() * one.element_size() for one in local)


def as_process(arguments: argparse.Namespace) -> None:
    """Measure in one of the processes; print the figures as JSON."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{arguments.group}",
        rank=arguments.rank,
        world_size=NUM_PROCESSES,
    )
    recipe = recipe_for(arguments.size, num_events=100_000)
    recipe = replace(
        recipe,
        model=replace(recipe.model, word_width=16),
        training=replace(
            recipe.training, batch_tokens=arguments.batch_tokens or recipe.training.batch_tokens
        ),
    )
    print(json.dumps(measure(Sharding(arguments.sharding), recipe)))
    dist.destroy_process_group()


def both(sharding: Sharding, arguments: list[str]) -> list[dict[str, float]]:
    """Start the processes and collect what they measured."""
    with tempfile.TemporaryDirectory() as folder:
        children = [
            subprocess.Popen(
                [
                    *(sys.executable, __file__, *arguments, "--sharding", sharding),
                    *("--rank", str(rank), "--group", f"{folder}/group"),
                ],
                stdout=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                text=True,
            )
            for rank in range(NUM_PROCESSES)
        ]
        outputs = [child.communicate()[0] for child in children]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch-tokens", type=int, help="over both; by default as the recipe says")
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("rank", "sharding", "group"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        arguments.rank = int(arguments.rank)
        as_process(arguments)
        return
    rounds: dict[Sharding, list[dict[str, float]]] = {one: [] for one in Sharding}
    for _ in range(arguments.rounds):
        for sharding, measured in rounds.items():
            measured += both(sharding, sys.argv[1:])
    for sharding, measured in rounds.items():
        figures = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
        print(f"{sharding}: " + ", ".join(f"{name} {v:,.3f}" for name, v in figures.items()))


if __name__ == "__main__":
    main()
