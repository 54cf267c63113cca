"""What a benchmark run leaves behind: predictions for everyone, and figures beside baselines.

Legend: U users, K length of the lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from behavior_model.benchmark.baselines.task import Ranked
from behavior_model.benchmark.interactions import Interactions, Longs
from behavior_model.benchmark.mixture import FittedMixture
from behavior_model.evaluation.measurement import peak_memory_bytes
from behavior_model.evaluation.metrics import mean_with_interval, ndcg_at_k, recall_at_k
from behavior_model.evaluation.results import Result
from pipelines.contracts import ITEM_ID, USER_ID

TASK: Final = "leave-one-out"
JUDGED_AT: Final = (10, 5, 20)
_METRICS: Final = {"ndcg": ndcg_at_k, "recall": recall_at_k}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command was asked.

    Args:
        interactions: Parquet of interactions.
        items: Parquet of texts, if any.
        out: Folder of everything that is written.
        size: The dial.
        seeds: One run of the model each; predictions are the first one's.
        budget_minutes: Wall time to aim at, all runs and baselines together.
        with_baselines: Whether baselines are run too.
    """

    interactions: Path
    items: Path | None
    out: Path
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
    options: Options,
    runs: list[ModelRun],
    baselines: dict[str, Ranked],
    seconds: float,
) -> list[Result]:
    truths = list(full.last()[:, None])
    found = []
    for metric, measure in _METRICS.items():
        for k in JUDGED_AT:
            values = [measure(one.lists, truths, k) for one in runs]
            means = [float(one.mean()) for one in values]
            _, interval = mean_with_interval(np.mean(values, axis=0))
            found.append(
                Result(
                    task=TASK,
                    metric=f"{metric}@{k}",
                    split="test",
                    cut="the last interaction of each user",
                    model=float(np.mean(means)),
                    interval=interval,
                    baselines={
                        name: float(measure(one.lists, truths, k).mean())
                        for name, one in baselines.items()
                    },
                    parts={
                        name: float(
                            np.mean([measure(r.parts[name], truths, k).mean() for r in runs])
                        )
                        for name in runs[0].parts
                    },
                    spread={"model": float(np.std(means)), "seeds": float(len(runs))},
                    num_users=len(full),
                    num_items=full.num_items,
                    num_events=full.num_events,
                    seed=options.seeds[0],
                    seconds=seconds,
                    peak_memory_bytes=peak_memory_bytes(),
                )
            )
    return found


def write_predictions(path: Path, full: Interactions, lists: Longs) -> None:
    """One row per user and rank, in the ids of the files."""
    rows, places = np.nonzero(lists >= 0)
    table = pa.table(
        {
            USER_ID: full.user_ids.take(pa.array(rows)),
            ITEM_ID: full.item_ids.take(pa.array(lists[rows, places])),
            "rank": pa.array((places + 1).astype(np.int32)),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial")
    pq.write_table(table, partial_path)
    partial_path.replace(path)
