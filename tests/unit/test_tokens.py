"""Numbers, gaps and words as small integers."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.tokens.binning import (
    FIRST_IDX,
    MISSING_IDX,
    NUM_GAP_BINS,
    NUM_WORD_SLOTS,
    PAD_IDX,
    UNKNOWN_IDX,
    ZERO_IDX,
    bin_gaps,
    bin_numbers,
    word_slots,
    words,
)

MINUTE_US = 60_000_000


def test_numbers_fall_into_their_bins() -> None:
    values = np.asarray([np.nan, np.inf, 0.0, -2.0, 0.5, 1.0, 5.0, 9.0])
    bins = bin_numbers(values, np.asarray([1.0, 5.0]))
    first = ZERO_IDX + 1
    expected = [MISSING_IDX, UNKNOWN_IDX, ZERO_IDX, first, first, first + 1, first + 2, first + 2]
    assert bins.tolist() == expected
    assert bins.dtype == np.int32


def test_numbers_without_edges_have_one_bin() -> None:
    assert bin_numbers(np.asarray([3.0, -3.0]), np.asarray([])).tolist() == [ZERO_IDX + 1] * 2


@pytest.mark.parametrize(
    ("minutes", "bin_idx"),
    [(0, 0), (0.4, 0), (0.5, 1), (1, 2), (3, 4), (7, 6), (10**9, NUM_GAP_BINS - 1)],
)
def test_gaps_are_half_octaves_of_minutes(minutes: float, bin_idx: int) -> None:
    gap = np.asarray([round(minutes * MINUTE_US)])
    assert bin_gaps(gap).tolist() == [FIRST_IDX + bin_idx]


def test_a_negative_gap_is_none() -> None:
    assert bin_gaps(np.asarray([-1])).tolist() == [MISSING_IDX]


def test_words_fold_case_and_compatibility_forms() -> None:
    assert words("\uff2d\uff29\uff2c\uff2b 2%, Häagen-Dazs 日本_茶") == [
        "milk",
        "2",
        "häagen",
        "dazs",
        "日本",
        "茶",
    ]


def test_word_slots_are_hashed_padded_and_cut() -> None:
    assert word_slots(None) == [MISSING_IDX] + [PAD_IDX] * (NUM_WORD_SLOTS - 1)
    assert word_slots("!?") == [PAD_IDX] * NUM_WORD_SLOTS
    slots = word_slots("milk Milk bread")
    assert slots[0] == slots[1] != slots[2]
    assert min(slots[:3]) >= FIRST_IDX
    assert len(word_slots("a b c d e f g h")) == NUM_WORD_SLOTS
