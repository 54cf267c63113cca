"""Many trainings of one study, two at a time; what is done is never done again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from behavior_model.benchmark.answers import Say
from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.recipe import benchmark_recipe
from behavior_model.benchmark.shop import Outputs, Shop, multiplies_bfloat16
from behavior_model.benchmark.training import BenchmarkJob, train
from behavior_model.benchmark.validation import Validation, validate
from behavior_model.recipes import Recipe
from behavior_model.training.ray_session import ray_session
from pipelines.errors import UserError

CONCURRENT_RUNS: Final = 2
BUDGET_MINUTES: Final = 30.0
"""As many texts are read as in a benchmark run of this length."""


def run_all(jobs: Sequence[BenchmarkJob], say: Say) -> list[Validation]:
    """Train and judge every job that has no figures yet; figures of all, in order.

    A job that was interrupted goes on from its last checkpoint.
    """
    waiting = [job for job in jobs if Validation.load(job) is None]
    say(f"{len(jobs)} trainings, {len(jobs) - len(waiting)} of them done earlier")
    if waiting:
        _read_texts(waiting[0])
        _run_side_by_side(waiting, say)
    return [_judged(job) for job in jobs]


def study_recipe(size: str, history: Interactions, epochs: int) -> Recipe:
    """The benchmark's recipe for a study on this machine.

    Raises:
        UserError: no such size, or no epoch.
    """
    if epochs < 1:
        raise UserError(f"--epochs {epochs}: give 1 or more.")
    return benchmark_recipe(
        size,
        history,
        budget_minutes=BUDGET_MINUTES,
        bfloat16=multiplies_bfloat16(),
        epochs=epochs,
    )


def train_and_validate(job: BenchmarkJob) -> None:
    """Train, judge, and keep the figures alone."""
    started = time.monotonic()
    train(job)
    seconds = time.monotonic() - started
    outputs = Outputs.load(job.folder)
    validate(job.asked_about(), outputs, seconds=seconds).save(job)
    Outputs.delete(job.folder)


def _judged(job: BenchmarkJob) -> Validation:
    found = Validation.load(job)
    assert found is not None, f"{job.folder} was trained and left no figures"
    return found


def _read_texts(job: BenchmarkJob) -> None:
    """Fill the cache that all trainings share, so that no two of them read the same text."""
    Shop.of(job.history(), job.recipe, job.text_cache)


def _run_side_by_side(jobs: Sequence[BenchmarkJob], say: Say) -> None:
    import ray

    started = time.monotonic()
    with ray_session(CONCURRENT_RUNS):
        remote = ray.remote(num_cpus=1)(train_and_validate)
        names = {remote.remote(job): job.folder.name for job in jobs}
        running = list(names)
        while running:
            (done, *_), running = ray.wait(running)
            ray.get(done)
            passed = time.monotonic() - started
            left = passed / (len(jobs) - len(running)) * len(running)
            say(f"{names[done]} done after {passed:.0f} s, about {left:.0f} s left")
