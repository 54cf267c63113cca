"""A seeded draw of users, where all of them would be more than is needed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]


def drawn_users(users: Longs, limit: int, *, seed: int) -> Longs:
    """int64[at most limit]: all users, or so many of them at random, in their order.

    Args:
        users: int64[U], each once.
        limit: Users at most.
        seed: Seed of the draw.
    """
    if len(users) <= limit:
        return users
    chosen = np.random.default_rng(seed).choice(len(users), limit, replace=False)
    return users[np.sort(chosen)]
