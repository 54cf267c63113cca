"""What every head is given: histories, states and futures at a prediction time, and no way past it.

Heads never read the lake themselves. A history is always cut before the prediction time; a future
can be had only where its whole window ends at or before the training limit, or, for judging alone,
through `test_futures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from behavior_model.typed_queries import NOTHING_TYPED, TypedQueries, find_typed_queries
from pipelines import lake
from pipelines.contracts import (
    AMOUNT,
    CATEGORIES,
    EVENT_ID,
    EVENTS,
    ITEM_COUNTS,
    ITEM_IDS,
    LABELS,
    NUM_EVENTS,
    NUM_PURCHASES,
    PREDICTION_TIME,
    QUERY,
    USER_ID,
)
from pipelines.erasure import suppressed_digests, without_digests, without_users
from pipelines.errors import WorkspaceError
from pipelines.tokens.binning import DAY_US, UNKNOWN_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.selection import count_by_user, events_where, money_by_user
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from behavior_model.embedding import UserStates
    from behavior_model.items import ItemContent
    from behavior_model.model.backbone import Backbone

T = TypeVar("T")

Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

MAX_TRAINING_TIMES: Final = 5


@dataclass(frozen=True, kw_only=True)
class Futures:
    """What U users did in the window that begins at a prediction time.

    Args:
        user_ids: U outside ids, in order.
        num_events: int64[U], events of any type.
        num_purchases: int64[U].
        amounts: float64[U], money spent.
        items: Per user the distinct item indices bought; items outside the vocabulary are left out.
        item_counts: Per user the purchase events of each of `items`.
        categories: Per user the distinct positions in `Vocabulary.categories` bought.
        prediction_time_us: Begin of the window, UTC microseconds.
        vocabulary: What the token indices of `events` mean.
        read_events: Reads `events`.
    """

    user_ids: list[str]
    num_events: Longs
    num_purchases: Longs
    amounts: Doubles
    items: list[Longs]
    item_counts: list[Longs]
    categories: list[Longs]
    prediction_time_us: int
    vocabulary: Vocabulary
    read_events: Callable[[], Histories] = field(repr=False)

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def active(self) -> npt.NDArray[np.bool_]:
        """bool[U]: bought anything in the window."""
        return self.num_purchases > 0

    @cached_property
    def events(self) -> Histories:
        """The events of the window, encoded, of all U users; read when first asked for."""
        return self.read_events()

    def count(self, after_days: float = 0.0, **values: str) -> Longs:
        """int64[U]: events in the window that have all of some values:
        `future.count(event_type="cancellation")`.

        Args:
            after_days: So many days of the window are passed over.
            values: Value by field; see `pipelines.tokens.selection.events_where`.

        Raises:
            UnknownNameError: no such field, or no event before the training cut had such a value.
        """
        return count_by_user(self.events, self._where(after_days, values))

    def money(self, after_days: float = 0.0, **values: str) -> Doubles:
        """float64[U]: money of such events, of any type unless one is named; see `count`."""
        return money_by_user(self.events, self._where(after_days, values))

    def _where(self, after_days: float, values: Mapping[str, str]) -> npt.NDArray[np.bool_]:
        begin = self.prediction_time_us + after_days * DAY_US
        return events_where(self.vocabulary, self.events, values) & (self.events.times_us >= begin)


@dataclass(frozen=True, kw_only=True)
class ModelContext:
    """One company's model at one test cut.

    Args:
        workspace: Where tables and checkpoints are.
        vocabulary: Fitted before the training cut.
        as_of_us: The test cut, UTC microseconds. Nothing at or after it is learned from.
        window_us: Length of the window that tasks look ahead.
        parts: Folder with `items` and `backbone`; the workspace's checkpoints by default.
    """

    workspace: Workspace
    vocabulary: Vocabulary
    as_of_us: int
    window_us: int
    parts: Path | None = None
    _cache: dict[tuple[str, int], object] = field(default_factory=dict, repr=False, compare=False)
    _kept: dict[tuple[str, int], object] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, workspace: Workspace, *, as_of_us: int, window_days: int = 28) -> ModelContext:
        """Open a workspace whose token sequences and labels are made.

        Raises:
            VocabularyMismatchError: no vocabulary, or one that was changed.
        """
        vocabulary = Vocabulary.load(workspace.vocabulary_path)
        return cls(
            workspace=workspace,
            vocabulary=vocabulary,
            as_of_us=as_of_us,
            window_us=window_days * DAY_US,
        )

    @property
    def training_cut_us(self) -> int:
        """The vocabulary and the backbone have seen nothing at or after this time."""
        return self.as_of_us - self.window_us

    @property
    def test_time(self) -> int:
        """Prediction time that heads are judged at."""
        return self.as_of_us

    @property
    def validation_time(self) -> int:
        """Latest prediction time whose window has passed at the test cut."""
        return self.training_cut_us

    @property
    def training_times(self) -> list[int]:
        """Earlier prediction times with labels, newest first; their windows do not overlap."""
        known = {int(t) for t in self._label_times}
        times = [
            self.validation_time - i * self.window_us for i in range(1, MAX_TRAINING_TIMES + 1)
        ]
        return [time for time in times if time in known]

    @cached_property
    def content(self) -> ItemContent:
        """Content of every item, aligned to item index."""
        from behavior_model.items import ItemContent

        return ItemContent.load(self._parts / "items", self.vocabulary)

    @cached_property
    def backbone(self) -> Backbone:
        """The pretrained backbone."""
        from behavior_model.model.backbone import load_backbone

        return load_backbone(self._parts / "backbone", self.vocabulary)

    @property
    def _parts(self) -> Path:
        return self.parts or self.workspace.checkpoints

    def histories(self, prediction_time_us: int) -> Histories:
        """Histories of all customers with any event before a prediction time, by user id.

        Flagged users (staff, bots) are none, nor is who is to be forgotten: nothing is learned from
        them or judged on them.
        """

        def make() -> Histories:
            return self._customers(self._histories).before(prediction_time_us).non_empty()

        return self._once("histories", prediction_time_us, make)

    def states(self, prediction_time_us: int) -> UserStates:
        """The backbone's states of `histories(prediction_time_us)`, in the same order."""
        return self._once(
            "states",
            prediction_time_us,
            lambda: self._embed(self.histories(prediction_time_us), prediction_time_us),
        )

    def flagged_states(self, prediction_time_us: int) -> UserStates | None:
        """States of flagged users with any event before a prediction time; None without any."""
        flagged = self._histories.select(np.flatnonzero(self._are_flagged(self._histories)))
        histories = flagged.before(prediction_time_us).non_empty()
        return self._embed(histories, prediction_time_us) if len(histories) else None

    def futures(self, prediction_time_us: int) -> Futures:
        """Futures to learn from, aligned to `histories(prediction_time_us)`.

        Raises:
            ValueError: the window reaches past the test cut.
        """
        if prediction_time_us + self.window_us > self.as_of_us:
            raise ValueError("this window ends after the test cut; only test_futures may judge it")
        return self._once("futures", prediction_time_us, lambda: self._read(prediction_time_us))

    @property
    def test_futures(self) -> Futures:
        """Futures at the test cut: for judging alone, never for fitting."""
        return self._once("futures", self.test_time, lambda: self._read(self.test_time))

    def typed_queries(self, before_us: int) -> TypedQueries:
        """What customers typed before a time, and what they took then, also before it.

        Raises:
            ValueError: the time lies after the test cut.
        """
        if before_us > self.as_of_us:
            raise ValueError("this lies after the test cut; only test_typed_queries may judge it")
        return self._once("typed", before_us, lambda: self._typed(self.histories(before_us)))

    @property
    def test_typed_queries(self) -> TypedQueries:
        """Those typed in the window at the test cut: for judging alone, never for fitting."""
        end = self.as_of_us + self.window_us

        def make() -> TypedQueries:
            typed = self._typed(self._customers(self._read_histories(end)))
            return typed.between(self.as_of_us, end)

        return self._once("typed", end, make) if self._types_queries else NOTHING_TYPED

    def keep(self, kind: str, seed: int, value: object) -> None:
        """Something that one head has fitted and a later one reads, while this context lives."""
        self._kept[(kind, seed)] = value

    def kept(self, kind: str, seed: int) -> object | None:
        """What was kept; None where nothing was."""
        return self._kept.get((kind, seed))

    def _once(self, kind: str, time: int, make: Callable[[], T]) -> T:
        if (kind, time) not in self._cache:
            self._cache[(kind, time)] = make()
        return self._cache[(kind, time)]  # type: ignore[return-value]

    def _embed(self, histories: Histories, prediction_time_us: int) -> UserStates:
        from behavior_model.embedding import embed_users

        times = np.full(len(histories), prediction_time_us, dtype=np.int64)
        return embed_users(self.backbone, self.content, histories, times)

    def _typed(self, histories: Histories) -> TypedQueries:
        if not self._types_queries:
            return NOTHING_TYPED
        return find_typed_queries(histories, self.vocabulary, self._typed_texts)

    @cached_property
    def _typed_texts(self) -> pa.Table:
        """Ids and texts of all events that carry a query."""
        return lake.read(self.workspace, EVENTS.name, [EVENT_ID, QUERY], [(QUERY, "!=", "")])

    @property
    def _types_queries(self) -> bool:
        """Whether anybody typed anything before the training cut."""
        return any(field.column == QUERY for field in self.vocabulary.fields)

    @cached_property
    def _histories(self) -> Histories:
        return self._read_histories(self.as_of_us)

    def _read_histories(self, before_us: int) -> Histories:
        histories = lake.read_histories(self.workspace, self.vocabulary, before_us)
        if not self._erased:
            return histories
        return histories.only(without_digests(histories.user_ids, self._erased))

    @cached_property
    def _erased(self) -> frozenset[str]:
        """Digests of users who are to be forgotten, as they were when first asked for."""
        return frozenset(suppressed_digests(self.workspace))

    @cached_property
    def _flagged(self) -> frozenset[str]:
        return lake.flagged_users(self.workspace)

    def _customers(self, histories: Histories) -> Histories:
        """Users who are not flagged."""
        return histories.select(np.flatnonzero(~self._are_flagged(histories)))

    def _are_flagged(self, histories: Histories) -> npt.NDArray[np.bool_]:
        """bool[users]: which of the users are flagged."""
        return np.asarray([user in self._flagged for user in histories.user_ids], dtype=np.bool_)

    @cached_property
    def _label_times(self) -> Longs:
        column = lake.read(self.workspace, LABELS.name, [PREDICTION_TIME]).column(0).unique()
        return np.asarray(pc.cast(column, pa.int64()).to_numpy(), dtype=np.int64)

    def _read(self, prediction_time_us: int) -> Futures:
        moment = pa.scalar(prediction_time_us, type=pa.timestamp("us", tz="UTC")).as_py()
        rows = lake.read(self.workspace, LABELS.name, filters=[(PREDICTION_TIME, "=", moment)])
        if rows.num_rows == 0:
            raise WorkspaceError(
                f"{self.workspace.root}: no labels at {moment.isoformat()}. "
                "Make them with: bfm tokenize --workspace DIR --as-of TIME"
            )
        rows = without_users(rows, self._erased)
        flagged = pa.array(self._flagged, type=pa.string())
        customers = pc.invert(pc.is_in(rows.column(USER_ID), value_set=flagged))
        rows = rows.filter(customers).sort_by(USER_ID)
        users = rows.column(USER_ID).to_pylist()
        if users != self.histories(prediction_time_us).user_ids:
            raise WorkspaceError(
                f"{self.workspace.root}: labels and token sequences at {moment.isoformat()} name "
                "different users. Make both again with: bfm tokenize --workspace DIR"
            )
        return self._futures(users, rows, prediction_time_us)

    def _ahead(self, users: list[str], prediction_time_us: int) -> Histories:
        """Events of some users in the window that begins at a time."""
        end = prediction_time_us + self.window_us
        known = self._histories if end <= self.as_of_us else self._read_histories(end)
        return known.only(users).before(end).since(prediction_time_us)

    def _futures(self, users: list[str], rows: pa.Table, prediction_time_us: int) -> Futures:
        items, counts = self._bought(rows)
        position = {name: i for i, name in enumerate(self.vocabulary.categories)}
        categories = [
            np.asarray([position[c] for c in names if c in position], dtype=np.int64)
            for names in rows.column(CATEGORIES).to_pylist()
        ]
        return Futures(
            user_ids=users,
            num_events=rows.column(NUM_EVENTS).to_numpy(),
            num_purchases=rows.column(NUM_PURCHASES).to_numpy(),
            amounts=rows.column(AMOUNT).to_numpy(),
            items=items,
            item_counts=counts,
            categories=categories,
            prediction_time_us=prediction_time_us,
            vocabulary=self.vocabulary,
            read_events=lambda: self._ahead(users, prediction_time_us),
        )

    def _bought(self, rows: pa.Table) -> tuple[list[Longs], list[Longs]]:
        known = self.vocabulary.item_idx_of
        items: list[Longs] = []
        counts: list[Longs] = []
        pairs: Sequence[tuple[list[str], list[int]]] = list(
            zip(
                rows.column(ITEM_IDS).to_pylist(),
                rows.column(ITEM_COUNTS).to_pylist(),
                strict=True,
            )
        )
        for ids, numbers in pairs:
            idx = np.asarray([known.get(i, UNKNOWN_IDX) for i in ids], dtype=np.int64)
            kept = idx != UNKNOWN_IDX
            items.append(idx[kept])
            counts.append(np.asarray(numbers, dtype=np.int64)[kept])
        return items, counts
