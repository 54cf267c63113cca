"""What a benchmark run leaves behind: predictions for all judged, and figures beside baselines.

Legend: U users, K length of the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from behavior_model.benchmark.baselines.task import Ranked
from behavior_model.benchmark.interactions import NO_ITEM, Interactions, Longs
from behavior_model.benchmark.mixture import FittedMixture
from behavior_model.benchmark.split import Fold, Split, Splitter
from behavior_model.evaluation.measurement import peak_memory_bytes
from behavior_model.evaluation.metrics import Doubles, mean_with_interval, ndcg_at_k, recall_at_k
from behavior_model.evaluation.results import Result
from pipelines.contracts import ITEM_ID, USER_ID

JUDGED_AT: Final = (10, 5, 20)
Metric = Callable[[Longs, Sequence[Longs], int], Doubles]
_METRICS: Final[dict[str, Metric]] = {"ndcg": ndcg_at_k, "recall": recall_at_k}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command was asked.

    Args:
        interactions: Parquet of interactions.
        items: Parquet of texts, if any.
        out: Folder of everything that is written.
        split: How histories are divided.
        size: The dial.
        seeds: One run of the model each; predictions are the first one's.
        budget_minutes: Wall time to aim at, all runs and baselines together.
        with_baselines: Whether baselines are run too.
    """

    interactions: Path
    items: Path | None
    out: Path
    split: Splitter
    size: str = "tiny"
    seeds: tuple[int, ...] = (0,)
    budget_minutes: float = 30.0
    with_baselines: bool = True


@dataclass(frozen=True, eq=False)
class ModelRun:
    """One seed's answer.

    Args:
        lists: int64[U, K].
        parts: Lists of the transformer and of each memory alone, by name.
        mixture: What mixed them.
        seconds: Wall time.
        events_per_second: Of the training that saw most, on one thread.
    """

    lists: Longs
    parts: dict[str, Longs]
    mixture: FittedMixture
    seconds: float
    events_per_second: float


def results(
    full: Interactions,
    split: Split,
    options: Options,
    runs: list[ModelRun],
    baselines: dict[str, Ranked],
    seconds: float,
) -> list[Result]:
    """Every figure on the test, over the users that are judged."""
    found = []
    for metric, measure in _METRICS.items():
        for k in JUDGED_AT:
            judge = partial(_judge, split.test, measure, k)
            values = [judge(one.lists) for one in runs]
            means = [float(one.mean()) for one in values]
            _, interval = mean_with_interval(np.mean(values, axis=0))
            found.append(
                Result(
                    task=split.name,
                    metric=f"{metric}@{k}",
                    split=split.test.name,
                    cut=split.cut,
                    model=float(np.mean(means)),
                    interval=interval,
                    baselines={
                        name: float(judge(one.lists).mean()) for name, one in baselines.items()
                    },
                    parts={
                        name: float(np.mean([judge(one.parts[name]).mean() for one in runs]))
                        for name in runs[0].parts
                    },
                    spread={"model": float(np.std(means)), "seeds": float(len(runs))},
                    num_users=int(split.test.judged.sum()),
                    num_items=full.num_items,
                    num_events=full.num_events,
                    seed=options.seeds[0],
                    seconds=seconds,
                    peak_memory_bytes=peak_memory_bytes(),
                )
            )
    return found


def _judge(test: Fold, measure: Metric, k: int, lists: Longs) -> Doubles:
    """float64[n]: a metric of each of the n judged users."""
    return measure(lists[test.judged], list(test.truth[test.judged, None]), k)


def write_predictions(path: Path, lists: Longs, test: Fold) -> None:
    """One row per judged user and rank, in the ids of the files.

    Args:
        path: Parquet.
        lists: int64[U, K], NO_ITEM where a list is short.
        test: Whose history the lists follow.
    """
    users = test.history
    rows, places = np.nonzero((lists != NO_ITEM) & test.judged[:, None])
    table = pa.table(
        {
            USER_ID: users.user_ids.take(pa.array(rows)),
            ITEM_ID: users.item_ids.take(pa.array(lists[rows, places])),
            "rank": pa.array((places + 1).astype(np.int32)),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial")
    pq.write_table(table, partial_path)
    partial_path.replace(path)
