"""Checkpoints of one run neither push out nor continue those of another."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from behavior_model.training.checkpoint import KEPT, restore_latest, save_checkpoint
from behavior_model.training.loop import TrainingRun


class Run:
    """One weight, which is the number of steps."""

    def __init__(self, step: int = 0) -> None:
        self.progress = SimpleNamespace(global_step=step)

    def state(self, *, keep: bool) -> dict[str, Any]:
        weight = torch.tensor([float(self.progress.global_step)])
        step = self.progress.global_step
        optimiser: dict[str, Any] = {"state": {}, "param_groups": []}
        return {"model": {"weight": weight}, "optimiser": optimiser, "progress": step}

    def restore(self, state: dict[str, Any]) -> None:
        self.progress.global_step = int(state["model"]["weight"])


def save(folder: Path, key: str, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, cast(TrainingRun, Run(step)), key)


def restored(folder: Path, key: str) -> int | None:
    run = Run()
    return run.progress.global_step if restore_latest(folder, cast(TrainingRun, run), key) else None


def test_the_last_ones_of_a_run_are_kept(tmp_path: Path) -> None:
    save(tmp_path, "one", 10, 20, 30)
    assert restored(tmp_path, "one") == 30
    assert len(list(tmp_path.iterdir())) == KEPT


def test_leftovers_of_another_run_do_not_push_out_a_new_one(tmp_path: Path) -> None:
    save(tmp_path, "killed", 800, 900)
    save(tmp_path, "new", 10)
    assert restored(tmp_path, "new") == 10
    assert restored(tmp_path, "killed") is None
    save(tmp_path, "new", 20, 30)
    assert restored(tmp_path, "new") == 30
    assert len(list(tmp_path.iterdir())) == KEPT
