"""Full ranking of each user's next item: one recipe, every baseline, predictions for all judged.

A split says what is known at validation and at test; all items are ranked, no negatives are
sampled. The backbone is trained twice, side by side: on what is known at validation, so that the
mixture can learn its weights on the validation items, and on what is known at test; where the
budget allows, both again from other seeds, whose opinions are averaged. Memories are counted
likewise. Nothing looks at a test item but the metric.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from behavior_model.benchmark.answers import ModelRun, Options, Say, write_predictions
from behavior_model.benchmark.baselines.ranking import filled, popular_items
from behavior_model.benchmark.baselines.registry import BENCHMARK_BASELINES
from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked, TooSlowError
from behavior_model.benchmark.budget import (
    BASELINES_SHARE,
    MAX_MEMBERS,
    Deadline,
    Plan,
    UserCost,
    plan,
)
from behavior_model.benchmark.features import SHOWN_ALONE, feature_table, feature_tables
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import (
    NO_ITEM,
    POSITION,
    Interactions,
    Longs,
    masks_history,
)
from behavior_model.benchmark.judge import Judge, write_results
from behavior_model.benchmark.memories import HistoryMemories
from behavior_model.benchmark.mixture import Scorer, alone, fit_mixture, top_lists
from behavior_model.benchmark.recipe import benchmark_recipe, with_epochs
from behavior_model.benchmark.shop import (
    Outputs,
    Shop,
    multiplies_bfloat16,
    text_encoder,
)
from behavior_model.benchmark.split import LEAVE_ONE_OUT, Fold, Split
from behavior_model.benchmark.training import BenchmarkJob, seconds_per_epoch, train
from behavior_model.evaluation.results import Result
from behavior_model.heads.pair_features import FeatureTable
from behavior_model.training.ray_session import ray_session
from behavior_model.training.tracking import follow, progress_line

K: Final = 20
JUDGED_AT: Final = (10, 5, 20)
NUM_SIDE_BY_SIDE: Final = 2
MIXTURE: Final = "mixture"
BASELINE_SHARE: Final = 0.1
"""Of the budget, for each baseline."""

FEW_JUDGED: Final = 50
LEAST_MODEL_SHARE: Final = 0.2
"""Of the budget, for the model, however long reading took."""

PREDICTIONS_FILE: Final = "predictions.parquet"


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """A fold as the model is asked it, whatever the seed.

    Args:
        fold: What is known, and what is true.
        task: What the baselines are asked, too.
        memories: Of what is known.
    """

    fold: Fold
    task: LeaveOneOutTask
    memories: HistoryMemories


def run(options: Options, say: Say) -> list[Result]:
    """Train, rank, judge, and write predictions, evaluation and page.

    Raises:
        UserError: a file that cannot be used or split, an unknown size, or a budget that is not
            positive.
    """
    started = time.monotonic()
    deadline = Deadline.after(options.budget_minutes)
    full = read_interactions(options.interactions, options.items)
    say(f"{len(full):,} users, {full.num_items:,} items, {full.num_events:,} interactions")
    split = options.split(full)
    if split.name == LEAVE_ONE_OUT:
        _say_what_is_uncertain(full, say)
    say(str(split.validation))
    say(str(split.test))
    if (num_judged := int(np.count_nonzero(split.test.judged))) < FEW_JUDGED:
        say(f"{num_judged} users are judged, and figures of so few say little; give a larger file")
    job = _test_job(options, split.test)
    validation, test = _questions(split, job, say)
    job, spending = _within_budget(options, job, test, deadline, say)
    runs: list[ModelRun] = []
    with ray_session(NUM_SIDE_BY_SIDE):
        for seed in options.seeds:
            runs.append(_model_run(job, validation, test, seed, spending, say))
            if len(runs) == 1:
                write_predictions(options.out / PREDICTIONS_FILE, runs[0].lists, split.test)
                say(f"predictions: {options.out / PREDICTIONS_FILE}")
    baselines = _baselines(options, test.task, deadline, say) if options.with_baselines else {}
    judge = Judge(
        task=split.name,
        cut=split.cut,
        truths=split.test.truth,
        num_items=full.num_items,
        num_events=full.num_events,
        seed=options.seeds[0],
        started=started,
        judged_at=JUDGED_AT,
        beside_bytes=max(one.training_bytes for one in runs),
    )
    found = judge.results(
        split.test.name,
        [one.lists for one in runs],
        {name: one.lists for name, one in baselines.items()},
        parts={name: [one.parts[name] for one in runs] for name in runs[0].parts},
        users=split.test.judged,
    )
    write_results(options.out, found, company=options.interactions.parent.name)
    return found


def _say_what_is_uncertain(full: Interactions, say: Say) -> None:
    if full.share_tied_at_end:
        say(
            f"{full.share_tied_at_end:.0%} of the users have several last interactions at one "
            f"time: '{POSITION}', else the order of the file's rows, says which is the last"
        )
    if full.num_copies:
        say(
            f"{full.num_copies:,} rows repeat user, item and time of another: they are kept, and "
            "do not count as taking an item again"
        )
    if num_single := int(np.sum(full.lengths == 1)):
        say(
            f"{num_single:,} users have a single interaction: nothing is known of them, so that "
            "their lists are what is popular; they are judged with the others"
        )


def _test_job(options: Options, test: Fold) -> BenchmarkJob:
    """The training on all that is known at the test, as long as the recipe has it."""
    return BenchmarkJob(
        interactions=options.interactions,
        items=options.items,
        cutoff=test.cutoff,
        folder=options.out,
        text_cache=options.out / "text_cache",
        recipe=benchmark_recipe(
            options.size,
            test.history,
            budget_minutes=options.budget_minutes,
            bfloat16=multiplies_bfloat16(),
        ),
        seed=options.seeds[0],
    )


def _questions(split: Split, job: BenchmarkJob, say: Say) -> tuple[Question, Question]:
    """Validation and test."""
    begun = time.monotonic()
    mask_history = masks_history(split.test.history)
    say(
        "hardly anybody takes an item twice: what a user took is left out of the list"
        if mask_history
        else "users take items again: what a user took may be in the list"
    )
    test = _question(split.test, job, mask_history)
    validation = _question(split.validation, job, mask_history)
    encoder = text_encoder(split.test.history, job.text_cache).name
    say(f"texts read by {encoder} and memories counted in {time.monotonic() - begun:.0f} s")
    return validation, test


def _question(fold: Fold, job: BenchmarkJob, mask_history: bool) -> Question:
    history, texts, words = fold.history, None, None
    if history.has_texts:
        shop = Shop.of(history, job.recipe, job.text_cache)
        texts, words = shop.descriptors, shop.words
    return Question(
        fold=fold,
        task=LeaveOneOutTask(history=history, mask_history=mask_history, text_embeddings=texts),
        memories=HistoryMemories.fit(history, texts, words),
    )


def _within_budget(
    options: Options, job: BenchmarkJob, test: Question, deadline: Deadline, say: Say
) -> tuple[BenchmarkJob, Plan]:
    """The training with as many epochs as are affordable, and what else each seed may do."""
    cost = UserCost.measured(test.task, test.memories, job.recipe.model.width)
    epoch_s = seconds_per_epoch(job)
    within = options.with_baselines and options.baseline_minutes is None
    for_baselines = options.budget_minutes * 60 * BASELINES_SHARE * within
    history = test.fold.history
    num_judged = int(np.count_nonzero(test.fold.judged))
    left_s = deadline.left_s - for_baselines
    least_s = options.budget_minutes * 60 * LEAST_MODEL_SHARE
    if left_s < least_s:
        say(
            f"Reading, and what baselines are given, leave {max(left_s, 0.0):.0f} s of "
            f"--budget-minutes to the model, which takes {least_s:.0f} s all the same. Give more "
            "minutes."
        )
        left_s = least_s
    spending = plan(left_s, epoch_s, cost, num_judged, len(options.seeds))
    say(f"{spending} (one epoch alone {epoch_s:.1f} s)")
    if spending.listing_s * len(options.seeds) > left_s:
        say("The lists alone take longer than --budget-minutes has left; nothing shortens them.")
    recipe = with_epochs(job.recipe, history, spending.epochs)
    return replace(job, recipe=recipe, share=spending.share), spending


def _model_run(
    job: BenchmarkJob,
    validation: Question,
    test: Question,
    seed: int,
    spending: Plan,
    say: Say,
) -> ModelRun:
    started = time.monotonic()
    seeds = range(seed * MAX_MEMBERS, seed * MAX_MEMBERS + spending.num_members)
    members = [[_member(job, asked.fold, one) for asked in (validation, test)] for one in seeds]
    for member in members:
        _train_side_by_side(member)
    say(f"seed {seed}: trained in {time.monotonic() - started:.0f} s")
    for_validation, outputs = (_outputs(one) for one in zip(*members, strict=True))
    table, truth = _learning_table(validation, for_validation, spending.num_learned)
    mixture = fit_mixture(table, truth, seed=seed)
    scorers = {name: partial(alone, name=name) for name in SHOWN_ALONE if name in table.names}
    parts = _ranked(test, outputs, {MIXTURE: mixture.score, **scorers})
    lists = parts.pop(MIXTURE)
    speed = float(np.mean([one.events_per_second for one in outputs]))
    judged = ", ".join(f"{name} {value:.4f}" for name, value in mixture.selection.items())
    say(f"seed {seed}: {speed:,.0f} events per second and thread")
    say(
        f"seed {seed}: mixed by {mixture.name} (validation NDCG@10: {judged}); the true item is a "
        f"candidate of {mixture.reach:.0%} of the users"
    )
    pairs = zip(for_validation, outputs, strict=True)
    return ModelRun(lists, parts, max(a.peak_memory_bytes + b.peak_memory_bytes for a, b in pairs))


def _member(job: BenchmarkJob, fold: Fold, seed: int) -> BenchmarkJob:
    folder = job.folder / "runs" / f"{seed}-{fold.name}"
    return replace(job, cutoff=fold.cutoff, seed=seed, folder=folder)


def _train_side_by_side(jobs: list[BenchmarkJob]) -> None:
    """Under a running Ray session, one task each."""
    import ray

    with progress_line() as line, follow(jobs[-1].log_path, [line]):
        remote = ray.remote(num_cpus=1)(train)
        ray.get([remote.remote(job) for job in jobs])


def _outputs(members: Sequence[BenchmarkJob]) -> list[Outputs]:
    return [Outputs.load(member.folder) for member in members]


def _learning_table(
    validation: Question, outputs: Sequence[Outputs], num_learned: int
) -> tuple[FeatureTable, Longs]:
    """Candidates of at most so many judged users, and what is true of each of these users."""
    task, truth = validation.task, validation.fold.truth
    judged = np.flatnonzero(validation.fold.judged)
    if len(judged) == 0:
        judged = np.arange(len(truth))
    chosen = judged[:: -(-len(judged) // num_learned)]
    sample, asked = _sampled(task, outputs, chosen)
    return feature_table(sample, asked, validation.memories), truth[chosen]


def _sampled(
    task: LeaveOneOutTask, outputs: Sequence[Outputs], users: Longs
) -> tuple[LeaveOneOutTask, list[Outputs]]:
    """The same question about some of the users."""
    if len(users) == len(task.history):
        return task, list(outputs)
    sample = replace(task, history=task.history.select(users))
    return sample, [replace(one, queries=one.queries[users]) for one in outputs]


def _ranked(
    question: Question, outputs: Sequence[Outputs], scorers: Mapping[str, Scorer]
) -> dict[str, Longs]:
    """int64[U, K] by each score, of judged users: the best candidates, then popular items."""
    task, judged = question.task, np.flatnonzero(question.fold.judged)
    lists = {name: np.full((len(task.history), K), NO_ITEM, dtype=np.int64) for name in scorers}
    sample, asked = _sampled(task, outputs, judged)
    for users, table in feature_tables(sample, asked, question.memories):
        for name, score in scorers.items():
            best = top_lists(table, score(table), users.stop - users.start, K)
            lists[name][judged[users]] = best
    popular = popular_items(task.history)
    return {name: filled(task, one, popular) for name, one in lists.items()}


def _baselines(
    options: Options, task: LeaveOneOutTask, deadline: Deadline, say: Say
) -> dict[str, Ranked]:
    """Every baseline that fits, in kind and in time."""
    minutes = options.baseline_minutes or options.budget_minutes * BASELINE_SHARE
    task = replace(task, budget_s=minutes * 60)
    found: dict[str, Ranked] = {}
    for name, entry in BENCHMARK_BASELINES.items():
        obstacle = entry.obstacle(task)
        if options.baseline_minutes is None and not deadline.left_s and not entry.is_quick:
            obstacle = "--budget-minutes are over; give more, or --baseline-minutes"
        if obstacle is not None:
            say(f"baseline {name} left out: {obstacle}")
            continue
        try:
            found[name] = entry.rank(task, K, seed=options.seeds[0])
        except TooSlowError as error:
            say(f"baseline {name} left out: {error}")
            continue
        speed = found[name].train_events_per_second
        learned = "" if speed is None else f", {speed:,.0f} next items learned per second"
        say(f"baseline {name}: {found[name].seconds:.0f} s, {dict(found[name].knob)}{learned}")
    return found
