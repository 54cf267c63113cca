"""Whether labels still teach the backbone something: a head on frozen states against fine-tuning.

Both see the same labels, at the same earlier prediction times, and are judged at the test cut. The
frozen side fits the platform's own head on embeddings alone; the other trains every weight of a
copy of the backbone together with one linear layer on its embedding.

Legend: U users, R labelled rows (a user at a prediction time), E width of a user embedding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.context import ModelContext
from behavior_model.embedding import BATCH_USERS, pooled_states, probe_batch
from behavior_model.evaluation.study_page import StudyTable
from behavior_model.heads.user_inputs import InputKind
from behavior_model.heads.user_task import fit
from behavior_model.metrics import auc, average_precision, bootstrap_interval
from behavior_model.model.backbone import Backbone, load_backbone
from behavior_model.model.batch import PackedBatch
from behavior_model.model.item_tower import ContentTensors
from behavior_model.recipes import TrainingConfig
from behavior_model.tasks import TaskKind, UserTask, labels_at, make_labels, past_at
from behavior_model.training.loop import TrainingRun
from pipelines.errors import UserError
from pipelines.tokens.history import Histories
from pipelines.workspace import write_json_atomically

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Say = Callable[[str], None]

FIGURES_FILE: Final = "fine_tuning.json"
LEARNING_RATE: Final = 3e-4
"""A tenth of the rate that the recipe pretrains tiny with."""
FROZEN: Final = "frozen embedding, linear head"
TUNED: Final = "fine-tuned"
UNTOUCHED: Final = "backbone without any label"


@dataclass(frozen=True, kw_only=True)
class TuningRow:
    """One way to answer the task, at the test cut.

    Args:
        name: How.
        auc: Area under the ROC curve.
        interval: 95 per cent bootstrap interval of it over users.
        average_precision: Area under the precision-recall curve.
        seconds: Of fitting, states of the backbone included.
    """

    name: str
    auc: float
    interval: tuple[float, float]
    average_precision: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TuningStudy:
    """All ways beside each other.

    Args:
        task: Task name.
        cut: Prediction time, UTC microseconds.
        num_users: Users judged.
        num_rows: Labelled rows learned from.
        seed: Seed of batches, dropout and the linear layer.
        rows: One per way; fine-tuning after each pass.
    """

    task: str
    cut: int
    num_users: int
    num_rows: int
    seed: int
    rows: list[TuningRow]


def run(
    context: ModelContext, task: UserTask, out: Path, *, epochs: int, seed: int, say: Say
) -> TuningStudy:
    """Fit both ways, judge them, write `fine_tuning.json`.

    Args:
        context: The company's pretrained model at its test cut.
        task: A binary user task.
        out: Folder for the figures.
        epochs: Passes of fine-tuning over the labelled rows.
        seed: Seed of everything random.
        say: Takes one line per step.

    Raises:
        UserError: the task is not binary.
    """
    if task.kind is not TaskKind.BINARY:
        raise UserError(
            f"user task '{task.name}' is answered with a number; fine-tuning is compared on "
            "yes-or-no tasks, such as churn."
        )
    moment = context.test_time
    labels = make_labels(task, past_at(context, moment), context.test_futures)
    asked = ~np.isnan(labels)

    def row(name: str, scores: Doubles, seconds: float) -> TuningRow:
        say(f"{name}: AUC {auc(labels[asked], scores[asked]):.4f} ({seconds:.0f} s)")
        return _row(name, labels[asked], scores[asked], seconds)

    begun = time.perf_counter()
    head = fit(context, task, input_kind=InputKind.EMBEDDING, seed=seed)
    states = context.states(moment)
    frozen = head.predict(context.histories(moment), states, moment).scores
    rows = [row(FROZEN, frozen, time.perf_counter() - begun)]
    if task.name == "churn":
        rows.append(row(UNTOUCHED, states.inactive.astype(np.float64), 0.0))
    labelled = _labelled(context, task)
    begun = time.perf_counter()
    for epoch, scores in enumerate(_fine_tune(context, labelled, epochs, seed), start=1):
        rows.append(row(f"{TUNED}, pass {epoch}", scores, time.perf_counter() - begun))
    study = TuningStudy(
        task=task.name,
        cut=moment,
        num_users=int(asked.sum()),
        num_rows=sum(len(part.users) for part in labelled),
        seed=seed,
        rows=rows,
    )
    write_json_atomically(out / FIGURES_FILE, {"schema_version": 1, **asdict(study)})
    return study


def study_table(study: TuningStudy) -> StudyTable:
    """What is printed."""
    return StudyTable(
        title=f"{study.task}: {study.num_users:,} users, {study.num_rows:,} labelled rows, "
        f"seed {study.seed}",
        header=["", "AUC", "95 %", "average precision", "seconds"],
        rows=[
            [
                row.name,
                f"{row.auc:.4f}",
                f"{row.interval[0]:.3f} to {row.interval[1]:.3f}",
                f"{row.average_precision:.4f}",
                f"{row.seconds:.0f}",
            ]
            for row in study.rows
        ],
    )


def _row(name: str, labels: Doubles, scores: Doubles, seconds: float) -> TuningRow:
    return TuningRow(
        name=name,
        auc=auc(labels, scores),
        interval=bootstrap_interval(
            len(labels), lambda users: auc(labels[users], scores[users]), num_resamples=300
        ),
        average_precision=average_precision(labels, scores),
        seconds=seconds,
    )


@dataclass(frozen=True, eq=False)
class _Labelled:
    """Users at one earlier prediction time: their last events, who is asked, what is true."""

    histories: Histories
    time_us: int
    users: Longs
    labels: Doubles

    def batch(self, context: ModelContext, chosen: Longs) -> _TuningBatch:
        times = np.full(len(self.histories), self.time_us, dtype=np.int64)
        packed = probe_batch(context.vocabulary, self.histories, times, self.users[chosen])
        return _TuningBatch(packed, torch.from_numpy(self.labels[chosen]).float())


@dataclass(frozen=True, eq=False)
class _TuningBatch:
    packed: PackedBatch
    labels_P: Tensor


def _labelled(context: ModelContext, task: UserTask) -> list[_Labelled]:
    size = context.backbone.config.model.context
    found = []
    for moment in (context.validation_time, *context.training_times):
        labels = labels_at(context, task, moment)
        users = np.flatnonzero(~np.isnan(labels))
        if len(users):
            histories = context.histories(moment).tail(size)
            found.append(_Labelled(histories, moment, users, labels[users]))
    return found


class _FineTuned(nn.Module):
    """A backbone with one linear layer on its user embedding."""

    def __init__(self, backbone: Backbone, content: ContentTensors) -> None:
        super().__init__()
        self.backbone = backbone
        self.output = nn.Linear(3 * backbone.config.model.width, 1)
        nn.init.zeros_(self.output.weight)
        self._content = content

    def logits(self, packed: PackedBatch) -> Tensor:
        """float32[P]."""
        items_BLD = self.backbone.embed_items(self._content, packed.items_BL)
        states_BLD = self.backbone(packed, items_BLD)
        logits_P: Tensor = self.output(pooled_states(states_BLD, packed)).squeeze(1)
        return logits_P

    def forward(self, batch: _TuningBatch) -> dict[str, Tensor]:
        """The loss of a batch, as the training loop wants it."""
        logits_P = self.logits(batch.packed)
        return {"loss": F.binary_cross_entropy_with_logits(logits_P, batch.labels_P)}


@dataclass(frozen=True, kw_only=True, eq=False)
class _TuningLoader:
    """Batches of rows of one prediction time each, of users with histories of like length."""

    context: ModelContext
    labelled: list[_Labelled]
    seed: int
    shard: int = 0

    def epoch(self, epoch: int) -> _TuningEpoch:
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for part, one in enumerate(self.labelled):
            lengths = one.histories.lengths[one.users] + rng.random(len(one.users))
            order = np.argsort(lengths, kind="stable")
            pieces = np.array_split(order, -(-len(order) // BATCH_USERS))
            batches += [(part, piece) for piece in pieces]
        return _TuningEpoch(self, [batches[i] for i in rng.permutation(len(batches))])


@dataclass(frozen=True, eq=False)
class _TuningEpoch:
    loader: _TuningLoader
    batches: list[tuple[int, Longs]]

    def __len__(self) -> int:
        return len(self.batches)

    def from_step(self, step: int) -> Generator[_TuningBatch, None, None]:
        for part, chosen in self.batches[step:]:
            yield self.loader.labelled[part].batch(self.loader.context, chosen)


def _fine_tune(
    context: ModelContext, labelled: list[_Labelled], epochs: int, seed: int
) -> Generator[Doubles, None, None]:
    """float64[U] at the test cut after each pass."""
    torch.manual_seed(seed)
    backbone = load_backbone(context.workspace.checkpoints / "backbone", context.vocabulary)
    content = ContentTensors(context.content)
    model = _FineTuned(backbone.requires_grad_(requires_grad=True), content)
    config = TrainingConfig(
        epochs=epochs,
        batch_tokens=BATCH_USERS * backbone.config.model.context,
        learning_rate=LEARNING_RATE,
        num_negatives=0,
    )
    loader = _TuningLoader(context=context, labelled=labelled, seed=seed)
    num_steps = len(loader.epoch(0))
    for report in TrainingRun(model=model, config=config, loaders=[loader], seed=seed).steps():
        if report.progress.step == num_steps:
            yield _scores(context, model)
            model.train()


def _scores(context: ModelContext, model: _FineTuned) -> Doubles:
    moment = context.test_time
    histories = context.histories(moment).tail(model.backbone.config.model.context)
    times = np.full(len(histories), moment, dtype=np.int64)
    order = np.argsort(histories.lengths, kind="stable")
    scores = np.zeros(len(histories))
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), BATCH_USERS):
            chosen = order[start : start + BATCH_USERS]
            packed = probe_batch(context.vocabulary, histories, times, chosen)
            scores[chosen] = model.logits(packed).double().numpy()
    return scores
