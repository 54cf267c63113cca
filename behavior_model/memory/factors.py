"""Taste in few dimensions: implicit ALS whose users are folded in from their own history.

Legend: U users, R known targets, F factors.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from threadpoolctl import threadpool_limits

Floats = npt.NDArray[np.float32]

NUM_FACTORS: Final = 64
NUM_ITERATIONS: Final = 6
CONFIDENCE: Final = 0.5
REGULARISATION: Final = 10.0


def fit_factors(
    tastes: sparse.csr_matrix,
    *,
    num_factors: int = NUM_FACTORS,
    confidence: float = CONFIDENCE,
    regularisation: float = REGULARISATION,
    seed: int = 0,
) -> Floats:
    """float32[R, F]: target factors by implicit ALS (Hu, Koren and Volinsky, 2008).

    Args:
        tastes: float32[U, R], non-negative strength of each user's interest.
        num_factors: F.
        confidence: Weight of one unit of strength above that of not buying, which is 1.
        regularisation: Ridge penalty.
        seed: Seed of the initial factors.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    num_factors = max(min(num_factors, min(tastes.shape) - 1), 1)
    weights = sparse.csr_matrix(tastes, dtype=np.float32, copy=True)
    weights.data = 1.0 + confidence * weights.data
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=num_factors,
            alpha=1.0,
            regularization=regularisation,
            iterations=NUM_ITERATIONS,
            random_state=seed,
            num_threads=1,
        )
        model.fit(weights, show_progress=False)
    return np.asarray(model.item_factors, dtype=np.float32)


def fold_in(
    tastes: sparse.csr_matrix,
    factors: Floats,
    *,
    confidence: float = CONFIDENCE,
    regularisation: float = REGULARISATION,
) -> Floats:
    """float32[U, F]: the exact least-squares factors of users, each from its own row alone."""
    wide = factors.astype(np.float64)
    base = wide.T @ wide + regularisation * np.eye(factors.shape[1])
    users = np.zeros((tastes.shape[0], factors.shape[1]))
    for user in range(tastes.shape[0]):
        span = slice(tastes.indptr[user], tastes.indptr[user + 1])
        rows = wide[tastes.indices[span]]
        if len(rows) == 0:
            continue
        extra = confidence * tastes.data[span].astype(np.float64)
        users[user] = np.linalg.solve(base + (rows.T * extra) @ rows, (1.0 + extra) @ rows)
    return users.astype(np.float32)
