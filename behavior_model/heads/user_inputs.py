"""What a user task reads: the backbone's embedding, statistics of the history, or both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from behavior_model.baselines.user_features import feature_matrix, user_features
from behavior_model.context import ModelContext
from behavior_model.heads.scorers import signed_log
from behavior_model.tasks import UserTask, labels_at
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


class UserEmbeddings(Protocol):
    """The part of the backbone's states that a user task needs."""

    @property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """float32[U, D]."""
        ...


class InputKind(StrEnum):
    """Which inputs a head uses."""

    FUSED = "fused"
    EMBEDDING = "embedding"
    STATISTICS = "statistics"


@dataclass(frozen=True, kw_only=True)
class UserInputs:
    """Inputs of U users in both forms.

    Args:
        plain: float64[U, F], as they are, NaN where missing; for trees.
        tame: float64[U, F], statistics on a signed log scale; for linear models and distances.
    """

    plain: Doubles
    tame: Doubles

    def __len__(self) -> int:
        return len(self.plain)

    def rows(self, chosen: npt.NDArray[np.bool_]) -> UserInputs:
        """Only the chosen users."""
        return UserInputs(plain=self.plain[chosen], tame=self.tame[chosen])


def user_inputs(
    vocabulary: Vocabulary,
    histories: Histories,
    states: UserEmbeddings | None,
    prediction_times_us: Longs,
    kind: InputKind,
) -> UserInputs:
    """Inputs of a kind; the embedding first where both are used.

    Args:
        vocabulary: What the token indices mean.
        histories: U users, events before their prediction times only.
        states: The backbone's states of the same users; may be None for statistics alone.
        prediction_times_us: int64[U].
        kind: Which inputs.

    Raises:
        ValueError: the embedding is asked for and no states came.
    """
    plain, tame = [], []
    if kind is not InputKind.STATISTICS:
        if states is None:
            raise ValueError(f"inputs '{kind}' need the backbone's states of the users; none came")
        embeddings = np.asarray(states.embeddings, dtype=np.float64)
        plain.append(embeddings)
        tame.append(embeddings)
    if kind is not InputKind.EMBEDDING:
        features = feature_matrix(user_features(vocabulary, histories, prediction_times_us))
        plain.append(features)
        tame.append(signed_log(features))
    return UserInputs(plain=np.concatenate(plain, axis=1), tame=np.concatenate(tame, axis=1))


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Users at earlier prediction times, with labels whose windows have passed.

    Args:
        inputs: N rows.
        labels: float64[N], none missing.
        user_ids: N outside ids; a user appears once per prediction time.
        times: int64[N], position of the prediction time, 0 is the newest.
    """

    inputs: UserInputs
    labels: Doubles
    user_ids: list[str]
    times: Longs


def labelled_rows(context: ModelContext, task: UserTask, kind: InputKind) -> LabelledRows:
    """All rows that may be learned from at the context's test cut."""
    inputs, labels, users, times = [], [], [], []
    for position, moment in enumerate([context.validation_time, *context.training_times]):
        histories = context.histories(moment)
        label = labels_at(context, task, moment)
        asked = ~np.isnan(label)
        states = None if kind is InputKind.STATISTICS else context.states(moment)
        at = np.full(len(histories), moment, dtype=np.int64)
        rows = user_inputs(context.vocabulary, histories, states, at, kind)
        inputs.append(rows.rows(asked))
        labels.append(label[asked])
        users += [user for user, keep in zip(histories.user_ids, asked, strict=True) if keep]
        times.append(np.full(int(asked.sum()), position, dtype=np.int64))
    return LabelledRows(
        inputs=UserInputs(
            plain=np.concatenate([one.plain for one in inputs]),
            tame=np.concatenate([one.tame for one in inputs]),
        ),
        labels=np.concatenate(labels),
        user_ids=users,
        times=np.concatenate(times),
    )
