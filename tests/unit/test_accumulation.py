"""Gradients that accumulate: several batches in a step are one batch that holds them all."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from behavior_model.recipes import TrainingConfig
from behavior_model.training.loop import StepReport, TrainingRun

CONFIG = TrainingConfig(epochs=2, batch_tokens=1, learning_rate=0.05, num_negatives=1)
SIZES = (5, 2, 4, 1, 3, 6, 2)


@dataclass
class Rows:
    """A batch of the regression below; it counts its rows as events."""

    x_RD: Tensor
    y_R: Tensor

    @property
    def packed(self) -> Rows:
        return self

    @property
    def num_events(self) -> int:
        return len(self.y_R)


@dataclass
class RowsEpoch:
    batches: list[Rows]

    def __len__(self) -> int:
        return len(self.batches)

    def from_step(self, step: int) -> Generator[Rows, None, None]:
        yield from self.batches[step:]


@dataclass
class RowsLoader:
    batches: list[Rows]
    shard: int = 0

    def epoch(self, epoch: int) -> RowsEpoch:
        return RowsEpoch(self.batches)


class Regression(nn.Module):
    """Mean squared error over the rows of a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def forward(self, batch: Rows) -> dict[str, Tensor]:
        return {"loss": (self.layer(batch.x_RD).squeeze(1) - batch.y_R).square().mean()}


def small_batches(shard: int = 0) -> list[Rows]:
    generator = torch.Generator().manual_seed(shard)
    return [
        Rows(torch.randn(n, 3, generator=generator), torch.randn(n, generator=generator))
        for n in SIZES
    ]


def unions(batches: list[Rows], size: int) -> list[Rows]:
    groups = [batches[i : i + size] for i in range(0, len(batches), size)]
    return [
        Rows(torch.cat([one.x_RD for one in group]), torch.cat([one.y_R for one in group]))
        for group in groups
    ]


def trained(loaders: list[RowsLoader], accumulated: int) -> tuple[list[StepReport], Tensor]:
    config = replace(CONFIG, accumulated_batches=accumulated)
    run = TrainingRun(model=Regression(), config=config, loaders=loaders, seed=0)
    reports = list(run.steps())
    return reports, torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.parametrize("accumulated", [2, 3, 7, 9])
@pytest.mark.parametrize("num_shards", [1, 2])
def test_accumulated_batches_are_their_union(accumulated: int, num_shards: int) -> None:
    shards = [small_batches(shard) for shard in range(num_shards)]
    small = [RowsLoader(batches, shard) for shard, batches in enumerate(shards)]
    large = [RowsLoader(unions(batches, accumulated), i) for i, batches in enumerate(shards)]
    reports, weights = trained(small, accumulated)
    expected_reports, expected = trained(large, 1)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-6)
    assert len(reports) == len(expected_reports) == 2 * -(-len(SIZES) // accumulated)
    for one, other in zip(reports, expected_reports, strict=True):
        assert one.losses["loss"] == pytest.approx(other.losses["loss"], rel=1e-5)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
        assert (one.num_events, one.is_last) == (other.num_events, other.is_last)


def test_a_run_goes_on_at_the_batch_where_it_stopped() -> None:
    config = replace(CONFIG, accumulated_batches=2)
    loaders = [RowsLoader(small_batches())]
    stopped = TrainingRun(model=Regression(), config=config, loaders=loaders, seed=0)
    steps = stopped.steps()
    for _ in range(6):  # two steps into the second pass
        next(steps)
    resumed = TrainingRun(model=Regression(), config=config, loaders=loaders, seed=0)
    resumed.restore(stopped.state())
    losses = [report.losses["loss"] for report in resumed.steps()]
    whole, _ = trained(loaders, 2)
    assert losses == [report.losses["loss"] for report in whole[6:]]
    assert np.isfinite(losses).all()
