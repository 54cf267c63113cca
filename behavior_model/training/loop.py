"""The training loop in plain torch: usable in one process, under Ray Train, or in a test.

A step takes one batch of every shard that this process owns, and averages their gradients; with
several processes the gradients are averaged over them as well. So W processes of one shard each
walk the same path as one process with W shards, but for rounding. Where gradients accumulate it
takes several batches of each shard, weighted by their events, in place of one that holds them all.
All randomness of a batch follows from (seed, step, shard), so a run that resumes in the middle of
an epoch equals one that never stopped, bit for bit at one thread count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from behavior_model.recipes import TrainingConfig
from behavior_model.training.device import PROCESSOR, made_on, moved
from behavior_model.training.placement import Placement
from behavior_model.training.repeatable import repeatable

FINAL_RATE_SHARE = 0.05
_STEP_PRIME = 1_000_003


class Events(Protocol):
    """What a batch holds, as far as the loop cares."""

    @property
    def num_events(self) -> int:
        """How many there are."""


class Batch(Protocol):
    """What a model is given in a step."""

    @property
    def packed(self) -> Events:
        """Its events."""


class Epoch(Protocol):
    """The batches of one epoch."""

    def __len__(self) -> int:
        """How many there are."""

    def from_step(self, step: int) -> Generator[Batch, None, None]:
        """Those from a step on, the same whenever they are made."""


class Loader(Protocol):
    """Makes the batches of one shard."""

    @property
    def shard(self) -> int:
        """Number of the shard."""

    def epoch(self, epoch: int) -> Epoch:
        """All batches of an epoch."""


@dataclass(kw_only=True)
class Progress:
    """Where a run stands: the next step of the next epoch, and steps taken in all."""

    epoch: int = 0
    step: int = 0
    global_step: int = 0


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step gave.

    Args:
        progress: Where the run stands after it.
        losses: Mean over this process's shards, by name.
        num_events: Events of this process's batches.
        learning_rate: Rate of the step.
        share_done: Share of the whole run that is done.
        is_last: No step comes after it.
        gradient_norm: Before clipping.
    """

    progress: Progress
    losses: dict[str, float]
    num_events: int
    learning_rate: float
    share_done: float
    is_last: bool
    gradient_norm: float


@dataclass(kw_only=True)
class TrainingRun:
    """Model, optimiser and place of a run.

    Args:
        model: `PretrainingModel`, or its wrapper for several processes.
        config: How to train.
        loaders: The shards that this process owns.
        seed: Seed of the run.
        agree: Smallest of a number over all processes; by default there is one process.
        placement: How model and optimiser lie over the processes.
        device: Where the model is and its steps are taken.
    """

    model: nn.Module
    config: TrainingConfig
    loaders: Sequence[Loader]
    seed: int
    agree: Callable[[int], int] = lambda number: number
    placement: Placement = field(default_factory=Placement)
    device: torch.device = PROCESSOR

    def __post_init__(self) -> None:
        self.optimiser = make_optimiser(self.model, self.config)
        self.progress = Progress()

    def steps(self) -> Iterator[StepReport]:
        """Take all remaining steps, reporting each."""
        self.model.train()
        for epoch in range(self.progress.epoch, self.config.epochs):
            epochs = [loader.epoch(epoch) for loader in self.loaders]
            num_batches = self.agree(min(len(one) for one in epochs))
            accumulated = self.config.accumulated_batches
            num_steps = -(-num_batches // accumulated)
            sources = [one.from_step(self.progress.step * accumulated) for one in epochs]
            for step in range(self.progress.step, num_steps):
                num_left = num_batches - step * accumulated
                batches = [list(islice(one, min(accumulated, num_left))) for one in sources]
                with _flushed_denormals():
                    report = self._step(batches, epoch, step, num_steps)
                yield report
            for source in sources:
                source.close()
            self.progress.epoch, self.progress.step = epoch + 1, 0

    def state(self, *, keep: bool = True) -> dict[str, Any]:
        """All that later processes need to go on, however many they are.

        Where processes share the model all of them must ask at the same step.

        Args:
            keep: Whether this process wants the tensors, or only helps to gather them.
        """
        optimiser = self.optimiser.state_dict()
        return {
            "model": self.placement.gathered(unwrapped(self.model).state_dict(), keep=keep),
            "optimiser": {
                **optimiser,
                "state": {
                    index: self.placement.gathered(slots, keep=keep)
                    for index, slots in sorted(optimiser["state"].items())
                },
            },
            "progress": vars(self.progress).copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        model, place = unwrapped(self.model), self.placement.placed
        likes = model.state_dict()
        model.load_state_dict({k: place(tensor, likes[k]) for k, tensor in state["model"].items()})
        self.optimiser.load_state_dict(
            {**state["optimiser"], "state": self._placed_slots(state["optimiser"]["state"])}
        )
        self.progress = Progress(**state["progress"])

    def _placed_slots(self, slots: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
        """The optimiser's tensors as its parameters lie; its count of steps is whole everywhere."""
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        return {
            index: {
                name: tensor if name == "step" else self.placement.placed(tensor, parameters[index])
                for name, tensor in own.items()
            }
            for index, own in slots.items()
        }

    def _step(
        self, batches: Sequence[Sequence[Batch]], epoch: int, step: int, num_steps: int
    ) -> StepReport:
        """Take one step.

        Args:
            batches: Those of each shard; all shards have as many.
            epoch: Passes that are done.
            step: Steps of this pass that are done.
            num_steps: Steps of this pass.
        """
        share = (epoch + step / num_steps) / self.config.epochs
        rate = self.config.learning_rate * rate_share(share, self.config.warmup_share)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        with repeatable():
            losses = self._accumulate(batches)
            norm = self.placement.clip(self.model.parameters(), self.config.clip_norm)
            self.optimiser.step()
        self.progress.epoch, self.progress.step = epoch, step + 1
        self.progress.global_step += 1
        return StepReport(
            progress=Progress(**vars(self.progress)),
            losses=losses,
            num_events=sum(batch.packed.num_events for shard in batches for batch in shard),
            learning_rate=rate,
            share_done=(epoch + (step + 1) / num_steps) / self.config.epochs,
            is_last=epoch + 1 == self.config.epochs and step + 1 == num_steps,
            gradient_norm=norm,
        )

    def _accumulate(self, batches: Sequence[Sequence[Batch]]) -> dict[str, float]:
        """Add up gradients: the mean over shards of the mean over a shard's events."""
        sums: dict[str, Tensor] = {}
        first = self.progress.global_step * self.config.accumulated_batches
        num_passes = sum(len(shard) for shard in batches)
        passes = 0
        for loader, shard in zip(self.loaders, batches, strict=True):
            num_events = sum(batch.packed.num_events for batch in shard)
            for position, batch in enumerate(shard):
                passes += 1
                weight = batch.packed.num_events / num_events / len(batches)
                torch.manual_seed(step_seed(self.seed, first + position, loader.shard))
                with self._synchronised(last=passes == num_passes):
                    losses = self._losses(batch)
                    (losses["loss"] * weight).backward()
                for name, loss in losses.items():
                    zero = torch.zeros((), device=self.device)
                    sums[name] = sums.get(name, zero) + loss.detach() * weight
        return {name: float(total) for name, total in sums.items()}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """The model's answer to a batch, by name."""
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16)
        with made_on(self.device), half:
            losses: dict[str, Tensor] = self.model(moved(batch, self.device))
        return losses

    def _synchronised(self, *, last: bool) -> AbstractContextManager[None]:
        """Gradients travel between processes once a step, with the last batch.

        Not so where processes share the model: waiting would mean to hold all gradients whole.
        """
        if last or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without its wrapper for several processes."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    return model


def make_optimiser(model: nn.Module, config: TrainingConfig) -> AdamW:
    """Fused AdamW (Loshchilov and Hutter, 2019); matrices of linear layers alone decay.

    Frozen parameters are none of its business.
    """
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_matrix = isinstance(module, nn.Linear) and name == "weight"
            (decayed if is_matrix else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def rate_share(share: float, warmup_share: float) -> float:
    """Share of the peak rate at a share of the run: linear warm-up, then cosine."""
    if share < warmup_share:
        return max(share, 1e-3) / warmup_share
    cosine = 0.5 * (1.0 + math.cos(math.pi * (share - warmup_share) / (1.0 - warmup_share)))
    return FINAL_RATE_SHARE + (1.0 - FINAL_RATE_SHARE) * cosine


def step_seed(seed: int, global_step: int, shard: int) -> int:
    """Seed of torch's generator for one batch."""
    return (seed * _STEP_PRIME + global_step) * 4_096 + shard


@dataclass(kw_only=True)
class Stopwatch:
    """Events per second and time left of a run."""

    started: float = 0.0
    events: int = 0
    first_share: float | None = None

    def tick(self, report: StepReport) -> tuple[float, float]:
        """(events per second, seconds left) after a step."""
        now = time.monotonic()
        if self.first_share is None:
            self.started, self.first_share = now, report.share_done
            return 0.0, math.inf
        self.events += report.num_events
        seconds = max(now - self.started, 1e-6)
        done = max(report.share_done - self.first_share, 1e-9)
        return self.events / seconds, seconds * (1.0 - report.share_done) / done


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Treat denormal numbers as zero inside; the process is left as it was for other libraries."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
