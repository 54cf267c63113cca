"""Fitting the recommendation head: which windows teach what.

Trees learn from the memories at prediction times whose windows ended before the validation window.
They never see the transformer's scores there, since the backbone was trained on those windows and
would look better than it is. The weights that mix trees and transformer, and whether trees or a
plain linear mixture is kept, come from the validation window, which neither has seen. Then the
trees are fitted once more with that window included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from behavior_model.context import ModelContext
from behavior_model.embedding import item_embeddings
from behavior_model.heads.mixture import MEMORY_FEATURES, TRANSFORMER, TREES, Mixture
from behavior_model.heads.pair_features import FeatureTable, Memories, pair_features
from behavior_model.heads.ranking_trees import RankingTrees, seeds_of
from behavior_model.heads.recommendation import (
    K,
    RecommendationHead,
    top_k,
    transformer_scores,
)
from behavior_model.memory.collective import CollectiveMemory
from behavior_model.memory.content import ContentMemory
from behavior_model.memory.purchases import Level, Longs, Purchases, read_purchases
from behavior_model.metrics import ndcg_at_k
from behavior_model.user_draw import drawn_users
from pipelines.errors import TooLittleDataError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NUM_TRAINING_TIMES: Final = 3
MAX_LEARNED_USERS: Final = 20_000
"""Users of a window whose candidates are made; memories are counted over all users. A user has up
to some 130 candidates of 70 features each, and up to four windows are held at once."""
LINEAR: Final = tuple(name for names in MEMORY_FEATURES.values() for name in names)


def fit(
    context: ModelContext, level: Level, *, seed: int, use_transformer: bool
) -> RecommendationHead:
    """Fit on windows that end at or before the test cut; see `RecommendationHead.fit`."""
    with threadpool_limits(1, "blas"):
        found = _Fitting(context, level, seed, use_transformer).run()
    if use_transformer:
        context.keep(_kept_as(level), seed, found)
    return found.final


@dataclass(frozen=True)
class Rankings:
    """A ranking at two times.

    Args:
        before: At the validation time; it has learned a few weights from the validation window
            and nothing else.
        final: At the test cut.
    """

    before: RecommendationHead
    final: RecommendationHead


def rankings(context: ModelContext, *, seed: int) -> Rankings:
    """The rankings of items that `fit` has made with this seed; fitted here where it has not."""
    kept = context.kept(_kept_as(Level.ITEM), seed)
    if kept is None:
        fit(context, Level.ITEM, seed=seed, use_transformer=True)
        kept = context.kept(_kept_as(Level.ITEM), seed)
    assert isinstance(kept, Rankings)
    return kept


def _kept_as(level: Level) -> str:
    return f"rankings of {level.value}"


def bought_of(table: FeatureTable, truths: Sequence[Longs], num_targets: int) -> Bools:
    """bool[P]: whether the candidate was bought in the window."""
    keys = [user * num_targets + truth for user, truth in enumerate(truths)]
    true_keys = np.concatenate([np.zeros(0, dtype=np.int64), *keys])
    bought: Bools = np.isin(table.users * num_targets + table.targets, true_keys)
    return bought


def fit_memories(
    context: ModelContext, level: Level, time: int, *, content: ContentMemory | None, seed: int
) -> tuple[Purchases, Memories]:
    """What all users did before a prediction time, and the memories of it."""
    purchases = read_purchases(context.histories(time), context.vocabulary, level, time)
    groups = level.groups_of(context.vocabulary)
    collective = CollectiveMemory.fit(purchases, groups, seed=seed)
    return purchases, Memories(collective, groups, content)


@dataclass(frozen=True, eq=False)
class _Window:
    """Candidates of active users at one prediction time, and which of them were bought."""

    table: FeatureTable
    bought: Bools
    truths: list[Longs]
    memories: Memories

    def ndcg(self, score: Callable[[FeatureTable], Doubles]) -> float:
        fallbacks = np.zeros(len(self.truths), dtype=np.bool_)
        lists = top_k(self.table, score(self.table), K, fallbacks).padded(K)
        return float(np.nanmean(ndcg_at_k(lists, self.truths, K)))


@dataclass(frozen=True, eq=False)
class _Fitting:
    context: ModelContext
    level: Level
    seed: int
    use_transformer: bool

    def run(self) -> Rankings:
        context, seeds = self.context, seeds_of(self.seed)
        content = None
        items = None
        if self.level is Level.ITEM:
            content = ContentMemory.fit(context.content, context.vocabulary.count_by_item_idx)
            if self.use_transformer:
                exact = item_embeddings(context.backbone, context.content)
                items = exact.astype(np.float16).astype(np.float32)
        times = context.training_times[:NUM_TRAINING_TIMES]
        windows = (self._window(time, content, items) for time in times)
        earlier = [one for one in windows if one.bought.any()]
        latest = self._window(context.validation_time, content, items)
        if not latest.bought.any():
            raise TooLittleDataError(
                "of what was bought in the window before the test cut nothing had been a candidate"
            )
        linear = _mix([latest], self._names(LINEAR))
        selection = {"linear": self._linear_selection(earlier, latest)}
        mixture = before = linear
        if earlier:
            trees = _fit_trees(earlier, seeds[:1])
            mixed = _mix([latest], self._names((TREES, *MEMORY_FEATURES[TRANSFORMER])), trees)
            selection |= {"boosted": latest.ndcg(mixed.score), "trees": latest.ndcg(trees.logits)}
            if selection["boosted"] >= selection["linear"]:
                again = _fit_trees([latest, *earlier][:NUM_TRAINING_TIMES], seeds)
                before, mixture = mixed, replace(mixed, trees=again)
        alone = {
            memory: _mix([latest], names)
            for memory, names in MEMORY_FEATURES.items()
            if any(name in latest.table.names for name in self._names(names))
        }
        final = RecommendationHead(
            level=self.level,
            vocabulary=context.vocabulary,
            memories=self._memories(context.test_time, content),
            mixture=mixture,
            alone={**alone, "linear": linear},
            items=items,
            selection=selection,
        )
        return Rankings(replace(final, memories=latest.memories, mixture=before), final)

    def _linear_selection(self, earlier: Sequence[_Window], latest: _Window) -> float:
        """NDCG@10 of a linear mixture that has not seen the validation window, where it can be."""
        fitted = _mix(list(earlier) or [latest], self._names(LINEAR))
        return latest.ndcg(fitted.score)

    def _names(self, names: Sequence[str]) -> list[str]:
        """Without those of a transformer that is not listened to."""
        prefix = f"{TRANSFORMER}/"
        return [n for n in names if self.use_transformer or not n.startswith(prefix)]

    def _memories(self, time: int, content: ContentMemory | None) -> Memories:
        return fit_memories(self.context, self.level, time, content=content, seed=self.seed)[1]

    def _window(self, time: int, content: ContentMemory | None, items: Floats | None) -> _Window:
        context, level = self.context, self.level
        truths = level.truths_of(context.futures(time))
        asked = self._asked(truths)
        states = context.states(time).select(asked) if self.use_transformer else None
        memories = self._memories(time, content)
        histories = context.histories(time).select(asked)
        purchases = read_purchases(histories, context.vocabulary, level, time)
        table = pair_features(purchases, memories, transformer_scores(level, states, items))
        truths = [truths[user] for user in asked]
        active = np.asarray([len(truth) > 0 for truth in truths], dtype=np.bool_)
        table = table.rows(active[table.users])
        bought = bought_of(table, truths, level.num_targets(context.vocabulary))
        return _Window(table, bought, truths, memories)

    def _asked(self, truths: Sequence[Longs]) -> Longs:
        """int64[]: positions of the users whose candidates are made, ascending.

        Everybody in a small shop; else active users alone, since nothing is learned from others.
        """
        if len(truths) <= MAX_LEARNED_USERS:
            return np.arange(len(truths))
        active = np.flatnonzero([len(truth) > 0 for truth in truths])
        return drawn_users(active, MAX_LEARNED_USERS, seed=self.seed)


def _fit_trees(windows: Sequence[_Window], seeds: Sequence[int]) -> RankingTrees:
    """Trees over memories alone: the backbone has seen the windows that they learn from."""
    names = [n for n in windows[0].table.names if not n.startswith(f"{TRANSFORMER}/")]
    tables, bought = [w.table for w in windows], [w.bought for w in windows]
    return RankingTrees.fit(tables, bought, names, seeds=seeds)


def _mix(
    windows: Sequence[_Window], names: Sequence[str], trees: RankingTrees | None = None
) -> Mixture:
    return Mixture.fit([w.table for w in windows], [w.bought for w in windows], names, trees)
