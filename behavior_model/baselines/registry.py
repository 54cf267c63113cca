"""Ranking baselines by name. A new one is one file with a `RankingBaseline` and one line here."""

from __future__ import annotations

from typing import Final, Protocol

from behavior_model.baselines import als, boosted_ranker, item_knn, own_frequency, popularity
from behavior_model.context import ModelContext
from behavior_model.memory.purchases import Level, Longs


class RankingBaseline(Protocol):
    """Ranks targets for all users at the test cut, having looked at nothing after it."""

    def __call__(self, context: ModelContext, level: Level, k: int, *, seed: int = 0) -> Longs:
        """int64[U, k]: targets of the users of `context.histories(context.test_time)`, best first.

        Distinct within a user; -1 fills lists that are too short.
        """


RANKING_BASELINES: Final[dict[str, RankingBaseline]] = {
    "popularity": popularity.rank,
    "own_frequency": own_frequency.rank,
    "own_frequency_decayed": own_frequency.rank_decayed,
    "own_events_decayed": own_frequency.rank_events,
    "item_knn": item_knn.rank,
    "als": als.rank,
    "boosted_ranker": boosted_ranker.rank,
}
