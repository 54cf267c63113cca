"""What histories say about targets (items or categories): the input of every memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pipelines.contracts import MARKET, PURCHASE
from pipelines.tokens.binning import DAY_US, FIRST_IDX, PAD_IDX, SESSION_GAP_US
from pipelines.tokens.history import Histories
from pipelines.tokens.selection import is_event_type, sells
from pipelines.tokens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from behavior_model.context import Futures

Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NEVER_DAYS: Final = 1e4
"""Age of something that never happened."""


class Level(StrEnum):
    """What is ranked."""

    ITEM = "item"  # target = item index
    CATEGORY = "category"  # target = position in Vocabulary.categories

    def num_targets(self, vocabulary: Vocabulary) -> int:
        """T: one more than the largest target."""
        if self is Level.ITEM:
            return vocabulary.num_item_indices
        return len(vocabulary.categories)

    def targets_of(self, vocabulary: Vocabulary) -> Longs:
        """int64[num_item_indices]: the target of each item index, -1 where there is none."""
        if self is Level.CATEGORY:
            return vocabulary.category_by_item_idx.astype(np.int64)
        targets = np.arange(vocabulary.num_item_indices, dtype=np.int64)
        targets[:FIRST_IDX] = -1
        return targets

    def groups_of(self, vocabulary: Vocabulary) -> Longs:
        """int64[T]: the category of each item, -1 where there is none; categories have none."""
        if self is Level.ITEM:
            return vocabulary.category_by_item_idx.astype(np.int64)
        return np.full(len(vocabulary.categories), -1, dtype=np.int64)

    def truths_of(self, futures: Futures) -> list[Longs]:
        """Per user the distinct targets bought in the window."""
        return futures.items if self is Level.ITEM else futures.categories

    def bought(self, futures: Futures, targets: Longs) -> Bools:
        """bool[U, T]: whether each user bought each of T targets in the window."""
        return np.stack([np.isin(targets, truth) for truth in self.truths_of(futures)])


@dataclass(frozen=True, eq=False)
class Purchases:
    """Purchases of U users as seen at a prediction time, N in all, by user and then time.

    Args:
        num_users: U.
        num_targets: T.
        users: int64[N], position of the user.
        targets: int64[N].
        ages: float64[N], days before the prediction time.
        visits: int64[N], number of the visit over all users; a visit ends after 30 quiet minutes.
        quantities: float64[N], 1 where missing.
        amounts: float64[N], money, 0 where missing.
        visit_users: int64[V], user of each visit, ascending.
        visit_ages: float64[V], days before the prediction time at which each visit began.
        seen_users: int64[M], user of each other event with a target (views, carts).
        seen_targets: int64[M].
        seen_ages: float64[M].
        markets: int64[U], market token of the last event, PAD_IDX where unknown.
    """

    num_users: int
    num_targets: int
    users: Longs
    targets: Longs
    ages: Doubles
    visits: Longs
    quantities: Doubles
    amounts: Doubles
    visit_users: Longs
    visit_ages: Doubles
    seen_users: Longs
    seen_targets: Longs
    seen_ages: Doubles
    markets: Longs

    @cached_property
    def visits_per_user(self) -> Longs:
        """int64[U]."""
        return np.bincount(self.visit_users, minlength=self.num_users)

    @cached_property
    def visits_ago(self) -> Longs:
        """int64[N]: visits of the same user after this one."""
        ends = np.cumsum(self.visits_per_user)
        return ends[self.users] - 1 - self.visits

    def users_between(self, start: int, stop: int) -> Purchases:
        """Users at positions start to stop (exclusive), on their own."""
        rows = slice(*np.searchsorted(self.users, [start, stop]))
        visits = slice(*np.searchsorted(self.visit_users, [start, stop]))
        seen = slice(*np.searchsorted(self.seen_users, [start, stop]))
        return Purchases(
            num_users=stop - start,
            num_targets=self.num_targets,
            users=self.users[rows] - start,
            targets=self.targets[rows],
            ages=self.ages[rows],
            visits=self.visits[rows] - visits.start,
            quantities=self.quantities[rows],
            amounts=self.amounts[rows],
            visit_users=self.visit_users[visits] - start,
            visit_ages=self.visit_ages[visits],
            seen_users=self.seen_users[seen] - start,
            seen_targets=self.seen_targets[seen],
            seen_ages=self.seen_ages[seen],
            markets=self.markets[start:stop],
        )

    @cached_property
    def empty_users(self) -> Bools:
        """bool[U]: nothing is known of what they bought or looked at."""
        known = np.zeros(self.num_users, dtype=np.bool_)
        known[self.users] = True
        known[self.seen_users] = True
        return ~known

    @cached_property
    def keys(self) -> Longs:
        """int64[N]: `user * T + target`."""
        return self.users * self.num_targets + self.targets

    def keys_of_all(self, targets: Longs) -> Longs:
        """int64[U * len(targets)]: every user with each of some targets, as `keys`."""
        users = np.arange(self.num_users)[:, None]
        return np.asarray(users * self.num_targets + targets, dtype=np.int64).ravel()


def read_purchases(
    histories: Histories,
    vocabulary: Vocabulary,
    level: Level,
    prediction_times_us: int | Longs,
) -> Purchases:
    """What histories say about items or categories before prediction times (one, or int64[U]).

    A company whose events know no purchases is read as if every event were one.
    """
    past = histories.before(prediction_times_us)
    limits = np.broadcast_to(np.asarray(prediction_times_us, dtype=np.int64), len(past))
    users = past.user_positions
    ages = (limits[users] - past.times_us) / DAY_US
    item_field = vocabulary.item_field
    targets = level.targets_of(vocabulary)[past.tokens[item_field]]
    bought = is_event_type(vocabulary, past, PURCHASE) | (not sells(vocabulary))
    visits, begins = _visits(users[bought], past.times_us[bought])
    first = np.flatnonzero(bought)[begins]
    kept = targets[bought] >= 0
    rows = np.flatnonzero(bought)[kept]
    seen = np.flatnonzero(~bought & (targets >= 0))
    return Purchases(
        num_users=len(past),
        num_targets=level.num_targets(vocabulary),
        users=users[rows],
        targets=targets[rows],
        ages=ages[rows],
        visits=visits[kept],
        quantities=np.nan_to_num(past.quantities[rows].astype(np.float64), nan=1.0),
        amounts=np.nan_to_num(past.amounts[rows].astype(np.float64)),
        visit_users=users[first],
        visit_ages=ages[first],
        seen_users=users[seen],
        seen_targets=targets[seen],
        seen_ages=ages[seen],
        markets=_markets(past),
    )


def _visits(users: Longs, times_us: Longs) -> tuple[Longs, Longs]:
    """Visit number of each event, and the position of each visit's first event."""
    begins = np.ones(len(users), dtype=np.bool_)
    quiet = np.diff(times_us) > SESSION_GAP_US
    begins[1:] = (np.diff(users) != 0) | quiet
    return np.cumsum(begins) - 1, np.flatnonzero(begins)


def _markets(histories: Histories) -> Longs:
    markets = np.full(len(histories), PAD_IDX, dtype=np.int64)
    some = histories.lengths > 0
    if MARKET in histories.tokens:
        markets[some] = histories.tokens[MARKET][histories.offsets[1:][some] - 1]
    return markets
