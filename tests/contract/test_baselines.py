"""What every ranking baseline promises."""

from __future__ import annotations

import numpy as np
import pytest

from behavior_model.baselines.registry import RANKING_BASELINES
from behavior_model.context import ModelContext
from behavior_model.memory.purchases import Level, Longs
from behavior_model.metrics import ndcg_at_k
from pipelines.tokens.binning import FIRST_IDX
from pipelines.workspace import Workspace
from tests.ranking_shop import ranking_context
from tests.rhythm_shop import NUM_ITEMS

K = 5


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ModelContext:
    return ranking_context(Workspace(tmp_path_factory.mktemp("baselines")))


class _NoFuture(ModelContext):
    """A context whose test window cannot be looked at."""

    @property
    def test_futures(self) -> None:  # type: ignore[override]
        raise AssertionError("a baseline looked into the test window")


def blind(context: ModelContext) -> ModelContext:
    return _NoFuture(
        workspace=context.workspace,
        vocabulary=context.vocabulary,
        as_of_us=context.as_of_us,
        window_us=context.window_us,
    )


def ndcg(context: ModelContext, level: Level, lists: Longs) -> float:
    return float(np.nanmean(ndcg_at_k(lists, level.truths_of(context.test_futures), K)))


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("name", sorted(RANKING_BASELINES))
class TestEveryBaseline:
    def test_ranks_every_user_with_distinct_targets(
        self, context: ModelContext, name: str, level: Level
    ) -> None:
        lists = RANKING_BASELINES[name](blind(context), level, K)
        assert lists.shape == (len(context.histories(context.test_time)), K)
        for row in lists:
            some = row[row >= 0]
            assert len(set(some.tolist())) == len(some)
            assert level is Level.CATEGORY or (some >= FIRST_IDX).all()
            assert (some < level.num_targets(context.vocabulary)).all()
            assert (row[len(some) :] == -1).all()

    def test_gives_the_same_answer_twice(
        self, context: ModelContext, name: str, level: Level
    ) -> None:
        first = RANKING_BASELINES[name](context, level, K, seed=3)
        np.testing.assert_array_equal(first, RANKING_BASELINES[name](context, level, K, seed=3))


@pytest.mark.parametrize("name", sorted(RANKING_BASELINES))
def test_beats_a_random_order(context: ModelContext, name: str) -> None:
    lists = RANKING_BASELINES[name](context, Level.ITEM, K)
    rng = np.random.default_rng(0)
    drawn = FIRST_IDX + np.stack([rng.permutation(NUM_ITEMS)[:K] for _ in range(len(lists))])
    assert ndcg(context, Level.ITEM, lists) > ndcg(context, Level.ITEM, drawn)


def test_where_people_repeat_themselves_counting_beats_popularity(context: ModelContext) -> None:
    figures = {
        name: ndcg(context, Level.ITEM, rank(context, Level.ITEM, K))
        for name, rank in RANKING_BASELINES.items()
    }
    assert figures["own_frequency"] > figures["popularity"] + 0.2
    assert figures["boosted_ranker"] > figures["popularity"] + 0.2
