"""How numbers, times and words become small integers. Pure numpy, no fitted state."""

from __future__ import annotations

import re
import unicodedata
import zlib
from typing import Final

import numpy as np
import numpy.typing as npt

PAD_IDX: Final = 0
MISSING_IDX: Final = 1
UNKNOWN_IDX: Final = 2
FIRST_IDX: Final = 3
"""First ordinary index of every field; below it stand padding, missing and unknown."""

PROBE_IDX: Final = FIRST_IDX
"""Event type of a *probe*: the position that stands for 'now' at a prediction time."""

ZERO_IDX: Final = FIRST_IDX
"""Numbers only: the bin of exact zeros, before the quantile bins."""

GAP_BINS_PER_OCTAVE: Final = 2
NUM_GAP_BINS: Final = 42
"""Half octaves of minutes: the last bin begins after about 18 months."""

SESSION_GAP_US: Final = 30 * 60 * 1_000_000
HOUR_US: Final = 3_600 * 1_000_000
DAY_US: Final = 24 * HOUR_US

NUM_WORD_BUCKETS: Final = 4_096
NUM_WORD_SLOTS: Final = 6
_WORD: Final = re.compile(r"[^\W_]+")

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


def bin_numbers(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> Ints:
    """Quantile bins with a zero bin. NaN is missing; infinities are unknown.

    Args:
        values: float64[N], NaN where the number is missing.
        edges: float64[E], ascending inner edges fitted on non-zero training values.

    Returns:
        int32[N] in [MISSING_IDX, ZERO_IDX + 1 + E].
    """
    bins: Ints = np.searchsorted(edges, values, side="right").astype(np.int32) + (ZERO_IDX + 1)
    bins[values == 0.0] = ZERO_IDX
    bins[np.isinf(values)] = UNKNOWN_IDX
    bins[np.isnan(values)] = MISSING_IDX
    return bins


def bin_gaps(gaps_us: Longs) -> Ints:
    """Half-octave bins of the time since the previous event; a negative gap means there is none.

    Args:
        gaps_us: int64[N], microseconds.
    """
    minutes = np.maximum(gaps_us, 0) / 60e6
    octaves = np.floor(GAP_BINS_PER_OCTAVE * np.log2(1.0 + minutes)).astype(np.int32)
    bins: Ints = np.minimum(octaves, NUM_GAP_BINS - 1) + FIRST_IDX
    bins[gaps_us < 0] = MISSING_IDX
    return bins


def words(text: str) -> list[str]:
    """Lower-cased words of a text in any script, compatibility forms folded (Unicode NFKC)."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def word_slots(text: str | None) -> list[int]:
    """Hashed words of a text in NUM_WORD_SLOTS slots; the rest is padding."""
    if text is None:
        return [MISSING_IDX] + [PAD_IDX] * (NUM_WORD_SLOTS - 1)
    hashed = [
        FIRST_IDX + zlib.crc32(word.encode()) % NUM_WORD_BUCKETS
        for word in words(text)[:NUM_WORD_SLOTS]
    ]
    return hashed + [PAD_IDX] * (NUM_WORD_SLOTS - len(hashed))
