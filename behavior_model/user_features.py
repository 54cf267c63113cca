"""Hand-made recency, frequency and amount features of users, read off their histories.

The classic alternative to an embedding (Fader, Hardie and Lee, 2005, for why these three suffice so
often), and what heads read beside it. A *basket* is all purchases at one moment; in a company
without purchases, all events that `counted_events` names. No event needs to be known to the
vocabulary beyond its type, and nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.memory.own import PERIOD_DAYS
from pipelines.contracts import EVENT_TYPE, ITEM_ID, PURCHASE
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.history import Histories
from pipelines.tokens.selection import counted_events, is_event_type
from pipelines.tokens.vocabulary import PROBE_TYPE, Vocabulary

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

NUM_PERIODS: Final = 6
WINDOWS_DAYS: Final = (7, 14, 28, 56, 84, 168, np.inf)
_PERIOD_ENDS: Final = tuple(PERIOD_DAYS * (i + 1) for i in range(NUM_PERIODS))
HALF_LIVES_DAYS: Final = (14, 56)
LATE_SHARES_DAYS: Final = ((7, 28), (14, 28), (28, 84), (84, 168))
"""What share of the second so many days fell into the first."""
NUM_USUAL_PERIODS: Final = 3

RECENCY: Final = "recency_days"
FREQUENCY: Final = "baskets_inf"
SPEND: Final = "amount_28"


def user_features(
    vocabulary: Vocabulary, histories: Histories, prediction_times_us: Longs
) -> dict[str, Doubles]:
    """Named features, float64[U] each; NaN where a user gives no ground for one.

    Args:
        vocabulary: What the token indices mean.
        histories: U users, events before their prediction times only.
        prediction_times_us: int64[U].
    """
    num_users = len(histories)
    users = histories.user_positions
    ages = (prediction_times_us[users] - histories.times_us) / DAY_US
    bought = counted_events(vocabulary, histories)
    buyers, buy_ages = users[bought], ages[bought]
    money = np.nan_to_num(histories.amounts[bought].astype(np.float64))
    starts = _first_of_each(buyers, histories.times_us[bought])
    basket_users, basket_ages = buyers[starts], buy_ages[starts]
    features = _recency(num_users, basket_users, basket_ages)
    features |= _sums("baskets", num_users, basket_users, basket_ages)
    features |= _sums("items", num_users, buyers, buy_ages)
    features |= _sums("amount", num_users, buyers, buy_ages, money)
    features |= _steadiness("baskets", features) | _steadiness("amount", features)
    features |= _basket_amounts(num_users, buyers, starts, money)
    features |= _gaps(num_users, basket_users, basket_ages, features[RECENCY])
    features |= _variety(vocabulary, histories, bought)
    for name in vocabulary.field(EVENT_TYPE).values:
        if name not in (PURCHASE, PROBE_TYPE):
            chosen = is_event_type(vocabulary, histories, name)
            features |= _event_counts(name, num_users, users[chosen], ages[chosen])
    features["amount_per_basket"] = _ratio(features["amount_inf"], features[FREQUENCY])
    features["amount_trend"] = np.log1p(features["amount_period_0"]) - np.log1p(
        features["amount_period_1"]
    )
    return features


def feature_matrix(features: dict[str, Doubles]) -> Doubles:
    """float64[U, F]: features in order of insertion."""
    return np.stack(list(features.values()), axis=1)


def _count(num_users: int, users: Longs, weights: Doubles | None = None) -> Doubles:
    return np.bincount(users, weights=weights, minlength=num_users).astype(np.float64)


def _first_of_each(users: Longs, times_us: Longs) -> npt.NDArray[np.bool_]:
    changed = (np.diff(users) != 0) | (np.diff(times_us) != 0)
    return np.concatenate([np.ones(min(len(users), 1), dtype=np.bool_), changed])


def _recency(num_users: int, users: Longs, ages: Doubles) -> dict[str, Doubles]:
    recency, tenure = np.full((2, num_users), np.nan)
    recency[users] = ages  # ascending in time: the last assignment is the latest basket
    tenure[users[::-1]] = ages[::-1]
    return {RECENCY: recency, "tenure_days": tenure}


def _sums(
    name: str, num_users: int, users: Longs, ages: Doubles, weights: Doubles | None = None
) -> dict[str, Doubles]:
    ones = np.ones(len(users)) if weights is None else weights
    within = np.cumsum(_histogram(num_users, users, ages, WINDOWS_DAYS, ones), axis=1)
    features = {f"{name}_{days}": within[:, i] for i, days in enumerate(WINDOWS_DAYS)}
    periods = _histogram(num_users, users, ages, _PERIOD_ENDS, ones)
    features |= {f"{name}_period_{i}": periods[:, i] for i in range(NUM_PERIODS)}
    for days in HALF_LIVES_DAYS:
        features[f"{name}_half_life_{days}"] = _count(num_users, users, ones * 0.5 ** (ages / days))
    return features


def _histogram(
    num_users: int, users: Longs, ages: Doubles, ends: tuple[float, ...], weights: Doubles
) -> Doubles:
    """float64[U, len(ends)]: sums over ages in (end before, end]."""
    width = len(ends) + 1
    cells = users * width + np.searchsorted(np.asarray(ends), ages)
    return _count(num_users * width, cells, weights).reshape(num_users, width)[:, :-1]


def _ratio(part: Doubles, whole: Doubles) -> Doubles:
    return part / np.where(whole > 0, whole, np.nan)


def _steadiness(name: str, features: dict[str, Doubles]) -> dict[str, Doubles]:
    """Of sums made by `_sums`: how late they fell, and how much they vary by period."""
    periods = [features[f"{name}_period_{i}"] for i in range(NUM_USUAL_PERIODS)]
    shares = {
        f"{name}_share_{late}_of_{days}": _ratio(
            features[f"{name}_{late}"], features[f"{name}_{days}"]
        )
        for late, days in LATE_SHARES_DAYS
    }
    return shares | {f"{name}_variation": _ratio(np.std(periods, axis=0), np.mean(periods, axis=0))}


def _basket_amounts(
    num_users: int, buyers: Longs, starts: npt.NDArray[np.bool_], money: Doubles
) -> dict[str, Doubles]:
    users = buyers[starts]
    amounts = _count(len(users), np.cumsum(starts) - 1, money)
    count = _count(num_users, users)
    mean = _ratio(_count(num_users, users, amounts), count)
    square = _ratio(_count(num_users, users, amounts**2), count)
    pick = _quantiles_of(num_users, users, amounts)
    last = np.full(num_users, np.nan)
    last[users] = amounts  # ascending in time
    return {
        "basket_deviation": np.sqrt(np.maximum(square - mean**2, 0.0)),
        "basket_median": pick(0.5),
        "basket_90": pick(0.9),
        "basket_largest": pick(1.0),
        "basket_last": last,
    }


def _gaps(num_users: int, users: Longs, ages: Doubles, recency: Doubles) -> dict[str, Doubles]:
    same = users[1:] == users[:-1]
    gaps, owners = (ages[:-1] - ages[1:])[same], users[1:][same]
    count = _count(num_users, owners)
    mean = _ratio(_count(num_users, owners, gaps), count)
    square = _ratio(_count(num_users, owners, gaps**2), count)
    pick = _quantiles_of(num_users, owners, gaps)
    last = np.full(num_users, np.nan)
    last[owners] = gaps
    longer = _count(num_users, owners, (gaps > recency[owners]).astype(np.float64))
    long_gaps = _count(num_users, owners, (gaps > PERIOD_DAYS).astype(np.float64))
    floor = 0.5
    return {
        "gap_mean": mean,
        "gap_deviation": np.sqrt(np.maximum(square - mean**2, 0.0)),
        "gap_median": pick(0.5),
        "gap_90": pick(0.9),
        "gap_largest": pick(1.0),
        "gap_last": last,
        "gaps_over_period": long_gaps,
        "share_of_gaps_longer_than_recency": _ratio(longer, count),
        "recency_over_gap_mean": recency / np.maximum(mean, floor),
        "recency_over_gap_90": recency / np.maximum(pick(0.9), floor),
        "recency_over_gap_largest": recency / np.maximum(pick(1.0), floor),
    }


def _quantiles_of(num_users: int, users: Longs, values: Doubles) -> Callable[[float], Doubles]:
    ordered = values[np.lexsort((values, users))]
    counts = np.bincount(users, minlength=num_users)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)

    def pick(level: float) -> Doubles:
        result = np.full(num_users, np.nan)
        some = counts > 0
        places = starts + np.ceil(level * (counts - 1)).astype(np.int64)
        result[some] = ordered[places[some]]
        return result

    return pick


def _variety(
    vocabulary: Vocabulary, histories: Histories, bought: npt.NDArray[np.bool_]
) -> dict[str, Doubles]:
    name = vocabulary.item_field
    items = histories.tokens[name][bought].astype(np.int64)
    users = histories.user_positions[bought]
    categories = vocabulary.category_by_item_idx[items].astype(np.int64)
    return {
        f"distinct_{ITEM_ID}": _distinct(len(histories), users, items),
        "distinct_category": _distinct(len(histories), users, categories + 1),
    }


def _distinct(num_users: int, users: Longs, values: Longs) -> Doubles:
    width = int(values.max(initial=0)) + 1
    pairs = np.sort(users * width + values)
    first = np.diff(pairs, prepend=-1) != 0
    return _count(num_users, pairs[first] // width)


def _event_counts(name: str, num_users: int, users: Longs, ages: Doubles) -> dict[str, Doubles]:
    windows = (PERIOD_DAYS, 3 * PERIOD_DAYS, np.inf)
    return {f"{name}_{days}": _count(num_users, users[ages <= days]) for days in windows}
