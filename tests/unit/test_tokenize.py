"""What tokenize tells the writers of its tables."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from unittest.mock import MagicMock

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipelines import lake
from pipelines.errors import UserError
from pipelines.flow import tokenize
from pipelines.flow.runner import RunSettings, StageContext
from pipelines.stages.delta import Written
from pipelines.stages.labels import NUM_PREDICTION_TIMES
from pipelines.workspace import Workspace


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


CUT = datetime(2024, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days_before_cut", "said"),
    [(-28, []), (-27.5, []), (-14, ["14 days before"]), (6, ["34 days before"])],
)
def test_a_window_that_is_not_over_is_told(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    days_before_cut: float,
    said: list[str],
) -> None:
    lines: list[str] = []
    settings = RunSettings(company_path=workspace.company_path, as_of=CUT)
    context = StageContext(workspace, settings, say=lines.append)
    last = CUT - timedelta(days=days_before_cut)
    monkeypatch.setattr(lake, "last_event", lambda workspace: last)
    tokenize._look_at_windows(context)
    assert [any(words in line for line in lines) for words in said] == [True] * len(lines)


def test_a_cut_long_after_the_last_event_is_refused(workspace: Workspace) -> None:
    times = pa.array([CUT - timedelta(days=days) for days in (9, 8)])
    for time in times:
        rows = pa.table({"event_time": pa.array([time.as_py()])})
        write_deltalake(str(workspace.table("events")), rows, mode="append")
    assert lake.last_event(workspace) == CUT - timedelta(days=8)
    context = StageContext(workspace, RunSettings(company_path=workspace.company_path, as_of=CUT))
    with pytest.raises(UserError, match=r"8 days after the last event.*an earlier --as-of"):
        tokenize._look_at_windows(context)
    write_deltalake(str(workspace.table("events")), rows.slice(0, 0), mode="overwrite")
    assert lake.last_event(workspace) is None
    tokenize._look_at_windows(context)
