"""One training of the backbone on a benchmark's history, and what it says of every user.

Legend: U users, N items, D width.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save

from behavior_model.benchmark.interactions import Interactions, read_interactions
from behavior_model.benchmark.sequences import Encoded, SequenceLoader, catalogue_of, encode, pack
from behavior_model.benchmark.split import Cutoff
from behavior_model.embedding import item_embeddings
from behavior_model.items import ItemContent, build_item_content
from behavior_model.model.backbone import new_backbone
from behavior_model.objectives.next_item import NextItemModel
from behavior_model.recipes import Recipe
from behavior_model.text_encoder import HashedBackend, TextEncoder
from behavior_model.training.checkpoint import clear, restore_latest, save_checkpoint
from behavior_model.training.loop import Stopwatch, TrainingRun
from behavior_model.training.worker import LOG_EVERY_STEPS, append_line, step_metrics
from pipelines.tokens.binning import DAY_US
from pipelines.workspace import write_bytes_atomically

Floats = npt.NDArray[np.float32]

BATCH_USERS: Final = 256
PROBE_STEPS: Final = 24
WARM_STEPS: Final = 4
TEXTLESS_WIDTH: Final = 8
_OUTPUTS: Final = "outputs.safetensors"


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
    asked: Path | None = None

    @property
    def run_key(self) -> str:
        """Identity of the run: checkpoints of another recipe, seed, cutoff or file do not fit."""
        paths = (self.interactions, self.items, self.asked)
        files = [(str(path), path.stat().st_size) for path in paths if path]
        facts = (asdict(self.recipe), self.seed, self.cutoff, self.with_texts, files)
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


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a trained backbone says; the score of an item is a product.

    Args:
        queries: float32[U, D + 1], what each user takes next; 0 but for the last column where a
            user has no history, so that the items' biases, their popularity, decide.
        items: float32[N, D + 1], in the order of the files.
        events_per_second: Events read per second of training, on one thread.
    """

    queries: Floats
    items: Floats
    events_per_second: float

    def save(self, folder: Path) -> None:
        """Write as one safetensors file, whole or not at all."""
        tensors = {
            "queries": self.queries,
            "items": self.items,
            "events_per_second": np.asarray([self.events_per_second]),
        }
        write_bytes_atomically(folder / _OUTPUTS, save(tensors))

    @classmethod
    def load(cls, folder: Path) -> Outputs:
        """Read what `save` wrote."""
        tensors = load_file(folder / _OUTPUTS)
        return cls(tensors["queries"], tensors["items"], float(tensors["events_per_second"][0]))

    @staticmethod
    def delete(folder: Path) -> None:
        """Remove what `save` wrote."""
        (folder / _OUTPUTS).unlink(missing_ok=True)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; elsewhere it would only be slower."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())


def text_encoder(history: Interactions, cache: Path) -> TextEncoder:
    """The best encoder of this machine; where nothing is written, one that costs nothing."""
    return (
        TextEncoder(cache)
        if history.has_texts
        else TextEncoder(None, HashedBackend(TEXTLESS_WIDTH))
    )


def content_of(history: Interactions, encoded: Encoded, recipe: Recipe, cache: Path) -> ItemContent:
    """Content of every item."""
    return build_item_content(
        catalogue_of(history),
        encoded.vocabulary,
        text_encoder(history, cache),
        max_descriptors=recipe.model.max_descriptors,
        word_width=recipe.model.word_width,
    )


def train(job: BenchmarkJob) -> None:
    """Train to the end, from the newest checkpoint of the same run; leaves `Outputs`."""
    run, model, encoded, content = _new_run(job)
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
    asked = encoded.encode(job.cutoff.history(job.asked_about()))
    outputs = Outputs(
        queries=user_queries(model, asked, job.recipe.model.context),
        items=item_embeddings(model.backbone, content)[encoded.item_idx],
        events_per_second=speed,
    )
    outputs.save(job.folder)
    clear(job.folder)


def seconds_per_epoch(job: BenchmarkJob) -> float:
    """Seconds of one epoch on one thread of this machine, from a few steps."""
    run, *_ = _new_run(job)
    return epoch_seconds(run)


def epoch_seconds(run: TrainingRun) -> float:
    """Seconds of one epoch of a run, from its first few steps; the run is of no use afterwards."""
    num_steps = -(-len(run.loaders[0].epoch(0)) // run.config.accumulated_batches)
    started, counted = time.monotonic(), 0
    for position, _ in enumerate(run.steps()):
        if position == WARM_STEPS:
            started = time.monotonic()
        if position >= min(PROBE_STEPS, num_steps - 1):
            counted = max(position - WARM_STEPS, 1)
            break
    return (time.monotonic() - started) / counted * num_steps


def _new_run(job: BenchmarkJob) -> tuple[TrainingRun, NextItemModel, Encoded, ItemContent]:
    recipe = job.recipe
    torch.set_num_threads(recipe.training.num_threads)
    history = job.history()
    encoded = encode(history)
    content = content_of(history, encoded, recipe, job.text_cache)
    torch.manual_seed(job.seed)
    backbone = new_backbone(encoded.vocabulary, content, recipe.model, DAY_US)
    model = NextItemModel(backbone, content, recipe.training.num_negatives)
    loader = SequenceLoader(encoded=encoded, recipe=recipe, seed=job.seed)
    run = TrainingRun(model=model, config=recipe.training, loaders=[loader], seed=job.seed)
    return run, model, encoded, content


def user_queries(model: NextItemModel, encoded: Encoded, context: int) -> Floats:
    """float32[U, D + 1], see `Outputs.queries`."""
    histories = encoded.histories
    width = model.backbone.config.model.width
    queries = np.zeros((len(histories), width + 1), dtype=np.float32)
    queries[:, -1] = 1.0
    some = np.flatnonzero(histories.lengths > 0)
    with torch.inference_mode():
        for start in range(0, len(some), BATCH_USERS):
            users = some[start : start + BATCH_USERS]
            stops = histories.offsets[users + 1]
            starts = np.maximum(histories.offsets[users], stops - context)
            batch = pack(encoded, starts, stops, context)
            last = batch.event_flat[torch.from_numpy(np.cumsum(stops - starts) - 1)]
            queries[users] = model.queries(batch, last).numpy()
    return queries
