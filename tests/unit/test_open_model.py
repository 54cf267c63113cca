"""A finished workspace is asked at the cut of its bundle, whatever has come since."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from pipelines.contracts import EVENT_TIME, EVENTS
from pipelines.flow.runner import RunSettings
from pipelines.workspace import Workspace
from serving.line import open_model
from tests.rhythm_bundle import AS_OF_US


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
