"""A finished workspace is asked at the cut of its bundle, whatever has come since."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from behavior_model.predictor import Predictor
from behavior_model.tasks import load_tasks, user_task_names
from behavior_model.text_encoder import HashedBackend, TextEncoder
from pipelines.contracts import EVENT_TIME, EVENTS
from pipelines.errors import WorkspaceError
from pipelines.flow.runner import RunSettings
from pipelines.workspace import Workspace
from serving.line import open_model
from tests.rhythm_bundle import AS_OF_US

QUESTION = """
from behavior_model.tasks import TaskKind, user_task


@user_task("big_basket", kind=TaskKind.BINARY)
def big_basket(past, future):
    return (future.amounts > 2 * past.amounts()).astype(float)
"""


def test_events_of_a_new_day_do_not_move_the_cut_of_a_model(
    rhythm_shop: Workspace, tmp_path: Path
) -> None:
    shop = Workspace(shutil.copytree(rhythm_shop.root, tmp_path / "shop"))
    RunSettings(company_path=shop.company_path).save(shop)
    yesterday = datetime.now(UTC).replace(hour=0)
    write_deltalake(str(shop.table(EVENTS.name)), pa.table({EVENT_TIME: [yesterday]}))
    context = open_model(shop)
    assert context.as_of_us == AS_OF_US
    assert len(context.test_futures) > 0


def test_the_companys_own_questions_are_known(rhythm_shop: Workspace, tmp_path: Path) -> None:
    shop = Workspace(shutil.copytree(rhythm_shop.root, tmp_path / "shop"))
    company = tmp_path / "company.yaml"
    company.write_text(f"tasks: questions.py\n{shop.company_path.read_text(encoding='utf-8')}")
    company.with_name("questions.py").write_text(QUESTION, encoding="utf-8")
    RunSettings(company_path=company).save(shop)
    try:
        open_model(shop)
        assert "big_basket" in user_task_names()
    finally:
        load_tasks(None)


def test_a_bundle_whose_texts_this_machine_cannot_read_is_not_ready(rhythm_shop: Workspace) -> None:
    predictor = Predictor.load(rhythm_shop.bundle)
    predictor.warm()
    elsewhere = replace(predictor, encoder=TextEncoder(None, HashedBackend(7)))
    with pytest.raises(WorkspaceError, match=r"this machine has 'hashed-7'\. Install that one"):
        elsewhere.warm()
