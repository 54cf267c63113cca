"""What one training process does: read its shards, walk all steps, write down how it goes.

It needs no Ray: the Ray worker calls it with its rank, a test calls it alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from behavior_model.core import Core
from behavior_model.items import ItemContent
from behavior_model.model.backbone import Backbone, new_backbone, save_backbone
from behavior_model.objectives.pretraining import PretrainingModel
from behavior_model.peak_memory import peak_memory_bytes
from behavior_model.recipes import Recipe
from behavior_model.training.checkpoint import clear, restore_latest, save_checkpoint
from behavior_model.training.device import PROCESSOR
from behavior_model.training.loader import ShardLoader
from behavior_model.training.loop import StepReport, Stopwatch, TrainingRun, unwrapped
from behavior_model.training.placement import Placement
from pipelines.clock import from_micros
from pipelines.errors import UserError
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace

LOG_EVERY_STEPS: Final = 10


@dataclass(frozen=True, kw_only=True)
class PretrainingJob:
    """Everything that decides a pretraining run.

    Args:
        root: Folder of the workspace, on storage that all workers share.
        vocabulary_id: The vocabulary that the sequences were encoded with.
        recipe: Size and how to train.
        cut_us: The training cut; no later event is read.
        window_us: Length of the window ahead.
        seed: Seed of all draws.
        num_shards: Shards that the users are split into; W workers share them evenly.
        core: Folder of the model to begin with, on storage that all workers share, and its version;
            None: from the beginning.
    """

    root: str
    vocabulary_id: str
    recipe: Recipe
    cut_us: int
    window_us: int
    seed: int
    num_shards: int = 1
    core: tuple[str, str] | None = None

    @property
    def workspace(self) -> Workspace:
        return Workspace(Path(self.root))

    @property
    def folder(self) -> Path:
        """Checkpoints and log of the run."""
        return self.workspace.checkpoints / "pretraining"

    @property
    def log_path(self) -> Path:
        """One JSON line per reported step."""
        return self.folder / "log.jsonl"

    @property
    def run_key(self) -> str:
        """Identity of the run; where the workspace and the core lie and how users are split do not
        matter.

        A run keeps the split that it began with, see `stage_pretrain`.
        """
        core = None if self.core is None else self.core[1]
        parts = {**asdict(self), "root": "", "num_shards": 0, "core": core}
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A process's place among all.

    Args:
        index: Number of this process.
        wrap: Makes the model average gradients over processes, or share its parameters with them.
        placement: How the model that was wrapped lies over the processes.
        device: Where it is.
        agree: Smallest of a number over all processes.
        mean: Means of numbers over all processes.
        report: Called with the metrics of reported steps.
    """

    index: int = 0
    wrap: Callable[[PretrainingModel], nn.Module] = lambda model: model
    placement: Placement = field(default_factory=Placement)
    device: torch.device = PROCESSOR
    agree: Callable[[int], int] = lambda number: number
    mean: Callable[[list[float]], list[float]] = lambda numbers: numbers
    report: Callable[[dict[str, float]], None] = lambda metrics: None


def run_worker(
    job: PretrainingJob, vocabulary: Vocabulary, shards: dict[int, Histories], rank: Rank
) -> None:
    """Train to the end, from the newest checkpoint of the same run where there is one.

    The process of rank 0 writes log, checkpoints and the finished backbone; the others help it to
    gather what they share.

    Args:
        job: What to train.
        vocabulary: The job's vocabulary.
        shards: Histories of the shards that this process owns, cut at the training cut.
        rank: Its place among all processes.

    Raises:
        UserError: a shard has nothing to learn from, so that no step could be taken.
    """
    config = job.recipe.training
    torch.set_num_threads(config.num_threads)
    run = _new_run(job, vocabulary, shards, rank)
    restore_latest(job.folder, run, job.run_key)
    stopwatch = Stopwatch()
    writes = rank.index == 0
    last_saved = time.monotonic()
    for report in run.steps():
        speed, left_s = stopwatch.tick(report)
        if report.progress.global_step % LOG_EVERY_STEPS == 0 or report.is_last:
            means = rank.mean(list(report.losses.values()))
            losses = dict(zip(report.losses, means, strict=True))
            metrics = step_metrics(replace(report, losses=losses), speed, left_s)
            rank.report(metrics)
            if writes:
                append_line(job.log_path, metrics)
        passed = time.monotonic() - last_saved
        is_due = writes and not report.is_last and passed >= config.checkpoint_every_s
        if rank.placement.is_shared:  # all gather or none, by the clock of rank 0
            is_due = bool(rank.agree(int(is_due or not writes)))
        if is_due:
            save_checkpoint(job.folder, run, job.run_key, num_shards=job.num_shards, writes=writes)
            last_saved = time.monotonic()
    if run.progress.global_step == 0:
        raise UserError(_nothing_learned(job, shards))
    backbone = _whole_backbone(run, writes)
    if backbone is not None:
        save_backbone(job.workspace.checkpoints / "backbone", backbone)
        clear(job.folder)


def _nothing_learned(job: PretrainingJob, shards: dict[int, Histories]) -> str:
    moment = from_micros(job.cut_us).isoformat()
    counts = ", ".join(f"{len(one)} in shard {number}" for number, one in sorted(shards.items()))
    return (
        f"No step could be taken: of {job.num_shards} shard(s) of users one has no event before "
        f"the training cut {moment} (users of this process: {counts}). Give fewer --workers, a "
        "later --as-of or a longer history."
    )


def _whole_backbone(run: TrainingRun, keep: bool) -> Backbone | None:
    """The backbone as one process can use it; None on processes that only help to gather it."""
    trained: Backbone = unwrapped(run.model).backbone  # type: ignore[assignment]
    weights = run.placement.gathered(trained.state_dict(), keep=keep)
    if not keep:
        return None
    backbone = Backbone(trained.config, trained.vocabulary)
    likes, place = backbone.state_dict(), Placement().placed
    backbone.load_state_dict({name: place(one, likes[name]) for name, one in weights.items()})
    return backbone


def _new_run(
    job: PretrainingJob, vocabulary: Vocabulary, shards: dict[int, Histories], rank: Rank
) -> TrainingRun:
    content = ItemContent.load(job.workspace.checkpoints / "items", vocabulary)
    torch.manual_seed(job.seed)
    config = job.recipe.training
    backbone = new_backbone(vocabulary, content, job.recipe.model, job.window_us)
    if job.core is not None:
        Core.open(Path(job.core[0])).shared_with(vocabulary, content).give_to(backbone)
    model = PretrainingModel(
        backbone,
        content,
        config.num_negatives,
        config.loss_weights,
    )
    loaders = [
        ShardLoader(
            vocabulary=vocabulary,
            histories=histories,
            recipe=job.recipe,
            cut_us=job.cut_us,
            window_us=job.window_us,
            seed=job.seed,
            shard=shard,
            num_shards=job.num_shards,
        )
        for shard, histories in sorted(shards.items())
    ]
    return TrainingRun(
        model=rank.wrap(model),
        config=config,
        loaders=loaders,
        seed=job.seed,
        agree=rank.agree,
        placement=rank.placement,
        device=rank.device,
    )


def step_metrics(report: StepReport, speed: float, left_s: float) -> dict[str, float]:
    """What is logged of a step."""
    peak = peak_memory_bytes()
    return {
        "step": report.progress.global_step,
        "epoch": report.progress.epoch,
        "share_done": report.share_done,
        "learning_rate": report.learning_rate,
        "gradient_norm": report.gradient_norm,
        "events_per_second": speed,
        "seconds_left": min(left_s, 1e9),
        "peak_memory_bytes": peak,
        **report.losses,
    }


def append_line(path: Path, metrics: dict[str, Any]) -> None:
    """Add one JSON line to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(metrics) + "\n")
