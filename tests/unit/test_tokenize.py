"""What tokenize tells the writers of its tables."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from pipelines.flow import tokenize
from pipelines.flow.runner import StageContext
from pipelines.stages.delta import Written
from pipelines.stages.labels import NUM_PREDICTION_TIMES


def test_a_user_has_a_row_of_labels_for_every_prediction_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number decides whether rows are sent whole to every task."""
    asked: list[int] = []

    def merge(*arguments: Any, num_rows: int, **others: Any) -> Written:
        asked.append(num_rows)
        return Written()

    monkeypatch.setattr("pipelines.stages.delta.merge", merge)
    monkeypatch.setattr(tokenize, "_labels", lambda *arguments: nullcontext())
    tokenize._merge_labels(cast(StageContext, MagicMock()), MagicMock(), ["ada", "bob"])
    assert asked == [2 * NUM_PREDICTION_TIMES]
