"""Which targets follow and accompany one another: sparse, degree-normalised, pruned.

Legend: U users, V visits, R known targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from behavior_model.memory.purchases import Doubles, Longs

Floats = npt.NDArray[np.float32]

LAG_DECAY: Final = 0.6
NUM_LAGS: Final = 3
NUM_NEIGHBOURS: Final = 100
DEGREE_SHRINKAGE: Final = 5.0
_CHUNK_ROWS: Final = 512
_WIDER_THAN_WEIGHTS: Final = 4.0  # normalised weights stay below the sum of the lags' decays


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Weights between known targets: float32[R, R].

    `follow` counts what was bought one to three visits after (or before) the row's target, decayed
    by lag; `accompany` what was bought in the same visit. Both are divided by the root of the
    degrees of both ends, as in item-transition graphs (arXiv 2605.07125).

    Counting keeps NUM_NEIGHBOURS per row. `accompany` has no more; `follow` joins both directions,
    so that the row of a target that follows many others has more.
    """

    follow: sparse.csr_matrix
    accompany: sparse.csr_matrix

    @classmethod
    def fit(cls, visits: Longs, rows: Longs, visit_users: Longs, num_known: int) -> Neighbours:
        """Count over visits.

        Args:
            visits: int64[N], visit number of each purchase, ascending by user and time.
            rows: int64[N], position among the known targets.
            visit_users: int64[V], user of each visit.
            num_known: R.
        """
        shape = (len(visit_users), num_known)
        baskets = sparse.csr_matrix((np.ones(len(rows), np.float32), (visits, rows)), shape=shape)
        baskets.data[:] = 1.0
        degrees = np.asarray(baskets.sum(axis=0)).ravel()
        later = _later_baskets(baskets, visit_users)
        directed = _top(baskets, later, degrees)
        return cls(
            follow=(directed + directed.T.tocsr()).tocsr(),
            accompany=_top(baskets, baskets, degrees),
        )

    def scores(
        self, recent: sparse.csr_matrix, lasting: sparse.csr_matrix
    ) -> tuple[Floats, Floats]:
        """float32[U, R] each: what follows the recent and what accompanies the lasting profile."""
        return (recent @ self.follow).toarray(), (lasting @ self.accompany).toarray()


def profile(
    users: Longs, rows: Longs, weights: Doubles, shape: tuple[int, int], limit: int
) -> sparse.csr_matrix:
    """float32[U, R]: the heaviest `limit` targets of each user, weights summing to one."""
    summed = sparse.csr_matrix((weights, (users, rows)), shape=shape)
    summed.sum_duplicates()
    owner = np.repeat(np.arange(shape[0]), np.diff(summed.indptr))
    order = np.lexsort((summed.indices, -summed.data, owner))
    place = np.arange(len(order)) - np.repeat(summed.indptr[:-1], np.diff(summed.indptr))
    kept = np.sort(order[place < limit])
    data, owner = summed.data[kept], owner[kept]
    totals = np.bincount(owner, weights=data, minlength=shape[0])
    data = (data / np.maximum(totals[owner], 1e-9)).astype(np.float32)
    return sparse.csr_matrix((data, (owner, summed.indices[kept])), shape=shape)


def _later_baskets(baskets: sparse.csr_matrix, visit_users: Longs) -> sparse.csr_matrix:
    """float32[V, R]: decayed sum of the next visits of the same user."""
    num_visits = baskets.shape[0]
    shifts = []
    for lag in range(1, NUM_LAGS + 1):
        rows = np.arange(max(num_visits - lag, 0))
        rows = rows[visit_users[rows] == visit_users[rows + lag]]
        weights = np.full(len(rows), LAG_DECAY ** (lag - 1), dtype=np.float32)
        shape = (num_visits, num_visits)
        shifts.append(sparse.csr_matrix((weights, (rows, rows + lag)), shape=shape))
    return (sum(shifts[1:], shifts[0]) @ baskets).tocsr()


def _top(left: sparse.csr_matrix, right: sparse.csr_matrix, degrees: Doubles) -> sparse.csr_matrix:
    """Normalised `left.T @ right` without its diagonal, the best of each row."""
    if left.shape[1] == 0:  # nothing is known yet
        return sparse.csr_matrix((0, 0), dtype=np.float32)
    scale = sparse.diags(1.0 / np.sqrt(degrees + DEGREE_SHRINKAGE)).astype(np.float32)
    columns = (right @ scale).tocsr()
    transposed = (scale @ left.T.tocsr()).tocsr()
    blocks = []
    for start in range(0, transposed.shape[0], _CHUNK_ROWS):
        blocks.append(_prune((transposed[start : start + _CHUNK_ROWS] @ columns).tocsr(), start))
    return sparse.vstack(blocks, format="csr")


def _prune(block: sparse.csr_matrix, first_row: int) -> sparse.csr_matrix:
    lengths = np.diff(block.indptr)
    owner = np.repeat(np.arange(block.shape[0]), lengths)
    data = np.where(block.indices == owner + first_row, 0.0, block.data).astype(np.float64)
    order = np.argsort(owner * _WIDER_THAN_WEIGHTS - data, kind="stable")
    place = np.arange(len(order)) - np.repeat(block.indptr[:-1], lengths)
    kept = order[(place < NUM_NEIGHBOURS) & (data[order] > 0)]
    return sparse.csr_matrix(
        (data[kept].astype(np.float32), (owner[kept], block.indices[kept])), shape=block.shape
    )
