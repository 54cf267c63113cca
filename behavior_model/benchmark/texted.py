"""What benchmarks share that know items by their texts: read, train within a time, score, rank.

Legend: U users, B users of a chunk, N items, K length of the lists.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from behavior_model.benchmark.answers import Say
from behavior_model.benchmark.baselines.ranking import Scorer, best_columns, chunks
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import NO_ITEM, Interactions, Longs
from behavior_model.benchmark.memories import LASTING_DECAY, profile
from behavior_model.benchmark.recipe import EPOCHS, benchmark_recipe, with_epochs
from behavior_model.benchmark.shop import (
    Outputs,
    Shop,
    epoch_seconds,
    multiplies_bfloat16,
    new_model,
    training_run,
)
from behavior_model.recipes import Recipe
from behavior_model.training.loop import TrainingRun
from behavior_model.unit_rows import unit_rows
from pipelines.errors import SourceError

CONTENT: Final = "content"
POPULARITY: Final = "popularity"
MIN_EVENTS: Final = 2
"""One to look back on and one to be found."""

REPORT_EVERY_S: Final = 30.0


def read_texted(path: Path, items_path: Path) -> Interactions:
    """Users with a history and something to be found after it, items with texts.

    Raises:
        SourceError: a file cannot be used, nothing is written about any item, or no user took
            two items.
    """
    full = read_interactions(path, items_path)
    if not full.has_texts:
        raise SourceError(
            f"{items_path}: no item has a text. This benchmark knows items by their texts alone; "
            "fill in the column 'text'."
        )
    judged = np.flatnonzero(full.lengths >= MIN_EVENTS)
    if not len(judged):
        raise SourceError(
            f"{path}: no user has {MIN_EVENTS} interactions. The last one is the test and needs "
            "a history before it; give longer histories."
        )
    return full.select(judged)


def text_recipe(size: str, history: Interactions, budget_minutes: float) -> Recipe:
    """The benchmark's recipe of a size, in which every text is read, whatever the budget.

    Raises:
        UnknownNameError: no such size.
    """
    recipe = benchmark_recipe(
        size, history, budget_minutes=budget_minutes, bfloat16=multiplies_bfloat16()
    )
    return replace(recipe, model=replace(recipe.model, max_descriptors=history.num_items))


def within(shop: Shop, recipe: Recipe, seed: int, seconds: float) -> Recipe:
    """The recipe with as many epochs as fit into a time on this machine, at least one."""
    probe = training_run(new_model(shop, recipe, seed), shop, recipe, seed)
    epochs = max(1, min(EPOCHS, int(seconds / max(epoch_seconds(probe), 1e-3))))
    return with_epochs(recipe, shop.learned, epochs)


def learn(run: TrainingRun, name: str, say: Say) -> None:
    """Take all steps and leave the model ready to be asked."""
    started = reported = time.monotonic()
    say(f"{name}: {run.config.epochs} epochs of {len(run.loaders[0].epoch(0)):,} steps")
    for report in run.steps():
        now = time.monotonic()
        if report.is_last or now - reported >= REPORT_EVERY_S:
            reported = now
            say(f"{name}: {report.share_done:.0%} after {now - started:.0f} s")
    run.model.eval()


def product_scores(outputs: Outputs) -> Scorer:
    """Scores by a model's outputs."""
    return lambda users: outputs.queries[users] @ outputs.items.T


def popularity_scores(learned: Interactions) -> Scorer:
    """How often each item was taken in what was learned from, the same for every user."""
    counts = learned.counts.astype(np.float32)
    return lambda users: np.tile(counts, (users.stop - users.start, 1))


def content_scores(task: LeaveOneOutTask, shop: Shop) -> Scorer:
    """Likeness of an item's text to those of the history, the latest most; nothing is learned."""
    texts = unit_rows(shop.descriptors)

    def score(users: slice) -> Floats:
        asked = task.history.select(np.arange(users.start, users.stop))
        return np.asarray((profile(asked, LASTING_DECAY) @ texts) @ texts.T, dtype=np.float32)

    return score


def rank(task: LeaveOneOutTask, score: Scorer, k: int) -> Longs:
    """int64[U, K]: the items of the highest scores; nothing is filled up from anywhere else.

    Args:
        task: The question.
        score: Scores of all items.
        k: K.
    """
    lists = np.full((len(task.history), k), NO_ITEM, dtype=np.int64)
    for users in chunks(task):
        lists[users] = best_columns(allowed_scores(task, score, users), k)
    return lists


def allowed_scores(task: LeaveOneOutTask, score: Scorer, users: slice) -> Floats:
    """float32[B, N]: scores, -inf where an item must not be in a user's list."""
    scores = score(users)
    if task.mask_history:
        asked = task.history.select(np.arange(users.start, users.stop))
        scores[asked.users, asked.items] = -np.inf
    return scores
