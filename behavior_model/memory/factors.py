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
    """float32[R, F]: target factors by implicit ALS (Hu, Koren and Volinsky, 2008); F is 1 where
    nothing is known yet.

    Args:
        tastes: float32[U, R], non-negative strength of each user's interest.
        num_factors: F.
        confidence: Weight of one unit of strength above that of not buying, which is 1.
        regularisation: Ridge penalty.
        seed: Seed of the initial factors.
    """
    from implicit.cpu.als import AlternatingLeastSquares

    num_factors = max(min(num_factors, min(tastes.shape) - 1), 1)
    if min(tastes.shape) == 0:
        return np.zeros((tastes.shape[1], num_factors), dtype=np.float32)
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
    """float32[U, F]: the exact least-squares factors of users, each from its own row alone.

    Where a user has n < F targets, Woodbury's identity makes of the system of F equations one of n.
    """
    wide = factors.astype(np.float64)
    base = wide.T @ wide + regularisation * np.eye(wide.shape[1])
    inverse = np.linalg.inv(base)
    pulled = wide @ inverse
    users = np.zeros((tastes.shape[0], wide.shape[1]), dtype=np.float32)
    for user in np.flatnonzero(np.diff(tastes.indptr)):
        span = slice(tastes.indptr[user], tastes.indptr[user + 1])
        targets = tastes.indices[span]
        rows, extra = wide[targets], confidence * tastes.data[span].astype(np.float64)
        if len(targets) < wide.shape[1]:
            shared = pulled[targets] @ rows.T
            system = np.eye(len(targets)) + shared * extra
            strengths = extra * np.linalg.solve(system, shared @ (1.0 + extra))
            users[user] = (1.0 + extra - strengths) @ pulled[targets]
        else:
            users[user] = np.linalg.solve(base + (rows.T * extra) @ rows, (1.0 + extra) @ rows)
    return users
