"""Lists against the true item of each user: results that share the facts of one run.

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
from behavior_model.evaluation.comparison import Comparison, compare_means
from behavior_model.evaluation.report import write_page
from behavior_model.evaluation.results import Result, write_evaluation
from behavior_model.metrics import Doubles, ndcg_at_k, recall_at_k
from behavior_model.peak_memory import peak_memory_bytes

K: Final = 10
EVALUATION_FILE: Final = "evaluation.json"
PAGE_FILE: Final = "evaluation.html"

Measure = Callable[[npt.NDArray[np.integer], Sequence[npt.NDArray[np.integer]], int], Doubles]
METRICS: Final[Mapping[str, Measure]] = {"ndcg": ndcg_at_k, "recall": recall_at_k}
RECALL: Final = f"recall@{K}"


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Judges lists for the same users, again and again.

    Args:
        task: Task name.
        cut: Where the test begins.
        truths: int64[U], the item to be found.
        num_items: Items that are ranked.
        num_events: Events of the run.
        seed: Seed of the run, or of the first of several.
        started: When what is judged began, on the monotonic clock.
        judged_at: Lengths of the lists that metrics read.
        beside_bytes: Peak memory of the processes that trained, beside this one's.
    """

    task: str
    cut: str
    truths: Longs
    num_items: int
    num_events: int
    seed: int
    started: float
    judged_at: Sequence[int] = (K,)
    beside_bytes: int = 0

    def results(
        self,
        split: str,
        model: Sequence[Longs],
        baselines: Mapping[str, Longs],
        *,
        parts: Mapping[str, Sequence[Longs]] | None = None,
        users: Bools | None = None,
    ) -> list[Result]:
        """One result per metric and length, means over the model's seeds.

        Args:
            split: "test", with a slice named after a slash.
            model: int64[U, K] per seed, the best first.
            baselines: int64[U, K] by name.
            parts: Of the model: int64[U, K] per seed, by name.
            users: bool[U], who is judged; everybody where None.
        """
        chosen = np.ones(len(self.truths), np.bool_) if users is None else users
        found = []
        for metric in (f"{name}@{k}" for name in METRICS for k in self.judged_at):

            def per_user(lists: Longs, metric: str = metric) -> Doubles:
                return self.per_user(metric, lists)[chosen]

            per_seed = np.stack([per_user(one) for one in model])
            beside = {name: per_user(one) for name, one in baselines.items()}
            found.append(
                self.result(
                    metric,
                    split,
                    compare_means(metric, per_seed.mean(axis=0), beside),
                    num_users=int(chosen.sum()),
                    parts={
                        name: float(np.mean([per_user(one).mean() for one in seeds]))
                        for name, seeds in (parts or {}).items()
                    },
                    spread=_spread(per_seed.mean(axis=1)),
                )
            )
        return found

    def per_user(self, metric: str, lists: Longs) -> Doubles:
        """float64[U]: a metric for each user, such as "ndcg@10"."""
        name, _, k = metric.partition("@")
        return METRICS[name](lists, list(self.truths[:, None]), int(k))

    def result(
        self,
        metric: str,
        split: str,
        compared: Comparison,
        *,
        num_users: int,
        parts: Mapping[str, float],
        spread: Mapping[str, float],
    ) -> Result:
        """One figure with the facts of the run."""
        return Result(
            task=self.task,
            metric=metric,
            split=split,
            cut=self.cut,
            model=compared.model,
            interval=compared.interval,
            baselines=compared.baselines,
            gain_interval=compared.gain_interval,
            parts=parts,
            spread=spread,
            num_users=num_users,
            num_items=self.num_items,
            num_events=self.num_events,
            seed=self.seed,
            seconds=time.monotonic() - self.started,
            peak_memory_bytes=peak_memory_bytes() + self.beside_bytes,
        )


def _spread(figures: Doubles) -> dict[str, float]:
    """Standard deviation of a figure over seeds, 0 where there is one, and how many there are."""
    deviation = figures.std(ddof=1) if len(figures) > 1 else 0.0
    return {"model": float(deviation), "seeds": float(len(figures))}


def write_results(out: Path, results: Sequence[Result], *, company: str) -> None:
    """Write the evaluation and its page, which names a company, into a folder."""
    write_evaluation(out / EVALUATION_FILE, results)
    write_page(out / PAGE_FILE, results, company=company)
