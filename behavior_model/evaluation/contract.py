"""What every kind of head promises the room that fits them all."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from behavior_model.context import ModelContext
from behavior_model.evaluation.results import Result


class FitAndJudge(Protocol):
    """Fits a head, saves it to a folder, and judges it beside baselines at the test cut."""

    def __call__(self, context: ModelContext, folder: Path, *, seed: int) -> list[Result]: ...
