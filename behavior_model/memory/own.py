"""Own memory: what this user did, with decay and rhythm. Nothing here is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.memory.purchases import NEVER_DAYS, Doubles, Longs, Purchases

Columns = dict[str, Doubles]

HALF_LIVES_DAYS: Final = (7, 14, 28, 56, 112)
VISIT_DECAYS: Final = (0.97, 0.9, 0.7)
PERIOD_DAYS: Final = 28
NUM_PERIODS: Final = 16
MAX_QUANTITY: Final = 50.0
HORIZON_DAYS: Final = 14.0
"""Middle of the window ahead, for how due a repeat is."""


@dataclass(frozen=True, eq=False)
class PairTable:
    """Columns of values for pairs of a user and a target, sorted by key.

    Args:
        keys: int64[P], distinct and ascending.
        columns: float64[P] per name.
    """

    keys: Longs
    columns: Columns

    def rows(self, chosen: npt.NDArray[np.bool_]) -> PairTable:
        """Some of the pairs: bool[P]."""
        return PairTable(self.keys[chosen], {n: one[chosen] for n, one in self.columns.items()})

    def at(self, keys: Longs, missing: dict[str, float]) -> Columns:
        """Values at other keys; where a pair is absent, `missing[name]` or 0."""
        if len(self.keys) == 0:
            return {n: np.full(len(keys), missing.get(n, 0.0)) for n in self.columns}
        found = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        present = self.keys[found] == keys
        return {
            name: np.where(present, values[found], missing.get(name, 0.0))
            for name, values in self.columns.items()
        }


MISSING_PAIR: Final = {
    name: float("nan")
    for name in (
        "recency",
        "age",
        "gap",
        "last_gap",
        "gap_deviation",
        "overdue",
        "due",
        "visits_ago",
        "quantity",
        "amount",
        "unit_price",
    )
}
"""What is unknown, rather than zero, of a target that the user never bought."""


def own_pairs(purchases: Purchases) -> PairTable:
    """What each user did with each target that they bought.

    Decayed counts by days and by visits (as in TIFU-kNN, Hu et al., 2020), visits, recency, the
    personal rhythm (mean, last and deviation of the gaps between visits that bought it, and how
    overdue the next one is), frequency per visit since the first, counts per 28-day period.
    """
    keys, inverse = np.unique(purchases.keys, return_inverse=True)
    ages = purchases.ages

    def total(weights: npt.NDArray[np.floating] | Longs) -> Doubles:
        totals = np.bincount(inverse, weights=weights, minlength=len(keys))
        return totals.astype(np.float64)

    count = total(np.ones(len(ages)))
    columns: Columns = {"count": count}
    for days in HALF_LIVES_DAYS:
        columns[f"decayed_{days}d"] = total(0.5 ** (ages / days))
    for decay in VISIT_DECAYS:
        columns[f"decayed_visits_{decay}"] = total(decay**purchases.visits_ago)
    columns["quantity"] = total(np.minimum(purchases.quantities, MAX_QUANTITY)) / count
    columns["amount"] = total(purchases.amounts) / count
    columns["unit_price"] = total(log_unit_prices(purchases)) / count
    for period in range(3):
        inside = ages // PERIOD_DAYS == period
        columns[f"period_{period}"] = total(inside)
    columns |= _rhythm(purchases, inverse, keys // purchases.num_targets, len(keys))
    per_user = np.bincount(purchases.users, minlength=purchases.num_users)
    columns["share"] = count / per_user[keys // purchases.num_targets]
    return PairTable(keys, columns)


def log_unit_prices(purchases: Purchases) -> Doubles:
    """float64[N]: logarithm of money per piece, a cent at least."""
    pieces = np.maximum(purchases.quantities, 1.0)
    return np.asarray(np.log(np.maximum(purchases.amounts, 0.01) / pieces))


def _rhythm(purchases: Purchases, inverse: Longs, users: Longs, num_pairs: int) -> Columns:
    """Columns that follow from the distinct visits which bought a target."""
    num_visits = max(len(purchases.visit_users), 1)
    pair_visits = np.unique(inverse * num_visits + purchases.visits)
    pairs, visits = pair_visits // num_visits, pair_visits % num_visits
    ages = purchases.visit_ages[visits]
    times = np.bincount(pairs, minlength=num_pairs)
    stops = np.cumsum(times)
    first, last = stops - times, stops - 1
    several = times > 1
    gaps = np.zeros(len(ages))
    gaps[1:] = ages[:-1] - ages[1:]
    gaps[first] = 0.0
    gap = np.full(num_pairs, np.nan)
    gap[several] = (ages[first] - ages[last])[several] / (times[several] - 1)
    squares = np.bincount(pairs, weights=gaps**2, minlength=num_pairs) / np.maximum(times - 1, 1)
    recency = ages[last]
    ends = np.cumsum(purchases.visits_per_user)[users]
    periods = np.unique(pairs * NUM_PERIODS + np.minimum(ages // PERIOD_DAYS, NUM_PERIODS - 1))
    num_periods = np.bincount((periods // NUM_PERIODS).astype(np.int64), minlength=num_pairs)
    safe_gap = np.maximum(gap, 1e-3)
    return {
        "visits": times.astype(np.float64),
        "recency": recency,
        "age": ages[first],
        "gap": gap,
        "last_gap": np.where(several, gaps[last], np.nan),
        "gap_deviation": np.where(several, np.sqrt(np.maximum(squares - gap**2, 0.0)), 0.0),
        "overdue": recency / safe_gap,
        "due": (recency + HORIZON_DAYS) / safe_gap,
        "visits_ago": (ends - 1 - visits[last]).astype(np.float64),
        "per_visit": times / (ends - visits[first]),
        "periods": num_periods.astype(np.float64),
        "period_rate": num_periods / (1 + np.minimum(ages[first] // PERIOD_DAYS, NUM_PERIODS - 1)),
    }


def seen_pairs(purchases: Purchases) -> PairTable:
    """Other events with a target, such as views and carts: decayed count and recency."""
    raw = purchases.seen_users * purchases.num_targets + purchases.seen_targets
    keys, inverse = np.unique(raw, return_inverse=True)
    recency = np.full(len(keys), NEVER_DAYS)
    np.minimum.at(recency, inverse, purchases.seen_ages)
    weights = 0.5 ** (purchases.seen_ages / 14.0)
    decayed = np.bincount(inverse, weights=weights, minlength=len(keys))
    return PairTable(keys, {"seen": decayed.astype(np.float64), "seen_recency": recency})


def own_groups(purchases: Purchases, group_of_target: Longs, num_groups: int) -> PairTable:
    """What each user did with groups of targets; keys are `user * num_groups + group`.

    Args:
        purchases: Purchases.
        group_of_target: int64[T], -1 where a target has none.
        num_groups: Number of groups.
    """
    groups = group_of_target[purchases.targets]
    kept = groups >= 0
    raw = purchases.users[kept] * num_groups + groups[kept]
    ages = purchases.ages[kept]
    keys, inverse = np.unique(raw, return_inverse=True)
    recency = np.full(len(keys), NEVER_DAYS)
    np.minimum.at(recency, inverse, ages)
    days = np.unique(inverse * int(NEVER_DAYS) + np.minimum(ages, NEVER_DAYS - 1).astype(np.int64))
    columns = {
        "count": np.bincount(inverse, minlength=len(keys)).astype(np.float64),
        "recency": recency,
        "days": np.bincount(days // int(NEVER_DAYS), minlength=len(keys)).astype(np.float64),
    }
    for half_life in (14, 56):
        weights = 0.5 ** (ages / half_life)
        columns[f"decayed_{half_life}d"] = np.bincount(inverse, weights, minlength=len(keys))
    return PairTable(keys, columns)


def own_users(purchases: Purchases) -> Columns:
    """float64[U] per name: how much, how often and how repetitively each user buys."""
    num_users = purchases.num_users
    visits = purchases.visits_per_user.astype(np.float64)
    events = np.bincount(purchases.users, minlength=num_users).astype(np.float64)
    distinct = np.bincount(np.unique(purchases.keys) // purchases.num_targets, minlength=num_users)
    recency, age = np.full(num_users, NEVER_DAYS), np.zeros(num_users)
    np.minimum.at(recency, purchases.visit_users, purchases.visit_ages)
    np.maximum.at(age, purchases.visit_users, purchases.visit_ages)
    columns = {
        "visits": visits,
        "events": events,
        "basket": events / np.maximum(visits, 1),
        "distinct": distinct.astype(np.float64),
        "repetition": 1 - distinct / np.maximum(events, 1),
        "recency": recency,
        "age": age,
    }
    for half_life in (14, 56):
        weights = 0.5 ** (purchases.visit_ages / half_life)
        columns[f"visits_{half_life}d"] = np.bincount(
            purchases.visit_users, weights, minlength=num_users
        )
    return columns
