"""One training of the backbone on a benchmark's history, from file to outputs."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path

from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.shop import Shop, ask, epoch_seconds, new_model, training_run
from behavior_model.benchmark.split import Cutoff
from behavior_model.objectives.next_item import NextItemModel
from behavior_model.peak_memory import peak_memory_bytes
from behavior_model.recipes import Recipe
from behavior_model.training.checkpoint import clear, restore_latest, save_checkpoint
from behavior_model.training.loop import Stopwatch, TrainingRun
from behavior_model.training.worker import LOG_EVERY_STEPS, append_line, step_metrics


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob:
    """Everything that decides one training.

    Args:
        interactions: The file.
        items: The file of texts, if any.
        cutoff: Where what the training may look at ends.
        folder: Where checkpoints and outputs go.
        text_cache: Where embeddings of texts are kept.
        recipe: Size and how to train.
        seed: Seed of all draws.
        with_texts: Whether the texts of the items are read.
        share: Of the histories, how many each pass reads.
        asked: Interactions of the users that outputs are made for, over the same items; by default
            those that are trained on.
    """

    interactions: Path
    items: Path | None
    cutoff: Cutoff
    folder: Path
    text_cache: Path
    recipe: Recipe
    seed: int
    with_texts: bool = True
    share: float = 1.0
    asked: Path | None = None

    @property
    def run_key(self) -> str:
        """Identity of the run: checkpoints of another recipe, seed, cutoff or file do not fit."""
        paths = (self.interactions, self.items, self.asked)
        files = [_content(path) for path in paths if path]
        facts = (asdict(self.recipe), self.seed, self.cutoff, self.with_texts, self.share, files)
        return sha256(repr(facts).encode()).hexdigest()[:16]

    @property
    def log_path(self) -> Path:
        """One JSON line per reported step."""
        return self.folder / "log.jsonl"

    def history(self) -> Interactions:
        """What the training may look at."""
        history = self.cutoff.history(read_interactions(self.interactions, self.items))
        return history if self.with_texts else replace(history, texts=[""] * history.num_items)

    def asked_about(self) -> Interactions:
        """All interactions of the users that outputs are made for, the hidden ones included."""
        return read_interactions(self.asked or self.interactions, self.items)


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def train(job: BenchmarkJob) -> None:
    """Train to the end, from the newest checkpoint of the same run; leaves `Outputs`."""
    shop, model, run = _new_run(job)
    restore_latest(job.folder, run, job.run_key)
    stopwatch, last_saved = Stopwatch(), time.monotonic()
    speed = 0.0
    for report in run.steps():
        speed, left_s = stopwatch.tick(report)
        if report.progress.global_step % LOG_EVERY_STEPS == 0 or report.is_last:
            append_line(job.log_path, step_metrics(report, speed, left_s))
        if time.monotonic() - last_saved >= job.recipe.training.checkpoint_every_s:
            save_checkpoint(job.folder, run, job.run_key)
            last_saved = time.monotonic()
    model.eval()
    outputs = ask(model, shop, job.cutoff.history(job.asked_about()))
    peak = peak_memory_bytes()
    replace(outputs, events_per_second=speed, peak_memory_bytes=peak).save(job.folder)
    clear(job.folder)


def seconds_per_epoch(job: BenchmarkJob) -> float:
    """Seconds of one epoch on one thread of this machine, from a few steps."""
    _, _, run = _new_run(job)
    return epoch_seconds(run)


def _new_run(job: BenchmarkJob) -> tuple[Shop, NextItemModel, TrainingRun]:
    shop = Shop.of(job.history(), job.recipe, job.text_cache)
    model = new_model(shop, job.recipe, job.seed)
    return shop, model, training_run(model, shop, job.recipe, job.seed, share=job.share)
