"""Metrics: ranking metrics per user with binary gains, user-task metrics by scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

Doubles = npt.NDArray[np.float64]
Interval = tuple[float, float]

NUM_RESAMPLES: Final = 1_000
NUM_CALIBRATION_BINS: Final = 10


def hits_at_k(
    ranked: npt.NDArray[np.integer], truths: Sequence[npt.NDArray[np.integer]], k: int
) -> npt.NDArray[np.bool_]:
    """bool[U, k]: whether the item at each rank is true.

    Args:
        ranked: int[U, >= k], best first; -1 fills lists that are too short.
        truths: The true items of each user; -1 fills those of users without one.
        k: Length of the list that is judged.

    Raises:
        ValueError: lists and users differ in number.
    """
    top = ranked[:, :k]
    if top.shape[1] < k:
        top = np.pad(top, ((0, 0), (0, k - top.shape[1])), constant_values=-1)
    if len(truths) != len(top):
        raise ValueError(f"{len(top)} lists and {len(truths)} users with true items came")
    true_items = np.concatenate([np.zeros(0, np.int64), *truths]).astype(np.int64)
    owners = np.repeat(np.arange(len(top)), [len(truth) for truth in truths])
    span = max(int(top.max(initial=0)), int(true_items.max(initial=0))) + 1
    keys = np.arange(len(top))[:, None] * span + top
    true_keys = (owners * span + true_items)[true_items >= 0]
    return np.asarray(np.isin(keys, true_keys) & (top >= 0), dtype=np.bool_)


def ndcg_at_k(
    ranked: npt.NDArray[np.integer], truths: Sequence[npt.NDArray[np.integer]], k: int
) -> Doubles:
    """float64[U]: NDCG with binary gains, log2 discount and the ideal over min(k, |truth|).

    Jarvelin and Kekalainen, 2002. NaN for users without truth.
    """
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideals = np.concatenate([[np.nan], np.cumsum(discounts)])
    sizes = np.minimum(_num_true(truths), k)
    gains = hits_at_k(ranked, truths, k) @ discounts
    return np.asarray(gains / ideals[sizes], dtype=np.float64)


def recall_at_k(
    ranked: npt.NDArray[np.integer], truths: Sequence[npt.NDArray[np.integer]], k: int
) -> Doubles:
    """float64[U]: share of a user's true items within the first k. NaN without truth."""
    sizes = _num_true(truths).astype(np.float64)
    sizes[sizes == 0] = np.nan
    return np.asarray(hits_at_k(ranked, truths, k).sum(axis=1) / sizes, dtype=np.float64)


def _num_true(truths: Sequence[npt.NDArray[np.integer]]) -> npt.NDArray[np.int64]:
    """int64[U]: true items of each user."""
    return np.asarray([np.count_nonzero(truth >= 0) for truth in truths], dtype=np.int64)


def auc(labels: Doubles, scores: Doubles) -> float:
    """Area under the ROC curve; NaN when only one class is present."""
    if len(np.unique(labels)) < 2:
        return float("nan")
    return float(roc_auc_score(labels, scores))


def macro_auc(labels: npt.NDArray[np.bool_], scores: Doubles) -> float:
    """Mean area under the ROC curve over the columns that hold both classes, ties counted half.

    Args:
        labels: bool[U, T].
        scores: float64[U, T], compared within a column alone.
    """
    positives = labels.sum(axis=0).astype(np.float64)
    negatives = len(labels) - positives
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan")
    ranks = np.where(labels, rankdata(scores, axis=0), 0.0).sum(axis=0)
    wins = ranks - positives * (positives + 1) / 2  # Mann and Whitney, 1947
    return float(np.mean(wins[both] / (positives * negatives)[both]))


def average_precision(labels: Doubles, scores: Doubles) -> float:
    """Area under the precision-recall curve (step-wise)."""
    return float(average_precision_score(labels, scores))


def expected_calibration_error(labels: Doubles, probabilities: Doubles) -> float:
    """Mean gap between predicted and observed rate over equally filled bins (Naeini et al., 2015).

    Users of equal probability count with their mean rate, in whichever bins they fall.

    Args:
        labels: float64[U] in {0, 1}.
        probabilities: float64[U] in [0, 1].
    """
    _, group = np.unique(probabilities, return_inverse=True)
    labels = (np.bincount(group, labels) / np.bincount(group))[group]
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, NUM_CALIBRATION_BINS)
    gaps = [abs(labels[b].mean() - probabilities[b].mean()) * len(b) for b in bins if len(b)]
    return float(np.sum(gaps) / len(labels))


def bootstrap_intervals(
    num_users: int,
    statistics: Callable[[npt.NDArray[np.int64]], Sequence[float]],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    max_drawn: int | None = None,
    is_error: bool = False,
) -> list[Interval]:
    """95 per cent percentile intervals of statistics over users drawn with replacement.

    An error that is a sum of sizes, such as ECE, is larger in every resample than over the users
    that it is drawn from. Its interval is moved down by that bias (Efron and Tibshirani, 1993,
    chapter 10).

    Args:
        num_users: U.
        statistics: Takes int64[U] positions of drawn users, gives the values.
        seed: Seed of the draws.
        num_resamples: Number of draws.
        max_drawn: Users of a draw at most, where the statistics take long; None: as many as there
            are. Draws of fewer users make intervals wider, as if there were no more users.
        is_error: Whether the statistics are such errors, or differences of them.
    """
    generator = np.random.default_rng(seed)
    size = num_users if max_drawn is None else min(num_users, max_drawn)
    draws = [statistics(generator.integers(0, num_users, size)) for _ in range(num_resamples)]
    drawn = np.asarray(draws, dtype=np.float64)
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    bias = np.nanmean(drawn, axis=0) - statistics(np.arange(num_users)) if is_error else 0.0
    return [(float(a), float(b)) for a, b in zip(low - bias, high - bias, strict=True)]


def bootstrap_interval(
    num_users: int,
    statistic: Callable[[npt.NDArray[np.int64]], float],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Interval:
    """The same for one statistic."""
    (interval,) = bootstrap_intervals(
        num_users, lambda drawn: [statistic(drawn)], seed=seed, num_resamples=num_resamples
    )
    return interval


def mean_with_interval(per_user: Doubles, *, seed: int = 0) -> tuple[float, Interval]:
    """Mean over users with a value, and its bootstrap interval."""
    values = per_user[~np.isnan(per_user)]
    interval = bootstrap_interval(len(values), lambda drawn: float(values[drawn].mean()), seed=seed)
    return float(values.mean()), interval
