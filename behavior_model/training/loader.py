"""Batches of one shard: deterministic by (seed, epoch, shard), made while the step before runs."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from behavior_model.model.batch import Segments, lay_out
from behavior_model.objectives.pretraining import TrainingBatch
from behavior_model.objectives.targets import WindowLabeller
from behavior_model.recipes import Recipe
from behavior_model.training.ahead import made_ahead
from behavior_model.training.segments import draw_segments, join, row_length, shuffle_ties
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class ShardLoader:
    """Makes the batches of one shard of users.

    Args:
        vocabulary: The vocabulary of the histories.
        histories: The shard's users, cut at the training cut.
        recipe: Context, probes, batch size.
        cut_us: The training cut.
        window_us: Length of the window ahead.
        seed: Seed of the run.
        shard: Number of this shard.
        num_shards: Shards that share a step's positions.
    """

    vocabulary: Vocabulary
    histories: Histories
    recipe: Recipe
    cut_us: int
    window_us: int
    seed: int
    shard: int = 0
    num_shards: int = 1

    @cached_property
    def labeller(self) -> WindowLabeller:
        """Reads the labels of probes off the shard's histories."""
        return WindowLabeller(self.vocabulary, self.histories, self.cut_us, self.window_us)

    def epoch(self, epoch: int) -> EpochBatches:
        """All batches of an epoch, from any step on."""
        rng = np.random.default_rng((self.seed, epoch, self.shard))
        histories = shuffle_ties(self.vocabulary, self.histories, rng)
        units = list(draw_segments(histories, self.recipe, self.cut_us, rng))
        order = rng.permutation(len(units))
        target = self.recipe.training.batch_tokens // self.num_shards
        return EpochBatches(
            loader=self,
            epoch=epoch,
            histories=histories,
            plan=_fill([units[i] for i in order], target),
        )


@dataclass(frozen=True, kw_only=True)
class EpochBatches:
    """The batches of one epoch; each is made when it is asked for."""

    loader: ShardLoader
    epoch: int
    histories: Histories
    plan: list[Segments]

    def __len__(self) -> int:
        return len(self.plan)

    def make(self, step: int) -> TrainingBatch:
        """The batch of a step, the same whenever it is made."""
        loader = self.loader
        segments = self.plan[step]
        rng = np.random.default_rng((loader.seed, self.epoch, loader.shard, step))
        users = segments.users[segments.probe_segments]
        return TrainingBatch(
            packed=lay_out(loader.vocabulary, self.histories, segments, row_length(loader.recipe)),
            targets=loader.labeller.label(users, segments.probe_times_us, rng),
        )

    def from_step(self, step: int) -> Generator[TrainingBatch, None, None]:
        """Batches from `step` on; the next one is made in a thread while this one is used."""
        return made_ahead(self.make, step, len(self))


def _fill(units: list[list[Segments]], target: int) -> list[Segments]:
    """Group units into batches of about `target` positions; a small remainder is dropped."""
    batches: list[Segments] = []
    current: list[Segments] = []
    size = 0
    for unit in units:
        current += unit
        size += sum(int(part.lengths[0]) for part in unit)
        if size >= target:
            batches.append(join(current))
            current, size = [], 0
    if current and (size >= target // 2 or not batches):
        batches.append(join(current))
    return batches
