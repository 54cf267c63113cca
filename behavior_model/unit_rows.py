"""Rows of a matrix at length 1."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SHORTEST: Final = 1e-6
"""Rows that are shorter stay as good as 0."""


def unit_rows(rows: Floats) -> Floats:
    """float32 of the same shape: each row divided by its length."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, SHORTEST), dtype=np.float32)
