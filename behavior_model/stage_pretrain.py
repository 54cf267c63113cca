"""Room 5 as one call: item content, pretraining, the backbone in the workspace.

Ray trains; a company so small that starting Ray would take longer than its training is trained by
the process that is asked, in the same steps.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow.compute as pc
import torch

from behavior_model.core import Core
from behavior_model.items import build_item_content
from behavior_model.recipes import Recipe
from behavior_model.text_encoder import TextEncoder
from behavior_model.training import ray_trainer
from behavior_model.training.alone import fit_alone
from behavior_model.training.checkpoint import shards_of_latest
from behavior_model.training.processes import Sharding, check_processes
from behavior_model.training.ray_session import ray_session
from behavior_model.training.tracking import follow, mlflow_run, progress_line
from behavior_model.training.worker import PretrainingJob
from pipelines import lake
from pipelines.clock import from_micros
from pipelines.contracts import NUM_EVENTS, TIMES_US, TOKEN_SEQUENCES, USER_ID
from pipelines.erasure import without_users
from pipelines.errors import UserError
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace

MAX_EVENTS_HERE: Final = 100_000
"""Of all customers; Ray's start takes as long as some passes over so many."""


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What pretraining left behind.

    Args:
        backbone: Folder of the backbone.
        items: Folder of the item content.
        num_steps: Steps of the whole run, those before a resume included.
        losses: Last reported losses by name.
        events_per_second: Last reported speed.
        peak_memory_bytes: Largest resident memory of the worker that reports.
        content_seconds: Wall time of the item content.
        seconds: Wall time of training, Ray's start included.
    """

    backbone: Path
    items: Path
    num_steps: int
    losses: dict[str, float]
    events_per_second: float
    peak_memory_bytes: int
    content_seconds: float
    seconds: float


def pretrain(
    workspace: Workspace,
    vocabulary: Vocabulary,
    recipe: Recipe,
    training_cut_us: int,
    window_us: int,
    seed: int,
    num_workers: int = 1,
    sharding: str = Sharding.NONE,
    core: Path | None = None,
    say: Callable[[str], None] = print,
) -> PretrainResult:
    """Make item content, train the backbone, leave both under the workspace's checkpoints.

    A run that was killed goes on from its last checkpoint when it is called again alike; workers
    and sharding may be others.

    Args:
        workspace: Holds token sequences and catalogue.
        vocabulary: What the sequences were encoded with.
        recipe: Size and how to train.
        training_cut_us: Nothing at or after it is read.
        window_us: Length of the window that probes look ahead.
        seed: Seed of all draws.
        num_workers: Training processes; users are split over them.
        sharding: What each of them holds of the model, see `Sharding`.
        core: Workspace or bundle of the model to begin with; None: from the beginning.
        say: Takes lines for the user.

    Raises:
        WorkspaceError: no token sequences yet.
        BundleError: no bundle at `core`, or a changed one.
        UserError: no such processes, or users of a run to go on with that they cannot share evenly;
            a shard without a user to learn from; a core of another shape, or from the future.
    """
    chosen = check_processes(num_workers, sharding)
    started = time.monotonic()
    items = workspace.checkpoints / "items"
    opened = None if core is None else Core.open(core)
    if opened is not None:
        opened.check(recipe.model, training_cut_us)
    content = build_item_content(
        lake.read_catalogue(workspace),
        vocabulary,
        TextEncoder(workspace.text_cache),
        max_descriptors=recipe.model.max_descriptors,
        word_width=recipe.model.word_width,
    )
    content.save(items)
    if opened is not None:
        say(f"  begins with {opened.shared_with(vocabulary, content)}")
    prepared = time.monotonic()
    job = PretrainingJob(
        root=str(workspace.root),
        vocabulary_id=vocabulary.vocabulary_id,
        recipe=recipe,
        cut_us=training_cut_us,
        window_us=window_us,
        seed=seed,
        num_shards=num_workers,
        core=None if opened is None else (str(opened.path.resolve()), opened.model_version),
    )
    job = _as_begun(job)
    _require_full_shards(job)
    last = _train(job, num_workers, chosen)
    return PretrainResult(
        backbone=workspace.checkpoints / "backbone",
        items=items,
        num_steps=int(last["step"]),
        losses={name: last[name] for name in ("loss", *asdict(recipe.training.loss_weights))},
        events_per_second=last["events_per_second"],
        peak_memory_bytes=int(last["peak_memory_bytes"]),
        content_seconds=prepared - started,
        seconds=time.monotonic() - prepared,
    )


def _as_begun(job: PretrainingJob) -> PretrainingJob:
    """The job with the split of users that its last checkpoint was trained with.

    Args:
        job: Split over its workers, a shard for each.
    """
    num_workers = job.num_shards
    num_shards = shards_of_latest(job.folder, job.run_key) or num_workers
    if num_shards % num_workers:
        raise UserError(
            f"--workers {num_workers}: the run in {job.folder} goes on with users in {num_shards} "
            f"shard(s), which {num_workers} workers cannot share evenly. Give a number of workers "
            f"that divides {num_shards}, or remove the checkpoints there to begin again."
        )
    return replace(job, num_shards=num_shards)


def _require_full_shards(job: PretrainingJob) -> None:
    learned = _learned_users(job)
    moment = from_micros(job.cut_us).isoformat()
    if not learned:
        raise UserError(
            f"{job.workspace.root}: no user has an event before the training cut {moment}, so that "
            "there is nothing to learn from. Flagged users and those who are to be forgotten do "
            "not count. Give a later --as-of, fewer --window-days or a longer history."
        )
    num_full = len({ray_trainer.shard_of(user, job.num_shards) for user in learned})
    if num_full < job.num_shards:
        raise UserError(
            f"{len(learned)} users with an event before the training cut {moment} fall into "
            f"{num_full} of {job.num_shards} shards, so that a worker would have nobody to learn "
            f"from. Give --workers {num_full} or fewer."
        )


def _learned_users(job: PretrainingJob) -> set[str]:
    """Users with an event before the training cut, less those whom training leaves out."""
    left_out, erased = ray_trainer.left_out(job.workspace)
    rows = lake.read(job.workspace, TOKEN_SEQUENCES.name, [USER_ID, TIMES_US])
    rows = without_users(rows, erased)
    rows = rows.filter(pc.greater(pc.list_value_length(rows.column(TIMES_US)), 0))
    first = pc.list_element(rows.column(TIMES_US), 0)
    users = rows.filter(pc.less(first, job.cut_us)).column(USER_ID)
    return set(users.to_pylist()) - left_out


def _begin_log(job: PretrainingJob) -> None:
    """Remove the log of an older run, unless this run goes on from its own checkpoint."""
    if shards_of_latest(job.folder, job.run_key) is None:
        job.log_path.unlink(missing_ok=True)


def _is_small(job: PretrainingJob, num_workers: int) -> bool:
    """Whether one process without an accelerator is to learn from few events."""
    if num_workers > 1 or os.environ.get("RAY_ADDRESS") or torch.cuda.is_available():
        return False
    counts = lake.read(job.workspace, TOKEN_SEQUENCES.name, [NUM_EVENTS]).column(0)
    return bool((pc.sum(counts).as_py() or 0) <= MAX_EVENTS_HERE)


def _train(job: PretrainingJob, num_workers: int, sharding: Sharding) -> dict[str, float]:
    """Train under Ray, or here; the last reported metrics."""
    _begin_log(job)
    with progress_line() as line, mlflow_run(job) as log, follow(job.log_path, [line, log]):
        if _is_small(job, num_workers):
            fit_alone(job)
        else:
            with ray_session(num_cpus=num_workers + 1):
                ray_trainer.fit(job, num_workers, sharding)
    lines = job.log_path.read_text(encoding="utf-8").splitlines()
    last: dict[str, float] = json.loads(lines[-1])
    return last
