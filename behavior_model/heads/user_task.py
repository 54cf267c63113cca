"""The head of a user task: linear and tree learners on frozen inputs, calibrated out of sample.

Rows are users at rolling earlier prediction times whose windows have passed at the test cut. Every
user falls into one of five folds by a hash of the id; raw scores for calibration come from models
that have not seen the user at any time. The learners that answer are then fitted on all rows.
What mixes them is fitted on the newest prediction time alone, by learners that have seen neither
its users nor its window: it is the only one that the backbone has not been pretrained on, so that
elsewhere its states look better than they are, and who shows the outcome may change with time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from behavior_model.context import ModelContext
from behavior_model.heads.calibration import Calibration, calibrate_outcome, calibrate_rate
from behavior_model.heads.documents import read_document
from behavior_model.heads.familiarity import UNFAMILIAR_BELOW, Familiarity
from behavior_model.heads.learners import Learners, fit_mixture
from behavior_model.heads.scorers import signed_root
from behavior_model.heads.user_inputs import (
    InputKind,
    LabelledRows,
    UserEmbeddings,
    UserInputs,
    labelled_rows,
    user_inputs,
)
from behavior_model.tasks import TaskKind, UserTask, tell_enough
from pipelines.errors import TooLittleDataError
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import write_json_atomically

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NUM_FOLDS: Final = 5
SCHEMA_VERSION: Final = 2
_JSON: Final = "user_task.json"
_TENSORS: Final = "user_task.safetensors"
_TREES: Final = "user_task_trees.txt"


@dataclass(frozen=True, kw_only=True)
class UserPrediction:
    """Answers for U users.

    Args:
        scores: float64[U], calibrated probability (binary) or expected value (regression).
        lowers: float64[U], lower end; see `heads.calibration` for what the interval covers.
        uppers: float64[U], upper end.
        familiarities: float64[U] in [0, 1]: share of training users at least as unusual.
    """

    scores: Doubles
    lowers: Doubles
    uppers: Doubles
    familiarities: Doubles

    @property
    def unfamiliar(self) -> npt.NDArray[np.bool_]:
        """bool[U]: less like the training users than 99 in 100 of them; distrust the answer."""
        return self.familiarities < UNFAMILIAR_BELOW


@dataclass(frozen=True, kw_only=True)
class UserTaskHead:
    """One user task, fitted.

    Args:
        task: Name of the task.
        kind: What its answers are.
        input_kind: Which inputs it reads.
        vocabulary: The vocabulary that histories are encoded with.
        learners: Linear models and trees.
        mixture: float64[M + 1], weights of the learners and a constant.
        calibration: Raw score to answer and interval.
        familiarity: Likeness to the training users.
    """

    task: str
    kind: TaskKind
    input_kind: InputKind
    vocabulary: Vocabulary
    learners: Learners
    mixture: Doubles
    calibration: Calibration
    familiarity: Familiarity

    def predict(
        self,
        histories: Histories,
        states: UserEmbeddings | None,
        prediction_times_us: int | Longs,
    ) -> UserPrediction:
        """Answers for U users, each independent of the others.

        Args:
            histories: U users, events before the prediction time only.
            states: The backbone's states of the same users at that time.
            prediction_times_us: One time for all, or int64[U]; UTC microseconds.
        """
        times = np.broadcast_to(np.asarray(prediction_times_us, dtype=np.int64), len(histories))
        inputs = user_inputs(self.vocabulary, histories, states, times, self.input_kind)
        scores, lowers, uppers = self.calibration.apply(self._mix(inputs))
        tame = self.learners.standardise(inputs)
        return UserPrediction(
            scores=scores,
            lowers=lowers,
            uppers=uppers,
            familiarities=self.familiarity.apply(tame),
        )

    def _mix(self, inputs: UserInputs) -> Doubles:
        raw = self.learners.raw(inputs)
        return np.asarray(raw @ self.mixture[:-1] + self.mixture[-1], dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write JSON, safetensors and LightGBM's text into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            **self.learners.save(folder / _TREES),
            "mixture": self.mixture,
            **self.calibration.to_tensors(),
            **self.familiarity.to_tensors(),
        }
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, folder / _TENSORS)
        facts = {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "kind": str(self.kind),
            "input_kind": str(self.input_kind),
            "vocabulary_id": self.vocabulary.vocabulary_id,
        }
        write_json_atomically(folder / _JSON, facts)

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> UserTaskHead:
        """Read what `save` wrote.

        Raises:
            BundleError: a file is missing or of another schema version.
            VocabularyMismatchError: the head was fitted with another vocabulary.
        """
        facts = read_document(folder, _JSON, SCHEMA_VERSION, vocabulary, _TENSORS)
        tensors = load_file(folder / _TENSORS)
        return cls(
            task=facts["task"],
            kind=TaskKind(facts["kind"]),
            input_kind=InputKind(facts["input_kind"]),
            vocabulary=vocabulary,
            learners=Learners.load(tensors, folder / _TREES),
            mixture=tensors["mixture"],
            calibration=Calibration.from_tensors(tensors),
            familiarity=Familiarity.from_tensors(tensors),
        )


def fit(
    context: ModelContext,
    task: UserTask,
    *,
    input_kind: InputKind = InputKind.FUSED,
    seed: int = 0,
) -> UserTaskHead:
    """Fit the head of a task on all rows whose windows have passed at the context's test cut."""
    rows = labelled_rows(context, task, input_kind)
    return fit_rows(rows, task, input_kind, context.vocabulary, seed=seed)


def fit_rows(
    rows: LabelledRows, task: UserTask, input_kind: InputKind, vocabulary: Vocabulary, *, seed: int
) -> UserTaskHead:
    """Fit on rows that are made already.

    Raises:
        TooLittleDataError: too few users can be asked.
    """
    binary = task.kind is TaskKind.BINARY
    targets = rows.labels if binary else signed_root(rows.labels)
    folds = fold_of(rows.user_ids)
    if len(np.unique(folds)) < NUM_FOLDS:
        raise TooLittleDataError(
            f"{len(set(rows.user_ids))} users can be asked before the test cut, too few to hold "
            f"{NUM_FOLDS} groups of them out; it takes about twenty"
        )
    newest = rows.times == 0
    by_learner = out_of_fold(rows.inputs, targets, folds, binary=binary, seed=seed)
    if tell_enough(rows.labels[~newest], task.kind):
        foretold = out_of_fold(
            rows.inputs, targets, folds, binary=binary, seed=seed, taught=~newest
        )
        by_learner[newest] = foretold[newest]
    mixture = fit_mixture(by_learner[newest], targets[newest], binary=binary)
    raw = by_learner @ mixture[:-1] + mixture[-1]
    learners = Learners.fit(rows.inputs, targets, binary=binary, seed=seed)
    _, users = np.unique(rows.user_ids, return_inverse=True)
    calibration = (
        calibrate_rate(raw, rows.labels, users, rows.times, seed=seed)
        if binary
        else calibrate_outcome(raw, rows.labels)
    )
    tame = learners.standardise(rows.inputs)
    return UserTaskHead(
        task=task.name,
        kind=task.kind,
        input_kind=input_kind,
        vocabulary=vocabulary,
        learners=learners,
        mixture=mixture,
        calibration=calibration,
        familiarity=Familiarity.fit(tame, held_out=folds == 0),
    )


def fold_of(user_ids: list[str]) -> Longs:
    """int64[N]: fold of each user by a hash of the id, the same at every prediction time."""
    return np.asarray([zlib.crc32(user.encode()) % NUM_FOLDS for user in user_ids], dtype=np.int64)


def out_of_fold(
    inputs: UserInputs,
    targets: Doubles,
    folds: Longs,
    *,
    binary: bool,
    seed: int,
    taught: Bools | None = None,
) -> Doubles:
    """float64[N, M]: raw scores of learners that have not seen the user; of rows that may teach,
    all by default."""
    parts = []
    for fold in range(NUM_FOLDS):
        out = folds == fold
        seen = ~out if taught is None else ~out & taught
        learners = Learners.fit(inputs.rows(seen), targets[seen], binary=binary, seed=seed)
        parts.append(learners.raw(inputs.rows(out)))
    raw = np.empty((len(targets), parts[0].shape[1]))
    for fold, values in enumerate(parts):
        raw[folds == fold] = values
    return raw
