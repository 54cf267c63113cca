"""Speed of the benchmark's training beside a plain SASRec, and how near it comes to the processor.

Run: `python tests/perf/bench_next_item.py --interactions FILE [--items FILE] [--rectools PYTHON]`.
One thread each, in turns, three rounds. Processor time, so that a busy machine disturbs the figures
little; medians. PYTHON is the interpreter of an environment with `rectools[torch]` (made with
`python -m venv`): its SASRec then takes its turn too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from behavior_model.benchmark.baselines.sasrec import SasrecConfig
from behavior_model.benchmark.baselines.sequence_training import (
    SequenceTraining,
    SequenceTrainingConfig,
)
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.recipe import benchmark_recipe
from behavior_model.benchmark.shop import Shop, multiplies_bfloat16, new_model, training_run
from behavior_model.training.loop import TrainingRun
from tests.perf.training_speed import events_per_processor_second

WIDTH_64 = "0.1M"
NUM_USERS = 4_000
ROUNDS = 3
WARM_STEPS = 3
STEPS = 20
SQUARE = 1_024
PLAIN_NEGATIVES = SequenceTrainingConfig.num_negatives
RECTOOLS_NEGATIVES = {"full softmax": 0, "256 negatives": 256}


def new_run(history: Interactions, size: str, cache: Path) -> TrainingRun:
    """The recipe of a size on a history, as the benchmark trains it."""
    recipe = benchmark_recipe(size, history, budget_minutes=0, bfloat16=multiplies_bfloat16())
    if size == WIDTH_64:
        recipe = replace(recipe, model=replace(recipe.model, width=64, num_layers=2, num_heads=2))
    shop = Shop.of(history, recipe, cache)
    return training_run(new_model(shop, recipe, 0), shop, recipe, 0)


def our_speed(history: Interactions, cache: Path) -> float:
    """Events per processor second at width 64, two layers."""
    run = new_run(history, WIDTH_64, cache)
    return events_per_processor_second(run, warm_steps=WARM_STEPS, steps=STEPS)


def sasrec_speed(history: Interactions) -> float:
    """Events per processor second of a plain SASRec of the same width and depth."""
    training = SequenceTraining(history, SequenceTrainingConfig(encoder=SasrecConfig(width=64)), 0)
    started = time.process_time()
    training.run_epoch()
    return history.num_events / (time.process_time() - started)


def rectools_speed(python: Path, history: Path, num_negatives: int) -> float:
    """Events per processor second of RecTools' SASRec; 0 negatives are the full softmax."""
    script = Path(__file__).with_name("rectools_sasrec.py")
    command = [str(python), str(script), str(history), str(num_negatives)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return float(found.stdout.split()[-1])


def write_history(path: Path, history: Interactions) -> None:
    """One line per event: user, item and the place in the order of all."""
    users = np.repeat(np.arange(len(history)), history.lengths)
    rows = np.stack([users, history.items, np.arange(history.num_events)], axis=1)
    np.savetxt(path, rows, fmt="%d", delimiter=",", header="user,item,place", comments="")


def multiplication_share(history: Interactions, cache: Path) -> tuple[float, float]:
    """(rate of a whole training step, rate of multiplying large matrices), at size small.

    Both in floating-point operations per processor second, in the precision of the recipe.
    """
    run = new_run(history, "small", cache)
    steps = run.steps()
    for _ in range(WARM_STEPS):
        next(steps)
    with FlopCounterMode(display=False) as counter:
        next(steps)
    seconds = [timed(lambda: next(steps)) for _ in range(2 * ROUNDS)]
    dtype = torch.bfloat16 if run.config.bfloat16 else torch.float32
    square = torch.randn(SQUARE, SQUARE).to(dtype)
    peak = median(timed(lambda: square @ square) for _ in range(STEPS))
    return counter.get_total_flops() / median(seconds), 2 * SQUARE**3 / peak


def timed(work: Callable[[], object]) -> float:
    """Processor seconds of a piece of work."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--rectools", type=Path, metavar="PYTHON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    full = read_interactions(arguments.interactions, arguments.items)
    users = np.linspace(0, len(full) - 1, min(NUM_USERS, len(full))).astype(np.int64)
    history = full.select(np.unique(users)).without_last()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_history(folder / "history.csv", history)
        others: dict[str, Callable[[], float]] = {
            f"plain SASRec, {PLAIN_NEGATIVES} negatives": lambda: sasrec_speed(history)
        }
        if arguments.rectools:
            for kind, negatives in RECTOOLS_NEGATIVES.items():
                others[f"RecTools SASRec, {kind}"] = partial(
                    rectools_speed, arguments.rectools, folder / "history.csv", negatives
                )
        rounds = [
            (our_speed(history, folder), [speed() for speed in others.values()])
            for _ in range(ROUNDS)
        ]
        step, peak = multiplication_share(history, folder)
    print(f"{len(history):,} users, {history.num_items:,} items, {history.num_events:,} events")
    print("events per processor second, all of width 64 and two layers:")
    print(f"this recipe: {median(ours for ours, _ in rounds):,.0f}")
    for i, name in enumerate(others):
        speed = median(theirs[i] for _, theirs in rounds)
        ratio = median(ours / theirs[i] for ours, theirs in rounds)
        print(f"{name}: {speed:,.0f}; ratio {ratio:.2f}")
    print(
        f"size small, one step: {step / 1e9:.1f} GFLOP/s of {peak / 1e9:.1f} that large matrices "
        f"reach: {step / peak:.0%}"
    )


if __name__ == "__main__":
    main()
