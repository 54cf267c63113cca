"""A finished workspace asked from Python: data frames, and the same answers as the counter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from behavior_model.evaluation.results import read_evaluation
from behavior_model.likeness import Likeness
from behavior_model.predictor import LevelName, Predictor, Ranking
from pipelines import lake
from pipelines.clock import from_micros, to_micros
from pipelines.contracts import (
    CATEGORY,
    EVENT_TIME,
    EVENTS,
    ITEM_ID,
    PROFILES,
    TITLE,
    USER_ID,
)
from pipelines.erasure import suppressed_digests, without_digests, without_suppressed
from pipelines.errors import UnknownNameError, UserError
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace


class Session:
    """One workspace at one moment.

    Args:
        workspace: Where `bfm run` was run.
        as_of: Prediction time; by default up to when the bundle knows. Events at or after it are
            not seen.

    Raises:
        BundleError: no bundle, or a changed one.
    """

    def __init__(self, workspace: Path | str, *, as_of: datetime | None = None) -> None:
        self.workspace = Workspace(Path(workspace))
        self.predictor = Predictor.load(self.workspace.bundle)
        known_us = self.predictor.manifest.knows_until_us
        self.as_of = (as_of or from_micros(known_us)).astimezone(UTC)

    @property
    def users(self) -> list[str]:
        """Ids of all users with any history."""
        return self._histories.user_ids

    @cached_property
    def catalogue(self) -> pd.DataFrame:
        """The catalogue, by item id."""
        return lake.read_catalogue(self.workspace).to_pandas().set_index(ITEM_ID)

    @cached_property
    def profiles(self) -> pd.DataFrame:
        """Profiles, by user id."""
        rows = without_suppressed(self.workspace, lake.read(self.workspace, PROFILES.name))
        return rows.to_pandas().set_index(USER_ID)

    @cached_property
    def evaluation(self) -> pd.DataFrame:
        """The model's figures at the test cut, each beside its strongest baseline.

        `low` and `high` are the ends of a figure's 95 per cent interval, `gain low` and `gain high`
        those of its gain over that baseline.
        """
        rows = read_evaluation(self.workspace.evaluation_path)
        gains = [r.gain_interval or (math.nan, math.nan) for r in rows]
        return pd.DataFrame(
            {
                "task": [r.task for r in rows],
                "metric": [r.metric for r in rows],
                "split": [r.split for r in rows],
                "model": [r.model for r in rows],
                "low": [r.interval[0] for r in rows],
                "high": [r.interval[1] for r in rows],
                "best baseline": [r.best_baseline[1] for r in rows],
                "which": [r.best_baseline[0] for r in rows],
                "gain": [r.model - r.best_baseline[1] for r in rows],
                "gain low": [low for low, _ in gains],
                "gain high": [high for _, high in gains],
                "users": [r.num_users for r in rows],
            }
        )

    def history(self, user_id: str) -> pd.DataFrame:
        """A user's events before the moment, oldest first, with titles and categories.

        Raises:
            UnknownNameError: nobody of that name has a history, or may be read.
        """
        self._of([user_id])
        rows = lake.read(self.workspace, EVENTS.name, filters=[(USER_ID, "=", user_id)])
        events = rows.to_pandas().sort_values(EVENT_TIME, kind="stable")
        events = events[events[EVENT_TIME] < self.as_of]
        named = events.join(self.catalogue[[TITLE, CATEGORY]], on=ITEM_ID)
        return named.dropna(axis="columns", how="all").reset_index(drop=True)

    def recommend(
        self, user_ids: Sequence[str], *, k: int = 10, level: LevelName = "item"
    ) -> pd.DataFrame:
        """What users will buy next, best first: user_id, rank, id, score, title, category."""
        histories = self._of(user_ids)
        ranking = self.predictor.recommend(histories, self._moments(histories), k, level=level)
        return self._frame(histories.user_ids, ranking, USER_ID)

    def explain(
        self, user_id: str, name: str, *, level: LevelName = "item", k: int = 10
    ) -> pd.DataFrame:
        """Why an item (or category) stands where it does in a user's list of k, by feature.

        `value` is what is known of user and item, `lift` what it adds to the score beyond the mean
        of the user's candidates; the strongest come first.
        """
        histories = self._of([user_id])
        found = self.predictor.explain(histories, self._moments(histories), name, k, level=level)
        index = pd.Index(found.names, name="feature")
        return pd.DataFrame({"value": found.values, "lift": found.lifts}, index=index)

    def predict(self, task: str, user_ids: Sequence[str] | None = None) -> pd.DataFrame:
        """A user task's answers, by user id: score, lower, upper, familiarity."""
        histories = self._histories if user_ids is None else self._of(user_ids)
        answer = self.predictor.predict(task, histories, self._moments(histories))
        return pd.DataFrame(
            {
                "score": answer.scores,
                "lower": answer.lowers,
                "upper": answer.uppers,
                "familiarity": answer.familiarities,
            },
            index=pd.Index(histories.user_ids, name=USER_ID),
        )

    def search(self, query: str, *, user_id: str | None = None, k: int = 10) -> pd.DataFrame:
        """Items for a text query, best first; personal where a user is named. A `familiarity` below
        .01 says that nothing here is like it.

        Raises:
            UserError: a blank query.
        """
        if not query.strip():
            raise UserError("search was given a blank query. Give some words, such as 'tea'.")
        histories = None if user_id is None else self._of([user_id])
        moments = None if histories is None else self._moments(histories)
        ranking = self.predictor.search(
            [query], k, histories=histories, prediction_times_us=moments
        )
        frame = self._frame([query], ranking, "query")
        return frame.assign(familiarity=ranking.familiarities[0])

    def similar_items(
        self, item_id: str, *, by: Likeness = "behavior", k: int = 10
    ) -> pd.DataFrame:
        """Items like another, as behaviour or as content sees it.

        Raises:
            UnknownNameError: an unknown item, or another likeness than these.
        """
        if by not in get_args(Likeness):
            raise UnknownNameError("likeness", str(by), get_args(Likeness))
        return self._frame([item_id], self.predictor.similar_items([item_id], k, by=by), "like")

    def embeddings(self) -> pd.DataFrame:
        """One row per user: the user's embedding."""
        matrix = self.predictor.embed_users(self._histories, self._moments(self._histories))
        return pd.DataFrame(matrix, index=pd.Index(self.users, name=USER_ID))

    def item_embeddings(self, item_ids: Sequence[str]) -> pd.DataFrame:
        """One row per item: the item's embedding."""
        matrix = self.predictor.embed_items(item_ids)
        return pd.DataFrame(matrix, index=pd.Index(list(item_ids), name=ITEM_ID))

    @property
    def _as_of_us(self) -> int:
        return to_micros(self.as_of)

    @cached_property
    def _histories(self) -> Histories:
        vocabulary = self.predictor.vocabulary
        histories = lake.read_histories(self.workspace, vocabulary, self._as_of_us)
        erased = frozenset(suppressed_digests(self.workspace))
        return histories.only(without_digests(histories.user_ids, erased))

    def _moments(self, histories: Histories) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.full(len(histories), self._as_of_us, dtype=np.int64)

    def _of(self, user_ids: Sequence[str]) -> Histories:
        _require_users(user_ids)
        known = set(self.users)
        for user_id in user_ids:
            if user_id not in known:
                some = self.users[:5]
                raise UnknownNameError("user", user_id, some, is_all=len(some) == len(known))
        return self._histories.only(user_ids)

    def _frame(self, names: Sequence[str], ranking: Ranking, column: str) -> pd.DataFrame:
        rows = [
            (name, rank, one, score)
            for name, ids, scores in zip(names, ranking.ids, ranking.scores, strict=True)
            for rank, (one, score) in enumerate(zip(ids, scores, strict=True), start=1)
        ]
        frame = pd.DataFrame(rows, columns=[column, "rank", "id", "score"])
        return frame.join(self.catalogue[[TITLE, CATEGORY]], on="id")


def _require_users(user_ids: Sequence[object]) -> None:
    """Refuse what is no list of ids, or an empty one.

    Raises:
        UserError: the message says what came and what is allowed.
    """
    if isinstance(user_ids, str):
        raise UserError(
            f"a list of user ids is asked for; the text '{user_ids}' came. Put it in []."
        )
    for one in user_ids:
        if not isinstance(one, str):
            kind = type(one).__name__
            raise UserError(f"user id {one!r} is of type {kind}; ids are texts: give '{one}'.")
    if not len(user_ids):
        raise UserError("the list of user ids is empty. Give one id at least.")
