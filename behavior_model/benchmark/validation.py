"""What one training says of each user's validation item: its loss, and where it ranks.

Legend: U users, N items, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save
from scipy.special import log_softmax

from behavior_model.benchmark.baselines.ranking import chunks, rank_users
from behavior_model.benchmark.baselines.task import LeaveOneOutTask
from behavior_model.benchmark.interactions import NO_ITEM, Interactions, masks_history
from behavior_model.benchmark.shop import Outputs
from behavior_model.benchmark.training import BenchmarkJob
from behavior_model.metrics import Doubles, ndcg_at_k, recall_at_k
from pipelines.errors import SourceError
from pipelines.workspace import write_bytes_atomically

K: Final = 10
NUM_HIDDEN: Final = 2
"""The validation item, which is judged, and the test item, which is not looked at."""

MIN_TRAINED: Final = 2
_FILE: Final = "validation.safetensors"
_RUN_KEY: Final = "run_key"


@dataclass(frozen=True, eq=False, kw_only=True)
class Validation:
    """Figures of one training; users without a validation item are left out.

    Args:
        ndcg: float64[U], NDCG@10 among all items, but for those of the user's history where users
            take nothing twice.
        recall: float64[U], Recall@10 likewise.
        nats: float64[U], cross-entropy of the item under the softmax over all N items.
        seconds: Wall time of the training, one thread.
    """

    ndcg: Doubles
    recall: Doubles
    nats: Doubles
    seconds: float

    def save(self, job: BenchmarkJob) -> None:
        """Write beside the job's outputs, whole or not at all."""
        tensors = {name: np.asarray(value) for name, value in vars(self).items()}
        content = save(tensors, metadata={_RUN_KEY: job.run_key})
        write_bytes_atomically(job.folder / _FILE, content)

    @classmethod
    def load(cls, job: BenchmarkJob) -> Validation | None:
        """What `save` wrote for the very same job; None where it did not run to its end."""
        path: Path = job.folder / _FILE
        if not path.is_file():
            return None
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get(_RUN_KEY) != job.run_key:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return cls(**{**arrays, "seconds": float(arrays["seconds"])})


def require_validation(full: Interactions, path: Path) -> None:
    """Refuse interactions that leave nothing to train on once the last ones are hidden.

    Raises:
        SourceError: no user has two more than are hidden.
    """
    needed = NUM_HIDDEN + MIN_TRAINED
    if full.lengths.max() < needed:
        raise SourceError(
            f"{path}: no user has {needed} interactions; the longest history has "
            f"{full.lengths.max()}. {NUM_HIDDEN} of each are hidden for validation and test, and "
            f"{MIN_TRAINED} are the least to train on. Give longer histories."
        )


def validate(full: Interactions, outputs: Outputs, *, seconds: float) -> Validation:
    """Judge outputs by the second last interaction of each user.

    Args:
        full: All interactions of the users asked about.
        outputs: The transformer alone.
        seconds: Wall time of the training.
    """
    history, known = full.without_last(NUM_HIDDEN), full.without_last(NUM_HIDDEN - 1)
    task = LeaveOneOutTask(history=history, mask_history=masks_history(known))
    truth = full.last(NUM_HIDDEN - 1)
    judged = truth != NO_ITEM
    lists = rank_users(task, K, lambda users: outputs.queries[users] @ outputs.items.T)[judged]
    truths = list(truth[judged, None])
    nats = np.zeros(len(full))
    for users in chunks(task):
        shares = log_softmax(outputs.queries[users] @ outputs.items.T, axis=1)
        nats[users] = -shares[np.arange(len(shares)), truth[users]]
    return Validation(
        ndcg=ndcg_at_k(lists, truths, K),
        recall=recall_at_k(lists, truths, K),
        nats=nats[judged],
        seconds=seconds,
    )
