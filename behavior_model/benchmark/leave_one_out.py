"""Leave-one-out with full ranking: one recipe, every baseline, predictions for everyone.

The last item of each user is the test item and the second last the validation item; all items are
ranked, no negatives are sampled. The backbone is trained twice, side by side: once without the last
two items, so that the mixture can learn its weights on the validation items, and once without the
test item alone; where the budget allows, both again from other seeds, whose opinions are averaged.
Memories are counted again likewise. Nothing looks at a test item but the metric.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import numpy as np

from behavior_model.benchmark.baselines import sasrec
from behavior_model.benchmark.baselines.ranking import filled, popular_items
from behavior_model.benchmark.baselines.registry import BENCHMARK_BASELINES
from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked
from behavior_model.benchmark.features import LENGTH, feature_table
from behavior_model.benchmark.interactions import Interactions, Longs, read_interactions
from behavior_model.benchmark.judgement import ModelRun, Options, results, write_predictions
from behavior_model.benchmark.memories import HistoryMemories
from behavior_model.benchmark.mixture import alone, fit_mixture, top_lists
from behavior_model.benchmark.recipe import EPOCHS, recipe_for
from behavior_model.benchmark.sequences import encode
from behavior_model.benchmark.training import (
    BenchmarkJob,
    Outputs,
    content_of,
    multiplies_bfloat16,
    seconds_per_epoch,
    text_encoder,
    train,
)
from behavior_model.evaluation.report import write_page
from behavior_model.evaluation.results import Result, write_evaluation
from behavior_model.heads.pair_features import FeatureTable
from behavior_model.training.ray_session import ray_session
from behavior_model.training.tracking import follow, progress_line
from pipelines.errors import UserError

K: Final = 20
TRAINING_SHARE: Final = {True: 0.5, False: 0.75}
"""Of the budget, for the trainings, with baselines and without."""

SIDE_BY_SIDE: Final = 1.3
"""How much slower a training is beside another one on the same memory."""

MAX_MEMBERS: Final = 4
"""Backbones from different seeds whose opinions are averaged, as many as the budget pays for."""

SASREC_SHARE: Final = 0.15
REPEATS_ARE_RARE: Final = 0.01
PREDICTIONS_FILE: Final = "predictions.parquet"
EVALUATION_FILE: Final = "evaluation.json"
PAGE_FILE: Final = "evaluation.html"

Say = Callable[[str], None]


def run(options: Options, say: Say) -> list[Result]:
    """Train, rank, judge, and write predictions, evaluation and page.

    Raises:
        UserError: a file that cannot be used, an unknown size, or a budget that is not positive.
    """
    if options.budget_minutes <= 0:
        raise UserError(f"--budget-minutes {options.budget_minutes}: give a number above 0.")
    started = time.monotonic()
    full = read_interactions(options.interactions, options.items)
    say(f"{len(full):,} users, {full.num_items:,} items, {full.num_events:,} interactions")
    jobs, num_members = _jobs(options, full, say)
    runs: list[ModelRun] = []
    for seed in options.seeds:
        runs.append(_model_run(options, full, seed, jobs, num_members, say))
        if len(runs) == 1:
            write_predictions(options.out / PREDICTIONS_FILE, full, runs[0].lists)
            say(f"predictions: {options.out / PREDICTIONS_FILE}")
    baselines = _baselines(options, full, say) if options.with_baselines else {}
    found = results(full, options, runs, baselines, time.monotonic() - started)
    write_evaluation(options.out / EVALUATION_FILE, found)
    write_page(options.out / PAGE_FILE, found, company=options.interactions.parent.name)
    return found


def _jobs(
    options: Options, full: Interactions, say: Say
) -> tuple[tuple[BenchmarkJob, BenchmarkJob], int]:
    """The trainings for validation and for test, and how often they are done from other seeds.

    A small budget pays for fewer epochs, a large one for more members.
    """
    history = full.without_last()
    recipe_at = partial(
        recipe_for,
        options.size,
        history,
        budget_minutes=options.budget_minutes,
        bfloat16=multiplies_bfloat16(),
    )
    recipe = recipe_at()
    cache = options.out / "text_cache"
    job = BenchmarkJob(
        interactions=options.interactions,
        items=options.items,
        num_hidden=1,
        folder=options.out,
        text_cache=cache,
        recipe=recipe,
        seed=options.seeds[0],
    )
    begun = time.monotonic()
    content_of(history, encode(history), recipe, cache)
    say(f"texts read by {text_encoder(history, cache).name} in {time.monotonic() - begun:.0f} s")
    share = TRAINING_SHARE[options.with_baselines]
    left_s = options.budget_minutes * 60 * share / len(options.seeds)
    epoch_s = seconds_per_epoch(job) * SIDE_BY_SIDE
    affordable = int(left_s / epoch_s)
    epochs = max(1, min(EPOCHS, affordable))
    num_members = max(1, min(MAX_MEMBERS, affordable // EPOCHS))
    say(
        f"{epochs} epochs of about {epoch_s:.1f} s, two trainings side by side, "
        f"{num_members} of each"
    )
    job = replace(job, recipe=recipe_at(epochs=epochs))
    return (replace(job, num_hidden=2), job), num_members


def _model_run(
    options: Options,
    full: Interactions,
    seed: int,
    jobs: tuple[BenchmarkJob, BenchmarkJob],
    num_members: int,
    say: Say,
) -> ModelRun:
    started = time.monotonic()
    members = [
        [
            replace(job, seed=member, folder=options.out / "runs" / f"{member}-{name}")
            for job, name in zip(jobs, ("validation", "test"), strict=True)
        ]
        for member in range(seed * MAX_MEMBERS, seed * MAX_MEMBERS + num_members)
    ]
    for member in members:
        _train_side_by_side(member)
    say(f"seed {seed}: trained in {time.monotonic() - started:.0f} s")
    for_validation, for_test = zip(*members, strict=True)
    _, earlier, _ = _ask(full, for_validation)
    mixture = fit_mixture(earlier, full.last(1), seed=seed)
    task, table, speed = _ask(full, for_test)
    lists = _complete(task, top_lists(table, mixture.score(table), len(full), K))
    parts = {
        name: _complete(task, top_lists(table, alone(table, name).astype(float), len(full), K))
        for name in table.names
        if name != LENGTH
    }
    judged = ", ".join(f"{name} {value:.4f}" for name, value in mixture.selection.items())
    say(f"seed {seed}: {speed:,.0f} events per second and thread")
    say(f"seed {seed}: mixed by {mixture.name} (validation NDCG@10: {judged})")
    return ModelRun(lists, parts, mixture, time.monotonic() - started, speed)


def _train_side_by_side(jobs: list[BenchmarkJob]) -> None:
    import ray

    with progress_line() as line, follow(jobs[-1].log_path, [line]), ray_session(len(jobs)):
        remote = ray.remote(num_cpus=1)(train)
        ray.get([remote.remote(job) for job in jobs])


def _ask(
    full: Interactions, members: Sequence[BenchmarkJob]
) -> tuple[LeaveOneOutTask, FeatureTable, float]:
    """The question after the jobs' history, its candidates, and events per second of training."""
    job = members[0]
    history = full.without_last(job.num_hidden)
    task = LeaveOneOutTask(history=history, mask_history=masks_history(full))
    encoded = encode(history)
    content = content_of(history, encoded, job.recipe, job.text_cache)
    memories = HistoryMemories.fit(
        history,
        content.descriptors[content.descriptor_idx[encoded.item_idx]] if full.has_texts else None,
        content.words[encoded.item_idx] if full.has_texts else None,
    )
    outputs = [Outputs.load(member.folder) for member in members]
    speed = float(np.mean([one.events_per_second for one in outputs]))
    return task, feature_table(task, outputs, memories), speed


def masks_history(full: Interactions) -> bool:
    """Whether users take nothing twice, read off what comes before the test item."""
    history = full.without_last()
    pairs = history.users * history.num_items + history.items
    repeats = history.num_events - len(np.unique(pairs))
    return repeats < REPEATS_ARE_RARE * max(history.num_events, 1)


def _complete(task: LeaveOneOutTask, lists: Longs) -> Longs:
    return filled(task, lists, popular_items(task.history))


def _baselines(options: Options, full: Interactions, say: Say) -> dict[str, Ranked]:
    """Every baseline that fits, fitted on all but the test item."""
    history = full.without_last()
    texts = None
    if full.has_texts:
        encoded = encode(history)
        recipe = recipe_for(
            options.size, history, budget_minutes=options.budget_minutes, bfloat16=False
        )
        content = content_of(history, encoded, recipe, options.out / "text_cache")
        texts = content.descriptors[content.descriptor_idx[encoded.item_idx]]
    task = LeaveOneOutTask(history=history, mask_history=masks_history(full), text_embeddings=texts)
    config = sasrec.SasrecConfig(budget_s=options.budget_minutes * 60 * SASREC_SHARE)
    found: dict[str, Ranked] = {}
    for name, entry in BENCHMARK_BASELINES.items():
        obstacle = entry.obstacle(task)
        if obstacle is not None:
            say(f"baseline {name} left out: {obstacle}")
            continue
        rank = partial(sasrec.rank, config=config) if name == "sasrec" else entry.rank
        found[name] = rank(task, K, seed=options.seeds[0])
        speed = found[name].train_events_per_second
        learned = "" if speed is None else f", {speed:,.0f} next items learned per second"
        say(f"baseline {name}: {found[name].seconds:.0f} s, {dict(found[name].knob)}{learned}")
    return found
