"""From a head's raw score to an answer with an interval.

A calibration is a table of knots with linear interpolation between them, so it is monotone, tiny,
and the same for a user alone or in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

from behavior_model.user_draw import drawn_users

Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

NUM_KNOTS: Final = 41
"""Quantiles of the scores."""
NUM_EVEN_KNOTS: Final = 21
"""Steps of the scores' range: where few rows have been, many may be who are asked about."""
NUM_RESAMPLES: Final = 100
COVERAGE_PERCENT: Final = 95.0
OUTCOME_COVERAGE_PERCENT: Final = 90.0
MIN_BIN: Final = 40
MIN_BINS: Final = 2
"""One bin would have one answer for everybody."""
MAX_ROWS: Final = 250_000
"""Rows that a rate is calibrated on: 5,000 users who are each asked 50 things."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Monotone map from raw score to answer and interval; raw scores outside are clipped.

    Args:
        knots: float64[K], ascending raw scores.
        scores: float64[K], the answer at each knot.
        lowers: float64[K], lower end of the interval.
        uppers: float64[K], upper end.
    """

    knots: Doubles
    scores: Doubles
    lowers: Doubles
    uppers: Doubles

    def apply(self, raw: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """Answers, lower and upper ends, float64[U] each; lower <= answer <= upper.

        Args:
            raw: float64[U], raw scores.
        """
        score, lower, upper = (
            np.interp(raw, self.knots, values) for values in (self.scores, self.lowers, self.uppers)
        )
        return score, lower, upper

    def to_tensors(self) -> dict[str, Doubles]:
        """Named arrays for a safetensors file."""
        return {f"calibration.{name}": getattr(self, name) for name in _NAMES}

    @classmethod
    def from_tensors(cls, tensors: dict[str, npt.NDArray[np.generic]]) -> Calibration:
        """What `to_tensors` gave."""
        return cls(**{n: tensors[f"calibration.{n}"].astype(np.float64) for n in _NAMES})


_NAMES: Final = ("knots", "scores", "lowers", "uppers")


def calibrate_rate(
    raw: Doubles, labels: Doubles, users: Longs, times: Longs, *, seed: int
) -> Calibration:
    """Calibrated probability with an interval for the rate among users of equal score.

    Isotonic regression (Zadrozny and Elkan, 2002), averaged over bootstrap draws of users and of
    prediction times (Owen, 2007, for both factors at once); never 0 or 1, however pure a bin. The
    interval holds 95 per cent of the draws, widened to the Venn-Abers pair (Vovk and Petej, 2014):
    with what confidence the *share* of users who show the outcome at this score is known, users and
    months being drawn again. It does not say whether one user will show it, and it does not cover a
    change of behaviour larger than those between the prediction times seen.

    Where there are more than `MAX_ROWS` rows it is fitted on a sample of users with all of their
    rows; the interval is then that of the sample, wider than all users would make it.

    Args:
        raw: float64[N], out-of-sample raw scores.
        labels: float64[N] in {0, 1}.
        users: int64[N], the user of each row.
        times: int64[N], the prediction time of each row, as a position from 0.
        seed: Seed of the sample and of the draws.
    """
    if len(raw) > MAX_ROWS:
        chosen = _sample(users, seed)
        raw, labels, users, times = raw[chosen], labels[chosen], users[chosen], times[chosen]
    knots = _knots(raw)
    draws = np.stack(
        [_isotonic(raw, labels, weights, knots) for weights in _weights(users, times, seed)]
    )
    tail = (100.0 - COVERAGE_PERCENT) / 2
    low, high = np.percentile(draws, [tail, 100.0 - tail], axis=0)
    zeros, ones = _venn_abers(raw, labels, knots)
    merged = ones / (1.0 - zeros + ones)
    scores = np.clip(draws.mean(axis=0), merged.min(), merged.max())
    return Calibration(
        knots=knots,
        scores=scores,
        lowers=np.minimum.reduce([low, zeros, scores]),
        uppers=np.maximum.reduce([high, ones, scores]),
    )


def calibrate_outcome(raw: Doubles, values: Doubles) -> Calibration:
    """Expected value with an interval that holds 90 per cent of the outcomes themselves.

    Split conformal prediction within bins of equal score (Vovk, 2012: Mondrian): each bin's
    quantiles of out-of-sample outcomes, at the level corrected for the size of the bin. The ends
    may fall where the score rises: outcomes of high scores may lie further apart.

    Args:
        raw: float64[N], out-of-sample raw scores.
        values: float64[N], outcomes.
    """
    bins = _bins(raw, int(np.clip(len(raw) // MIN_BIN, MIN_BINS, NUM_KNOTS)))
    tail = (100.0 - OUTCOME_COVERAGE_PERCENT) / 200
    level = [min(1.0, (1 - tail) * (1 + 1 / len(rows))) for rows in bins]
    means = np.asarray([values[rows].mean() for rows in bins])
    low = [np.quantile(values[rows], 1 - one) for rows, one in zip(bins, level, strict=True)]
    high = [np.quantile(values[rows], one) for rows, one in zip(bins, level, strict=True)]
    knots = np.asarray([raw[rows].mean() for rows in bins])
    sizes = np.asarray([len(rows) for rows in bins], dtype=np.float64)
    scores = IsotonicRegression().fit_transform(knots, means, sample_weight=sizes)
    return Calibration(
        knots=knots,
        scores=scores,
        lowers=np.minimum(low, scores),
        uppers=np.maximum(high, scores),
    )


def _bins(raw: Doubles, num_bins: int) -> list[Longs]:
    """Positions of rows by ascending score, about as many in each bin; equal scores share one."""
    order = np.argsort(raw, kind="stable")
    ascending, least = raw[order], max(len(raw) // num_bins, 1)
    edges = [0]
    while (left := len(raw) - edges[-1]) >= least:
        size = -(-left // (left // least))
        last = ascending[edges[-1] + size - 1]
        edges.append(int(np.searchsorted(ascending, last, side="right")))
    edges[-1] = len(raw)  # what is left behind equal scores is too little for a bin of its own
    return [order[begin:end] for begin, end in pairwise(edges)]


def _knots(raw: Doubles) -> Doubles:
    by_rows = np.quantile(raw, np.linspace(0.0, 1.0, NUM_KNOTS))
    evenly = np.linspace(raw.min(), raw.max(), NUM_EVEN_KNOTS)
    return np.unique(np.concatenate([by_rows, evenly]))


def _isotonic(raw: Doubles, labels: Doubles, weights: Doubles, knots: Doubles) -> Doubles:
    used = weights > 0
    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    model.fit(raw[used], labels[used], sample_weight=weights[used])
    return np.asarray(model.predict(knots), dtype=np.float64)


def _sample(users: Longs, seed: int) -> npt.NDArray[np.bool_]:
    """bool[N]: the rows of so many users that there are about `MAX_ROWS`."""
    everybody = np.unique(users)
    limit = max(MAX_ROWS * len(everybody) // len(users), 1)
    return np.isin(users, drawn_users(everybody, limit, seed=seed))


def _weights(users: Longs, times: Longs, seed: int) -> Iterator[Doubles]:
    """How often each row is drawn; a draw that meets no row is made again."""
    generator = np.random.default_rng(seed)
    _, user_of = np.unique(users, return_inverse=True)
    _, time_of = np.unique(times, return_inverse=True)
    num_users, num_times = int(user_of.max()) + 1, int(time_of.max()) + 1
    num_given = 0
    while num_given < NUM_RESAMPLES:
        by_user = np.bincount(generator.integers(0, num_users, num_users), minlength=num_users)
        by_time = np.bincount(generator.integers(0, num_times, num_times), minlength=num_times)
        weights = (by_user[user_of] * by_time[time_of]).astype(np.float64)
        if weights.any():
            num_given += 1
            yield weights


def _venn_abers(raw: Doubles, labels: Doubles, knots: Doubles) -> tuple[Doubles, Doubles]:
    pair = []
    for label in (0.0, 1.0):
        added = np.append(labels, label)
        ones = np.ones(len(added))
        fits = [_isotonic(np.append(raw, k), added, ones, np.asarray([k])) for k in knots]
        pair.append(np.concatenate(fits))
    return pair[0], pair[1]
