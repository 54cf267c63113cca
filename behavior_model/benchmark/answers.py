"""What a benchmark run was asked, and what it answers: lists for all, predictions for all judged.

Legend: U users, K length of the lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from behavior_model.benchmark.interactions import NO_ITEM, Longs
from behavior_model.benchmark.split import Fold, Splitter
from pipelines.contracts import ITEM_ID, USER_ID
from pipelines.errors import UserError

Say = Callable[[str], None]
"""Takes a line of progress for the person who waits."""


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
        baseline_minutes: Wall time of each baseline, beside the budget: SASRec and GRU4Rec train as
            long, others are left out if they need more. None: a tenth of the budget, within it.
    """

    interactions: Path
    items: Path | None
    out: Path
    split: Splitter
    size: str = "tiny"
    seeds: tuple[int, ...] = (0,)
    budget_minutes: float = 30.0
    with_baselines: bool = True
    baseline_minutes: float | None = None

    def __post_init__(self) -> None:
        require_budget(self.budget_minutes)
        if self.baseline_minutes is not None:
            require_budget(self.baseline_minutes, "--baseline-minutes")


def require_budget(minutes: float, option: str = "--budget-minutes") -> None:
    """Refuse a budget that is none.

    Raises:
        UserError: not a finite number above 0.
    """
    if not 0 < minutes < math.inf:
        raise UserError(f"{option} {minutes:g}: give a number of minutes above 0.")


@dataclass(frozen=True, eq=False)
class ModelRun:
    """One seed's answer.

    Args:
        lists: int64[U, K].
        parts: Lists of the transformer and of each memory alone, by name.
        training_bytes: Peak memory of the trainings that ran side by side.
    """

    lists: Longs
    parts: dict[str, Longs]
    training_bytes: int


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
