"""Markers that are given anew after a change on purpose: what was done stays done, no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.flow.markers import reissue, standings
from pipelines.flow.runner import RunSettings, Stage, StageContext, file_stamp, run_stages
from pipelines.workspace import Workspace
from tests.tiny_company import write_tiny_company


@pytest.fixture
def context(workspace: Workspace, tmp_path: Path) -> StageContext:
    company = write_tiny_company(tmp_path / "raw", 5)
    settings = RunSettings(company_path=company, as_of=datetime(2024, 2, 1, tzinfo=UTC))
    return StageContext(workspace, settings, say=lambda line: None)


def writer(name: str, *needs: str) -> Stage:
    """A stage that writes the seed into one file."""

    def path(context: StageContext) -> Path:
        return context.workspace.root / f"{name}.txt"

    def run(context: StageContext) -> None:
        path(context).write_text(str(context.settings.seed))

    return Stage(
        name=name,
        version=1,
        needs=needs,
        inputs=lambda context: {"seed": context.settings.seed},
        outputs=lambda context: file_stamp(path(context)),
        run=run,
    )


LINE = (writer("first"), writer("second", "first"), writer("third", "second"))


def skipped(context: StageContext) -> list[bool]:
    return [report.skipped for report in run_stages(LINE, context)]


def change(context: StageContext, name: str) -> None:
    path = context.workspace.root / f"{name}.txt"
    path.write_text(path.read_text() + " without one")


def test_what_was_done_stays_done(context: StageContext) -> None:
    run_stages(LINE, context)
    before = standings(LINE, context, {})
    change(context, "first")
    change(context, "second")
    # Cut short: what was known before the change holds.
    before = standings(LINE, context, before)
    reissue(LINE, context, before)
    reissue(LINE, context, before)
    assert skipped(context) == [True, True, True]


def test_a_change_by_somebody_else_is_still_seen(context: StageContext) -> None:
    run_stages(LINE, context)
    change(context, "first")
    reissue(LINE, context, standings(LINE, context, {}))
    assert skipped(context) == [False, True, True]


def test_other_inputs_since_then_are_still_seen(context: StageContext) -> None:
    run_stages(LINE, context)
    before = standings(LINE, context, {})
    other = StageContext(context.workspace, replace(context.settings, seed=1), context.say)
    reissue(LINE, other, before)
    assert skipped(other) == [False, False, False]


def test_a_stage_that_ran_since_then_keeps_its_own_marker(context: StageContext) -> None:
    run_stages(LINE, context)
    before = standings(LINE, context, {})
    other = StageContext(context.workspace, replace(context.settings, seed=1), context.say)
    run_stages(LINE, other)
    reissue(LINE, context, before)
    assert skipped(other) == [True, True, True]
    assert skipped(context) == [False, False, False]
