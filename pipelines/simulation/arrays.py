"""Types of the simulation's arrays, and where its random numbers come from."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DAY_US: Final = 86_400_000_000


class Stream(IntEnum):
    """Independent sources of random numbers; a part of the shop draws from its own alone."""

    PRODUCTS = 0
    PROMOTIONS = 1
    ERRORS = 2
    QUERIES = 3
    STAFF = 4
    CUSTOMERS = 5
    VISITS = 6
    DIRT = 7
    PROFILES = 8


def generator(seed: int, stream: Stream, block: int = 0) -> np.random.Generator:
    """Random numbers that depend on these three alone, not on what was drawn before."""
    return np.random.default_rng([seed, stream, block])


def draw_segments(rng: np.random.Generator, cdf: Floats, segments: Ints) -> Ints:
    """One position of `cdf` for each entry of `segments`.

    Args:
        rng: Random numbers.
        cdf: Concatenated distributions; that of segment s rises to s + 1 (`segment_cdf`).
        segments: Which distribution to draw from.
    """
    below_one = 1.0 - 1e-9
    return np.searchsorted(cdf, segments + rng.random(len(segments)) * below_one, side="right")


def segment_cdf(weights: Floats, segments: Ints) -> Floats:
    """Cumulative distribution of each segment, shifted by its number.

    Args:
        weights: Positive weights, grouped by segment.
        segments: Segment of each weight: 0, 1, 2, ... in order, none left out.
    """
    totals = np.bincount(segments, weights=weights)
    shares = np.cumsum(weights / totals[segments])
    last = np.flatnonzero(np.diff(segments, append=segments[-1] + 1))
    shares[last] = segments[last] + 1.0
    return shares
