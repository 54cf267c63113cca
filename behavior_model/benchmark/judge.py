"""Lists against the item that each user took last: results that share the facts of one run.

Legend: U users, K length of the lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.benchmark.interactions import Bools, Longs
from behavior_model.evaluation.measurement import peak_memory_bytes
from behavior_model.evaluation.metrics import Doubles, mean_with_interval, ndcg_at_k, recall_at_k
from behavior_model.evaluation.report import write_page
from behavior_model.evaluation.results import Result, write_evaluation

K: Final = 10
CUT: Final = "the last interaction of each user"
EVALUATION_FILE: Final = "evaluation.json"
PAGE_FILE: Final = "evaluation.html"

Measure = Callable[[npt.NDArray[np.integer], Sequence[npt.NDArray[np.integer]], int], Doubles]
NDCG: Final = f"ndcg@{K}"
RECALL: Final = f"recall@{K}"
METRICS: Final[Mapping[str, Measure]] = {NDCG: ndcg_at_k, RECALL: recall_at_k}


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Judges lists for the same users, again and again.

    Args:
        task: Task name.
        truths: int64[U], the item to be found.
        num_items: Items that are ranked.
        num_events: Events that were learned from.
        seed: Seed of the run.
        started: When what is judged began, on the monotonic clock.
    """

    task: str
    truths: Longs
    num_items: int
    num_events: int
    seed: int
    started: float

    def results(
        self,
        split: str,
        model: Longs,
        baselines: Mapping[str, Longs],
        *,
        parts: Mapping[str, Longs] | None = None,
        users: Bools | None = None,
    ) -> list[Result]:
        """One result per metric.

        Args:
            split: "test", with a slice named after a slash.
            model: int64[U, K], the best first.
            baselines: Likewise, by name.
            parts: Likewise, of the model.
            users: bool[U], who is judged; everybody where None.
        """
        chosen = np.ones(len(self.truths), np.bool_) if users is None else users

        def means(metric: str, lists: Mapping[str, Longs]) -> dict[str, float]:
            return {
                name: float(self.per_user(metric, one)[chosen].mean())
                for name, one in lists.items()
            }

        return [
            self.result(
                metric,
                split,
                mean_with_interval(self.per_user(metric, model)[chosen]),
                means(metric, baselines),
                num_users=int(chosen.sum()),
                parts=means(metric, parts or {}),
            )
            for metric in METRICS
        ]

    def per_user(self, metric: str, lists: Longs) -> Doubles:
        """float64[U]: a metric of `METRICS` for each user."""
        return METRICS[metric](lists, list(self.truths[:, None]), K)

    def result(
        self,
        metric: str,
        split: str,
        model: tuple[float, tuple[float, float]],
        baselines: Mapping[str, float],
        *,
        num_users: int,
        parts: Mapping[str, float],
    ) -> Result:
        """One figure with the facts of the run; the model's comes with its interval."""
        return Result(
            task=self.task,
            metric=metric,
            split=split,
            cut=CUT,
            model=model[0],
            interval=model[1],
            baselines=baselines,
            parts=parts,
            num_users=num_users,
            num_items=self.num_items,
            num_events=self.num_events,
            seed=self.seed,
            seconds=time.monotonic() - self.started,
            peak_memory_bytes=peak_memory_bytes(),
        )


def write_results(out: Path, results: Sequence[Result]) -> None:
    """Write the evaluation and its page into a folder."""
    write_evaluation(out / EVALUATION_FILE, results)
    write_page(out / PAGE_FILE, results, company=out.name)
