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
    """int64[U, min(count, R)]: columns of the largest values of each row, the largest first; of
    equal values the first column comes first, however many are asked for.

    Torch finds the smallest of them, since NumPy takes ten times as long on 20,000 columns, and
    seventy times where most of them are equal.

    Args:
        values: float[U, R], no NaN.
        count: How many.
    """
    count = min(count, values.shape[1])
    if count == 0 or len(values) == 0:
        return np.zeros((len(values), count), dtype=np.int64)
    rows = torch.from_numpy(np.ascontiguousarray(values))
    least = torch.topk(rows, count, dim=1).values[:, -1:].numpy()
    chosen = values >= least
    tied = np.flatnonzero(np.count_nonzero(chosen, axis=1) > count)
    if len(tied):
        above, equal = values[tied] > least[tied], values[tied] == least[tied]
        wanted = count - np.count_nonzero(above, axis=1)
        chosen[tied] = above | (equal & (np.cumsum(equal, axis=1) <= wanted[:, None]))
    columns = np.nonzero(chosen)[1].reshape(len(values), count)
    found = np.take_along_axis(values, columns, axis=1)
    return np.take_along_axis(columns, np.argsort(-found, axis=1, kind="stable"), axis=1)
