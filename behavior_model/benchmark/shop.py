"""One shop and a next-item model of it in this process: fit, ask, rank.

Legend: U users, B users of a chunk, N items, D width, K length of the lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from behavior_model.benchmark.baselines.ranking import best_columns, chunks
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask
from behavior_model.benchmark.interactions import NO_ITEM, Interactions, Longs, read_interactions
from behavior_model.benchmark.sequences import Encoded, SequenceLoader, encode, histories_of
from behavior_model.benchmark.training import Outputs, content_of, epoch_seconds, user_queries
from behavior_model.embedding import item_embeddings
from behavior_model.items import ItemContent
from behavior_model.model.backbone import new_backbone
from behavior_model.objectives.next_item import NextItemModel
from behavior_model.recipes import Recipe
from behavior_model.training.loop import TrainingRun
from pipelines.errors import SourceError
from pipelines.tokens.binning import DAY_US

MIN_EVENTS: Final = 2
"""One to look back on and one to be found."""

REPORTS_PER_RUN: Final = 5

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Shop:
    """What may be learned of a shop.

    Args:
        learned: Histories that are learned from; the catalogue is the whole one.
        encoded: The same in the platform's terms: item counts are those of `learned`.
        content: Content of every item.
    """

    learned: Interactions
    encoded: Encoded
    content: ItemContent

    @classmethod
    def of(cls, learned: Interactions, recipe: Recipe, text_cache: Path) -> Shop:
        """Encode histories and read the texts of the catalogue."""
        encoded = encode(learned)
        return cls(learned, encoded, content_of(learned, encoded, recipe, text_cache))

    @property
    def texts(self) -> Floats:
        """float32[N, T1], the encoder's embedding of each item's text, of length 1 or 0."""
        rows = self.content.descriptors[self.content.descriptor_idx[self.encoded.item_idx]]
        lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
        return np.asarray(rows / lengths, dtype=np.float32)


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


def new_model(
    shop: Shop, recipe: Recipe, seed: int, *, sold_negatives: bool = False
) -> NextItemModel:
    """An untrained model of a shop."""
    torch.manual_seed(seed)
    backbone = new_backbone(shop.encoded.vocabulary, shop.content, recipe.model, DAY_US)
    return NextItemModel(
        backbone, shop.content, recipe.training.num_negatives, sold_negatives=sold_negatives
    ).eval()


def training_run(model: NextItemModel, shop: Shop, recipe: Recipe, seed: int) -> TrainingRun:
    """The training of a model on its shop, before the first step."""
    torch.set_num_threads(recipe.training.num_threads)
    loader = SequenceLoader(encoded=shop.encoded, recipe=recipe, seed=seed)
    return TrainingRun(model=model, config=recipe.training, loaders=[loader], seed=seed)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The same recipe for another number of passes."""
    return replace(recipe, training=replace(recipe.training, epochs=epochs))


def affordable_epochs(run: TrainingRun, seconds: float, most: int) -> int:
    """Epochs that fit into a time, at least one; the run is of no use afterwards."""
    return max(1, min(most, int(seconds / epoch_seconds(run))))


def learn(run: TrainingRun, name: str, say: Say) -> int:
    """Take all steps and leave the model ready to be asked; returns how many steps there were."""
    started, reported = time.monotonic(), 0
    for report in run.steps():
        due = int(report.share_done * REPORTS_PER_RUN)
        if due > reported:
            reported = due
            spent = time.monotonic() - started
            say(f"{name}: {report.share_done:.0%}, loss {report.losses['loss']:.3f}, {spent:.0f} s")
    run.model.eval()
    return run.progress.global_step


def ask(model: NextItemModel, shop: Shop, history: Interactions) -> Outputs:
    """What a trained model says of any users of its shop.

    Args:
        model: In evaluation mode.
        shop: The shop that the model was made for.
        history: Users to be asked about, with the shop's catalogue; not learned from.
    """
    encoded = replace(shop.encoded, histories=histories_of(history, shop.encoded.item_idx))
    return Outputs(
        queries=user_queries(model, encoded, model.backbone.config.model.context),
        items=item_embeddings(model.backbone, shop.content)[shop.encoded.item_idx],
        events_per_second=0.0,
    )


def rank(task: LeaveOneOutTask, outputs: Outputs, k: int) -> Longs:
    """int64[U, K]: the items of the highest products, the best first."""
    return rank_scores(task, lambda users: outputs.queries[users] @ outputs.items.T, k)


def rank_scores(task: LeaveOneOutTask, score: Callable[[slice], Floats], k: int) -> Longs:
    """int64[U, K]: the items of the highest scores; nothing is filled up from anywhere else.

    Args:
        task: The question.
        score: float32[B, N] of B users that stand together, to be overwritten.
        k: K.
    """
    lists = np.full((len(task.history), k), NO_ITEM, dtype=np.int64)
    for users in chunks(task):
        scores = score(users)
        if task.mask_history:
            asked = task.history.select(np.arange(users.start, users.stop))
            scores[asked.users, asked.items] = -np.inf
        lists[users] = best_columns(scores, k)
    return lists
