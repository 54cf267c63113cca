"""The largest values of many rows and of many groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Longs = npt.NDArray[np.int64]


def largest_in_groups(
    groups: npt.NDArray[np.integer],
    values: npt.NDArray[np.floating],
    ties: npt.NDArray[np.integer],
    count: int,
) -> tuple[Longs, Longs]:
    """Positions of the largest values of each group, group by group and the largest first, and the
    place of each within its group, from 0.

    Args:
        groups: int[P], of any order.
        values: float[P].
        ties: int[P]: of equal values the one with the smaller number comes first.
        count: How many of each group at most.
    """
    order = np.lexsort((ties, -values, groups))
    ordered = groups[order]
    places = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    kept = places < count
    return order[kept], places[kept]


def largest_columns(values: npt.NDArray[np.floating], count: int) -> Longs:
    """int64[U, min(count, R)]: columns of the largest values of each row, the largest first.

    Which of several equal values is taken is not said. Torch's selection, since NumPy's takes ten
    times as long on 20,000 columns, and seventy times where most of them are equal.

    Args:
        values: float[U, R].
        count: How many.
    """
    rows = torch.from_numpy(np.ascontiguousarray(values))
    found = torch.topk(rows, min(count, rows.shape[1]), dim=1)
    return np.asarray(found.indices.numpy())
