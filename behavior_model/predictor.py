"""A loaded bundle that answers: the same code for batch scoring and for serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["item", "category"]


@dataclass(frozen=True)
class Ranking:
    """Ranked lists, best first; one per user, query or item asked about.

    Args:
        ids: Outside ids.
        scores: Their scores, in the same order.
    """

    ids: list[list[str]]
    scores: list[list[float]]


class Predictor:
    pass
