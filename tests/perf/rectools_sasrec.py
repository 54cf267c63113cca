"""SASRec of RecTools in training, for `bench_next_item.py`: events per processor second.

RecTools pins other packages than this project, so it lives in an environment of its own; nothing
here imports the project. Run: `PYTHON rectools_sasrec.py HISTORY.csv NEGATIVES`, where HISTORY has
the columns user, item and place in order, and 0 NEGATIVES means the full softmax.
"""

from __future__ import annotations

import sys
import time

import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

WIDTH = 64
LENGTH = 20
"""The shorter end of what is usual, which costs RecTools the least: it computes padding."""


class _Stopwatch(Callback):
    """Processor seconds of one epoch, without the set-up before it.

    Kept by the class: RecTools trains with a copy of the trainer and its callbacks.
    """

    started = 0.0
    seconds = 0.0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        _Stopwatch.started = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        _Stopwatch.seconds = time.process_time() - _Stopwatch.started


def main() -> None:
    path, negatives = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    rows = pd.read_csv(path)
    rows.columns = [Columns.User, Columns.Item, Columns.Datetime]
    rows[Columns.Datetime] = pd.to_datetime(rows[Columns.Datetime], unit="s")
    rows[Columns.Weight] = 1.0
    model = SASRecModel(
        n_factors=WIDTH,
        n_blocks=2,
        n_heads=1,
        session_max_len=LENGTH,
        loss="sampled_softmax" if negatives else "softmax",
        n_negatives=max(negatives, 1),
        epochs=1,
        get_trainer_func=lambda: Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[_Stopwatch()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    )
    model.fit(Dataset.construct(rows))
    print(len(rows) / _Stopwatch.seconds)


if __name__ == "__main__":
    main()
