"""Collective memory: what is bought by many, again and together. Holds nothing of single users.

Legend: T targets, R known targets (bought often enough to say something), F factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save
from scipy import sparse

from behavior_model.memory.factors import Floats, fit_factors, fold_in
from behavior_model.memory.neighbours import LAG_DECAY, Neighbours, profile
from behavior_model.memory.own import PERIOD_DAYS, log_unit_prices
from behavior_model.memory.purchases import Doubles, Longs, Purchases
from pipelines.errors import BundleError
from pipelines.workspace import write_bytes_atomically

MIN_COUNT: Final = 5
PRIOR_COUNT: Final = 5.0
LASTING_HALF_LIFE_DAYS: Final = 112.0
MAX_PROFILE: Final = 100
NUM_POPULAR: Final = 500
ITEM_COLUMNS: Final = (
    "popular_7d", "popular_28d", "popular", "buyers", "trend", "known_days",
    "repeat_rate", "group_repeat_rate", "lift", "typical_price", "price_now",
)  # fmt: skip
_FILE: Final = "collective.safetensors"


@dataclass(frozen=True, eq=False)
class PairScores:
    """How strongly the collective ties U users to R known targets.

    Args:
        follow: float32[U, R], what follows recent purchases.
        accompany: float32[U, R], what accompanies lasting ones.
        tastes: float32[U, F]; the product with `CollectiveMemory.factors` is a score.
    """

    follow: Floats
    accompany: Floats
    tastes: Floats


@dataclass(frozen=True, eq=False)
class CollectiveMemory:
    """Statistics of the histories of many users at one moment.

    Args:
        items: float64[T, len(ITEM_COLUMNS)], statistics per target.
        known: int64[R], targets bought at least MIN_COUNT times, ascending.
        neighbours: What follows and accompanies what.
        factors: float32[R, F], taste factors.
        popular: int64[M, P], most popular targets first, per market token (row 0: all markets).
    """

    items: Doubles
    known: Longs
    neighbours: Neighbours
    factors: Floats
    popular: Longs

    @classmethod
    def fit(
        cls, purchases: Purchases, group_of_target: Longs, *, seed: int = 0
    ) -> CollectiveMemory:
        """Read the collective from histories before one prediction time.

        Args:
            purchases: All users' purchases.
            group_of_target: int64[T], wider group per target (category), -1 where none; rare
                targets borrow its repeat rate.
            seed: Seed of the factors.
        """
        counts = np.bincount(purchases.targets, minlength=purchases.num_targets)
        known = np.flatnonzero(counts >= MIN_COUNT)
        position = np.full(purchases.num_targets, -1, dtype=np.int64)
        position[known] = np.arange(len(known))
        rows = position[purchases.targets]
        kept = rows >= 0
        items = _item_statistics(purchases, group_of_target)
        return cls(
            items=items,
            known=known,
            neighbours=Neighbours.fit(
                purchases.visits[kept], rows[kept], purchases.visit_users, len(known)
            ),
            factors=fit_factors(_tastes(purchases, position, len(known)), seed=seed),
            popular=_popular(purchases),
        )

    @property
    def num_targets(self) -> int:
        """T."""
        return len(self.items)

    @cached_property
    def position(self) -> Longs:
        """int64[T]: position among the known targets, -1 where a target is not known."""
        position = np.full(self.num_targets, -1, dtype=np.int64)
        position[self.known] = np.arange(len(self.known))
        return position

    def pair_scores(self, purchases: Purchases) -> PairScores:
        """Scores for the users of `purchases`, each from its own history alone."""
        recent, lasting = _profiles(purchases, self.position, len(self.known))
        follow, accompany = self.neighbours.scores(recent, lasting)
        tastes = _tastes(purchases, self.position, len(self.known))
        return PairScores(follow, accompany, fold_in(tastes, self.factors))

    def save(self, folder: Path) -> None:
        """Write as one safetensors file; a sparse matrix is three tensors."""
        tensors: dict[str, npt.NDArray[np.generic]] = {
            "items": self.items,
            "known": self.known,
            "factors": self.factors,
            "popular": self.popular,
        }
        for name in ("follow", "accompany"):
            matrix: sparse.csr_matrix = getattr(self.neighbours, name)
            tensors[f"{name}/data"] = matrix.data
            tensors[f"{name}/indices"] = matrix.indices.astype(np.int32)
            tensors[f"{name}/indptr"] = matrix.indptr.astype(np.int64)
        ready = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        write_bytes_atomically(folder / _FILE, save(ready))

    @classmethod
    def load(cls, folder: Path) -> CollectiveMemory:
        """Read what `save` wrote.

        Raises:
            BundleError: nothing here.
        """
        if not (folder / _FILE).is_file():
            raise BundleError(f"{folder}: no collective memory here. Make it with: bfm heads")
        tensors = load_file(folder / _FILE)
        shape = (len(tensors["known"]), len(tensors["known"]))

        def matrix(name: str) -> sparse.csr_matrix:
            parts = tuple(tensors[f"{name}/{part}"] for part in ("data", "indices", "indptr"))
            return sparse.csr_matrix(parts, shape=shape)

        return cls(
            items=tensors["items"],
            known=tensors["known"],
            neighbours=Neighbours(follow=matrix("follow"), accompany=matrix("accompany")),
            factors=tensors["factors"],
            popular=tensors["popular"],
        )


def _profiles(
    purchases: Purchases, position: Longs, num_known: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    rows = position[purchases.targets]
    kept = rows >= 0
    users, rows = purchases.users[kept], rows[kept]
    recent = LAG_DECAY ** purchases.visits_ago[kept].astype(np.float64)
    lasting = 0.5 ** (purchases.ages[kept] / LASTING_HALF_LIFE_DAYS)
    shape = (purchases.num_users, num_known)
    return (
        profile(users, rows, recent, shape, MAX_PROFILE),
        profile(users, rows, lasting, shape, MAX_PROFILE),
    )


def _tastes(purchases: Purchases, position: Longs, num_known: int) -> sparse.csr_matrix:
    rows = position[purchases.targets]
    kept = rows >= 0
    weights = 0.5 ** (purchases.ages[kept] / LASTING_HALF_LIFE_DAYS)
    shape = (purchases.num_users, num_known)
    tastes = sparse.csr_matrix((weights, (purchases.users[kept], rows[kept])), shape=shape)
    tastes.sum_duplicates()
    return tastes.astype(np.float32)


def _popular(purchases: Purchases) -> Longs:
    weights = 0.5 ** (purchases.ages / PERIOD_DAYS)
    markets = purchases.markets
    lists = []
    for market in range(int(markets.max(initial=0)) + 1):
        chosen = markets[purchases.users] == market
        inside = weights * chosen if market and chosen.any() else weights
        totals = np.bincount(purchases.targets, inside, minlength=purchases.num_targets)
        order = np.lexsort((np.arange(len(totals)), -totals))[:NUM_POPULAR]
        lists.append(np.where(totals[order] > 0, order, -1))
    return np.stack(lists)


def _item_statistics(purchases: Purchases, group_of_target: Longs) -> Doubles:
    num_targets, targets = purchases.num_targets, purchases.targets

    def total(weights: npt.NDArray[np.generic] | None = None) -> Doubles:
        return np.bincount(targets, weights, minlength=num_targets).astype(np.float64)

    last_week = total(0.5 ** (purchases.ages / 7))
    last_month = total(0.5 ** (purchases.ages / 28))
    count = total()
    buyers = np.bincount(np.unique(purchases.keys) % num_targets, minlength=num_targets)
    known_days = np.zeros(num_targets)
    np.maximum.at(known_days, targets, purchases.ages)
    rates, group_rates, lift = _repeat_statistics(purchases, group_of_target)
    prices = log_unit_prices(purchases)
    typical = total(prices) / np.maximum(count, 1)
    fresh = 0.5 ** (purchases.ages / 5)
    now = (total(prices * fresh) + typical) / (total(fresh) + 1) - typical
    trend = np.log((last_week / 7 + 0.1) / (last_month / 28 + 0.1))
    columns = (last_week, last_month, count, buyers, trend, known_days,
               rates, group_rates, lift, typical, now)  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float64)


def _repeat_statistics(
    purchases: Purchases, group_of_target: Longs
) -> tuple[Doubles, Doubles, Doubles]:
    """Repeat rate per target, per its group, and how the last period compares with expectation.

    The repeat rate is the share of (buyer, period) pairs that bought again in the next period.
    Lift compares who bought again in the last period with what decayed counts promised.
    """
    num_targets = purchases.num_targets
    stride = 1_024
    periods = np.minimum(purchases.ages // PERIOD_DAYS, stride - 1).astype(np.int64)
    seen = np.unique(purchases.keys * stride + periods)
    pairs, ago = seen // stride, seen % stride
    earlier = ago > 0
    again = np.isin(seen - 1, seen) & earlier
    chances = np.bincount(pairs[earlier] % num_targets, minlength=num_targets).astype(np.float64)
    repeats = np.bincount(pairs[again] % num_targets, minlength=num_targets).astype(np.float64)
    overall = (repeats.sum() + 1) / (chances.sum() + 10)
    rates = (repeats + PRIOR_COUNT * overall) / (chances + PRIOR_COUNT)
    grouped = group_of_target >= 0
    num_groups = int(group_of_target.max(initial=0)) + 1

    def by_group(values: Doubles) -> Doubles:
        totals = np.bincount(group_of_target[grouped], values[grouped], minlength=num_groups)
        return totals.astype(np.float64)

    group = (by_group(repeats) + PRIOR_COUNT * overall) / (by_group(chances) + PRIOR_COUNT)
    group_rates = np.where(grouped, group[np.maximum(group_of_target, 0)], overall)
    return rates, group_rates, _lift(purchases, pairs[ago == 0])


def _lift(purchases: Purchases, bought_now: Longs) -> Doubles:
    past = purchases.ages >= PERIOD_DAYS
    keys, inverse = np.unique(purchases.keys[past], return_inverse=True)
    ages = purchases.ages[past] - PERIOD_DAYS
    decayed = np.bincount(inverse, 0.5 ** (ages / 56), minlength=len(keys))
    expected = 1 - np.exp(-decayed * np.log(2) / 56 * PERIOD_DAYS)
    actual = np.isin(keys, bought_now)
    ratio = max(float(actual.sum()), 1.0) / max(float(expected.sum()), 1.0)
    targets = keys % purchases.num_targets
    num_targets = purchases.num_targets
    numerator = np.bincount(targets, actual, minlength=num_targets) + 2 * ratio
    denominator = np.bincount(targets, expected, minlength=num_targets) + 2
    return np.asarray(numerator / denominator / ratio, dtype=np.float64)
