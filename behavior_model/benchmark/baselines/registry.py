"""Baselines of a benchmark by name. A new one is one file with a `Baseline` and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from behavior_model.benchmark.baselines import (
    als,
    ease,
    gru4rec,
    item_knn,
    own_frequency,
    popularity,
    sasrec,
    transition_graph,
)
from behavior_model.benchmark.baselines.task import Baseline, LeaveOneOutTask


def _no_obstacle(_: LeaveOneOutTask) -> str | None:
    return None


@dataclass(frozen=True)
class Entry:
    """A baseline, and where it does not fit.

    Args:
        rank: The baseline.
        obstacle: Why it cannot or should not be asked a task, None where it can.
        is_quick: Asked even when the time of the run is over, as no figure should stand alone; it
            gives itself up where its share of the time is not enough.
    """

    rank: Baseline
    obstacle: Callable[[LeaveOneOutTask], str | None] = _no_obstacle
    is_quick: bool = False


BENCHMARK_BASELINES: Final[dict[str, Entry]] = {
    "popularity": Entry(popularity.rank, is_quick=True),
    "popularity_recent": Entry(popularity.rank_recent, is_quick=True),
    "own_frequency_decayed": Entry(own_frequency.rank, own_frequency.obstacle, is_quick=True),
    "item_knn": Entry(item_knn.rank, is_quick=True),
    "als": Entry(als.rank, is_quick=True),
    "ease": Entry(ease.rank, ease.obstacle, is_quick=True),
    "transition_graph": Entry(transition_graph.rank, is_quick=True),
    "gru4rec": Entry(gru4rec.rank),
    "sasrec": Entry(sasrec.rank),
}
