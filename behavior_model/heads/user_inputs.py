"""What a user task reads: the backbone's embedding, statistics of the history, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from behavior_model.context import ModelContext
from behavior_model.tasks import UserTask, labels_at
from behavior_model.user_features import feature_matrix, user_features
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


CHANCE_FLOOR: Final = 1e-4


class UserEmbeddings(Protocol):
    """The part of the backbone's states that a user task needs (`embedding.UserStates`)."""

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        """float32[U, E]."""
        ...

    @property
    def inactive(self) -> npt.NDArray[np.float32]:
        """float32[U], the backbone's own chance of no purchase in its window."""
        ...

    @property
    def survival(self) -> npt.NDArray[np.float32]:
        """float32[U, T], its chance that the next purchase comes after each of T times."""
        ...


class InputKind(StrEnum):
    """Which inputs a head uses."""

    FUSED = "fused"
    EMBEDDING = "embedding"
    STATISTICS = "statistics"


@dataclass(frozen=True, kw_only=True)
class UserInputs:
    """Inputs of U users, by where they come from; a part that is not used has no columns.

    Args:
        embedding: float64[U, E].
        readings: float64[U, R], log odds that the backbone reads off its own state.
        statistics: float64[U, F], hand-made features, NaN where missing.
    """

    embedding: Doubles
    readings: Doubles
    statistics: Doubles

    def __len__(self) -> int:
        return len(self.embedding)

    def rows(self, chosen: npt.NDArray[np.bool_]) -> UserInputs:
        """Only the chosen users."""
        return UserInputs(
            embedding=self.embedding[chosen],
            readings=self.readings[chosen],
            statistics=self.statistics[chosen],
        )

    @property
    def states(self) -> Doubles:
        """float64[U, E + R]: everything that comes from the backbone."""
        return np.concatenate([self.embedding, self.readings], axis=1)

    def only(self, kind: InputKind) -> UserInputs:
        """What a head of a kind reads of fused inputs."""
        nothing = np.zeros((len(self), 0))
        return UserInputs(
            embedding=nothing if kind is InputKind.STATISTICS else self.embedding,
            readings=nothing if kind is InputKind.STATISTICS else self.readings,
            statistics=nothing if kind is InputKind.EMBEDDING else self.statistics,
        )

    @classmethod
    def join(cls, parts: Sequence[UserInputs]) -> UserInputs:
        """Rows of several, one below the other."""
        return cls(
            embedding=np.concatenate([part.embedding for part in parts]),
            readings=np.concatenate([part.readings for part in parts]),
            statistics=np.concatenate([part.statistics for part in parts]),
        )


def user_inputs(
    vocabulary: Vocabulary,
    histories: Histories,
    states: UserEmbeddings | None,
    prediction_times_us: Longs,
    kind: InputKind,
) -> UserInputs:
    """Inputs of a kind.

    Args:
        vocabulary: What the token indices mean.
        histories: U users, events before their prediction times only.
        states: The backbone's states of the same users; may be None for statistics alone.
        prediction_times_us: int64[U].
        kind: Which inputs.

    Raises:
        ValueError: the embedding is asked for and no states came.
    """
    nothing = np.zeros((len(histories), 0))
    embedding = readings = statistics = nothing
    if kind is not InputKind.STATISTICS:
        if states is None:
            raise ValueError(f"inputs '{kind}' need the backbone's states of the users; none came")
        embedding = states.embedding.astype(np.float64)
        chances = np.concatenate([states.inactive[:, None], states.survival], axis=1)
        readings = log_odds(chances.astype(np.float64))
    if kind is not InputKind.EMBEDDING:
        features = user_features(vocabulary, histories, prediction_times_us)
        statistics = feature_matrix(features)
    return UserInputs(embedding=embedding, readings=readings, statistics=statistics)


def log_odds(chances: Doubles) -> Doubles:
    """log(p / (1 - p)), finite: chances are kept `CHANCE_FLOOR` away from 0 and 1."""
    clipped = np.clip(chances, CHANCE_FLOOR, 1.0 - CHANCE_FLOOR)
    return np.asarray(np.log(clipped / (1.0 - clipped)), dtype=np.float64)


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

    def only(self, kind: InputKind) -> LabelledRows:
        """The same rows of fused inputs as a head of a kind reads them."""
        return replace(self, inputs=self.inputs.only(kind))


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
        inputs=UserInputs.join(inputs),
        labels=np.concatenate(labels),
        user_ids=users,
        times=np.concatenate(times),
    )
