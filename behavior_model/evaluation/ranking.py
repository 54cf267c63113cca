"""Products and categories of the window ahead, judged beside every baseline at the test cut."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.baselines.registry import RANKING_BASELINES, RankingBaseline
from behavior_model.context import ModelContext
from behavior_model.evaluation import likeness
from behavior_model.evaluation.comparison import compare_means
from behavior_model.evaluation.measurement import Measurement
from behavior_model.evaluation.results import Result
from behavior_model.heads.pair_features import FeatureTable
from behavior_model.heads.recommendation import (
    RankedTargets,
    RecommendationHead,
    top_k,
)
from behavior_model.memory.purchases import Level, Longs
from behavior_model.metrics import ndcg_at_k, recall_at_k

Doubles = npt.NDArray[np.float64]

K: Final = 10
TASKS: Final = {Level.ITEM: "recommendation", Level.CATEGORY: "category_recommendation"}
_METRICS: Final = {f"ndcg@{K}": ndcg_at_k, f"recall@{K}": recall_at_k}


def items(context: ModelContext, folder: Path, *, seed: int) -> list[Result]:
    """Fit, save and judge the ranking of products, and likeness by the same memory."""
    begun = time.perf_counter()
    head = _fitted(context, folder, Level.ITEM, seed)
    ranked = evaluate(context, head, seed=seed, begun=begun)
    return [*ranked, *likeness.judge(context, head, seed=seed)]


def categories(context: ModelContext, folder: Path, *, seed: int) -> list[Result]:
    """Fit, save and judge the ranking of categories."""
    return fit_and_judge(context, folder, Level.CATEGORY, seed=seed)


def fit_and_judge(context: ModelContext, folder: Path, level: Level, *, seed: int) -> list[Result]:
    """Fit a head, save it and judge what was saved.

    Args:
        context: The company's model at one test cut.
        folder: Where the head is saved.
        level: What is ranked.
        seed: Seed of everything random.
    """
    begun = time.perf_counter()
    head = _fitted(context, folder, level, seed)
    return evaluate(context, head, seed=seed, begun=begun)


def _fitted(context: ModelContext, folder: Path, level: Level, seed: int) -> RecommendationHead:
    """The head as it was saved."""
    RecommendationHead.fit(context, level, seed=seed).save(folder)
    return RecommendationHead.load(folder, context.vocabulary)


def evaluate(
    context: ModelContext,
    head: RecommendationHead,
    *,
    seed: int = 0,
    begun: float | None = None,
    baselines: Mapping[str, RankingBaseline] = RANKING_BASELINES,
) -> list[Result]:
    """NDCG and recall at 10 over the users who buy in the test window.

    Args:
        context: The company's model at one test cut.
        head: Fitted for that cut.
        seed: Seed of baselines and of the bootstrap.
        begun: `time.perf_counter()` at the start of fitting; the seconds of the results are
            those until the head has answered, without its baselines.
        baselines: Ranked beside the head.
    """
    begun = time.perf_counter() if begun is None else begun
    histories = context.histories(context.test_time)
    states = context.states(context.test_time) if head.reads_transformer else None
    purchases, table = head.candidates(histories, states, context.test_time)
    ranking = head.rank_candidates(purchases, table, K)
    measured = Measurement(
        context=context,
        task=TASKS[head.level],
        seed=seed,
        num_items=head.num_rankable,
        seconds=time.perf_counter() - begun,
    )
    judged = _Judged(
        lists={
            "model": ranking.padded(K),
            **{f"part:{name}": lists for name, lists in _parts(head, table, ranking).items()},
            **{name: rank(context, head.level, K, seed=seed) for name, rank in baselines.items()},
        },
        truths=head.level.truths_of(context.test_futures),
    )
    if not any(len(truth) for truth in judged.truths):
        return []  # nobody bought anything in the window that can be ranked
    members = _members(head, table, ranking)
    return [_result(measured, judged, members, metric) for metric in _METRICS]


@dataclass(frozen=True, eq=False)
class _Judged:
    lists: dict[str, Longs]
    truths: list[Longs]

    def mean(self, metric: str, name: str) -> float:
        return float(np.nanmean(self.per_user(metric, self.lists[name])))

    def per_user(self, metric: str, lists: Longs) -> Doubles:
        return _METRICS[metric](lists, self.truths, K)


def _result(measured: Measurement, judged: _Judged, members: list[Longs], metric: str) -> Result:
    values = judged.per_user(metric, judged.lists["model"])
    parts = [name for name in judged.lists if name.startswith("part:")]
    names = [name for name in judged.lists if name != "model" and name not in parts]
    single = [float(np.nanmean(judged.per_user(metric, lists))) for lists in members]
    baselines = {name: judged.per_user(metric, judged.lists[name]) for name in names}
    return measured.result(
        metric,
        "test",
        compare_means(metric, values, baselines, seed=measured.seed),
        parts={name.removeprefix("part:"): judged.mean(metric, name) for name in parts},
        spread={"model": float(np.std(single, ddof=1))} if len(single) > 1 else {},
        num_users=int((~np.isnan(values)).sum()),
    )


def _parts(
    head: RecommendationHead, table: FeatureTable, ranking: RankedTargets
) -> dict[str, Longs]:
    """Each memory alone, the transformer alone and the plain linear mixture of all."""
    return {
        name: top_k(table, mixture.score(table), K, ranking.fallbacks).padded(K)
        for name, mixture in head.alone.items()
    }


def _members(head: RecommendationHead, table: FeatureTable, ranking: RankedTargets) -> list[Longs]:
    """Lists of the mixture with each of its trees' seeds alone."""
    return [
        top_k(table, mixture.score(table), K, ranking.fallbacks).padded(K)
        for mixture in head.mixture.by_member()
    ]
