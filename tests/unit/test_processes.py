"""Training processes: what can be asked for, and who goes on with whose run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from deltalake import write_deltalake

from behavior_model import stage_pretrain
from behavior_model.training.processes import Sharding, check_processes
from behavior_model.training.worker import PretrainingJob, Rank, append_line, run_worker
from pipelines.contracts import TOKEN_SEQUENCES
from pipelines.errors import BundleError, UnknownNameError, UserError, WorkspaceError
from pipelines.flow.lock import workspace_lock
from pipelines.flow.runner import RunSettings, StageContext
from pipelines.workspace import Workspace, write_json_atomically
from serving.cli.rooms import run_line
from serving.line import NO_CORE, line, settings_for
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    shop_histories,
    shop_job,
    shop_recipe,
    shop_vocabulary,
    shop_workspace,
)
from tests.small_shop import CountingPredictor
from tests.tiny_company import write_tiny_company

AS_OF = datetime(2024, 2, 1, tzinfo=UTC)


def test_sharding_is_asked_for_by_name() -> None:
    assert check_processes(1, "none") is Sharding.NONE
    assert check_processes(2, "full") is Sharding.FULL


@pytest.mark.parametrize(
    ("num_workers", "sharding", "message"),
    [
        (0, "none", "at least 1"),
        (1, "full", "nobody to share with. Give --workers 2 or more"),
        (2, "ful", "Did you mean 'full'"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(
    num_workers: int, sharding: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        check_processes(num_workers, sharding)
    given = {"num_workers": num_workers, "sharding": sharding}
    with pytest.raises(UserError, match=message):
        settings_for(
            Workspace(tmp_path), company_path=write_tiny_company(tmp_path / "raw", 2), **given
        )


def test_a_size_with_a_typing_error_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = write_tiny_company(tmp_path / "raw", 2)
    with pytest.raises(UnknownNameError, match="Did you mean 'tiny'"):
        settings_for(Workspace(tmp_path / "shop"), company_path=path, size="tinny")


def test_a_run_that_is_refused_changes_nothing_under_the_running_one(tmp_path: Path) -> None:
    path, workspace = write_tiny_company(tmp_path / "raw", 2), Workspace(tmp_path / "shop")
    settings_for(workspace, company_path=path, seed=1).save(workspace)
    with workspace_lock(workspace), pytest.raises(WorkspaceError, match="in use"):
        run_line(workspace, None, "small", None, 2)
    assert (settings_for(workspace).seed, settings_for(workspace).size) == (1, "tiny")


def test_settings_are_remembered_until_they_or_the_description_change(tmp_path: Path) -> None:
    path, workspace = write_tiny_company(tmp_path / "raw", 2), Workspace(tmp_path / "shop")
    settings = settings_for(workspace, company_path=path)
    assert not settings.is_remembered(workspace)
    settings.save(workspace)
    assert settings_for(workspace).is_remembered(workspace)
    assert not settings_for(workspace, seed=2).is_remembered(workspace)
    path.write_text(f"{path.read_text()}\n# changed\n")
    assert not settings_for(workspace).is_remembered(workspace)


def test_a_workspace_remembers_its_processes(tmp_path: Path) -> None:
    path = write_tiny_company(tmp_path / "raw", 2)
    workspace = Workspace(tmp_path / "shop")
    settings_for(workspace, company_path=path, num_workers=2, sharding="full").save(workspace)
    assert settings_for(workspace).sharding == "full"
    with pytest.raises(UserError, match="nobody to share with"):
        settings_for(workspace, num_workers=1)


class TrainedError(Exception):
    """Ends a test where training would begin."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, Sharding]]:
    """Shards, workers and sharding of each training that would have begun."""
    begun: list[tuple[int, int, Sharding]] = []

    def train(job: PretrainingJob, num_workers: int, sharding: Sharding) -> None:
        begun.append((job.num_shards, num_workers, sharding))
        raise TrainedError

    monkeypatch.setattr(stage_pretrain, "_train", train)
    monkeypatch.setattr(stage_pretrain, "build_item_content", lambda *_, **__: ItemsOnDisk())
    return begun


class ItemsOnDisk:
    """Stands for item content that takes seconds to make."""

    def save(self, folder: Path) -> None:
        assert folder.is_dir()


@pytest.mark.parametrize(
    ("begun_with", "num_workers", "sharding", "num_shards"),
    [(None, 2, "full", 2), (2, 1, "none", 2), (2, 2, "full", 2), (4, 2, "none", 4)],
)
def test_a_run_keeps_the_split_that_it_began_with(
    begun_with: int | None,
    num_workers: int,
    sharding: str,
    num_shards: int,
    tmp_path: Path,
    asked: list[tuple[int, int, Sharding]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage_pretrain, "shards_of_latest", lambda folder, key: begun_with)
    with pytest.raises(TrainedError):
        pretrain(tmp_path, num_workers, sharding)
    assert asked == [(num_shards, num_workers, Sharding(sharding))]


@pytest.mark.usefixtures("asked")
def test_workers_that_cannot_share_a_run_evenly_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_pretrain, "shards_of_latest", lambda folder, key: 2)
    with pytest.raises(UserError, match="a number of workers that divides 2"):
        pretrain(tmp_path, 3, "none")


def pretrain(root: Path, num_workers: int, sharding: str, cut_us: int = CUT_US) -> None:
    workspace = shop_workspace(Workspace(root))
    stage_pretrain.pretrain(
        workspace, shop_vocabulary(), shop_recipe(), cut_us, WINDOW_US, 0, num_workers, sharding
    )


@pytest.mark.usefixtures("asked")
def test_users_without_an_event_before_the_cut_fill_no_shard(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no user has an event before the training cut 2"):
        pretrain(tmp_path / "none", 1, "none", int(shop_histories(24).times_us.min()))
    workspace = shop_workspace(Workspace(tmp_path / "one"))
    histories = shop_histories(24)
    is_late = histories.user_positions > 0
    later = replace(histories, times_us=histories.times_us + np.where(is_late, 10 * CUT_US, 0))
    rows = later.to_arrow(shop_vocabulary().vocabulary_id)
    write_deltalake(str(workspace.table(TOKEN_SEQUENCES.name)), rows, mode="overwrite")
    job = shop_job(workspace.root, shop_recipe(), num_shards=2)
    with pytest.raises(UserError, match=r"1 users with an event .* 1 of 2 shards.*--workers 1"):
        stage_pretrain._require_full_shards(job)
    stage_pretrain._require_full_shards(replace(job, num_shards=1))


@pytest.mark.parametrize("goes_on", [False, True])
def test_the_log_of_an_older_run_is_no_part_of_a_new_one(
    goes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = shop_job(tmp_path, shop_recipe())
    append_line(job.log_path, {"step": 1.0})
    monkeypatch.setattr(stage_pretrain, "shards_of_latest", lambda *_: 1 if goes_on else None)
    stage_pretrain._begin_log(job)
    assert job.log_path.is_file() == goes_on


def test_a_worker_that_takes_no_step_leaves_no_backbone(tmp_path: Path) -> None:
    workspace = shop_workspace(Workspace(tmp_path))
    empty = shop_histories(24).before(0).non_empty()
    with pytest.raises(UserError, match=r"No step could be taken.*0 in shard 0"):
        run_worker(shop_job(tmp_path, shop_recipe()), shop_vocabulary(), {0: empty}, Rank())
    assert not (workspace.checkpoints / "backbone").exists()


def test_a_core_is_remembered_and_never_the_workspace_itself(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = write_tiny_company(tmp_path / "raw", 5)
    core = tmp_path / "other"
    with pytest.raises(UserError, match="no such folder"):
        settings_for(workspace, company_path=path, core=core)
    core.mkdir()
    with pytest.raises(BundleError, match="no bundle here"):
        settings_for(workspace, company_path=path, core=core)
    manifest = CountingPredictor.make().manifest
    write_json_atomically(core / "manifest.json", asdict(manifest))
    settings_for(workspace, company_path=path, core=core, as_of=AS_OF).save(workspace)
    assert settings_for(workspace).core == core
    workspace.bundle.mkdir()
    with pytest.raises(UserError, match=r"cp -r .*bundle"):
        settings_for(workspace, core=workspace.bundle)


def test_a_core_is_missed_by_a_new_training_alone(workspace: Workspace, tmp_path: Path) -> None:
    path, core = write_tiny_company(tmp_path / "raw", 5), tmp_path / "other"
    manifest = CountingPredictor.make().manifest
    renewed = replace(manifest, model_version="v2", trained_version=manifest.model_version)
    settings = []
    for one in (manifest, renewed):
        write_json_atomically(core / "manifest.json", asdict(one))
        settings.append(settings_for(workspace, company_path=path, core=core, as_of=AS_OF))
    assert settings[0] == settings[1], "a refresh of the core is no reason to train"

    def inputs(given: RunSettings) -> Mapping[str, object]:
        (pretraining,) = [stage for stage in line() if stage.name == "pretrain"]
        return pretraining.inputs(StageContext(workspace, given))

    before = inputs(settings[0])
    assert before["core"] == manifest.model_version
    settings[0].save(workspace)
    shutil.rmtree(core)
    assert inputs(settings_for(workspace)) == before
    beginning = settings_for(workspace, core=NO_CORE)
    assert (beginning.core, beginning.core_version) == (None, None)
    assert "core" not in inputs(beginning)
