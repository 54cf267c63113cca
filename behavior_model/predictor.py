"""A loaded bundle that answers: the same code for batch scoring and for serving.

Nothing here knows users beyond the histories it is given, and an answer for one user does not
depend on who else is asked about in the same call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from behavior_model.bundle import Bundle, Catalogue, Manifest, open_bundle
from behavior_model.embedding import UserStates, embed_users, text_embeddings
from behavior_model.heads.explanation import Explanation, explain
from behavior_model.heads.familiarity import UNFAMILIAR_BELOW
from behavior_model.heads.propensity import Propensities, PropensityHead
from behavior_model.heads.recommendation import RecommendationHead
from behavior_model.heads.search import SearchHead
from behavior_model.heads.tagging import TaggingHead
from behavior_model.heads.user_task import UserPrediction, UserTaskHead
from behavior_model.item_index import ItemIndex
from behavior_model.items import ItemContent
from behavior_model.likeness import ItemLikeness, Likeness
from behavior_model.model.backbone import Backbone, load_backbone
from behavior_model.text_encoder import TextEncoder
from pipelines.errors import UnknownNameError, UserError
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
LevelName = Literal["item", "category"]

RECOMMENDATION: Final = "recommendation"
CATEGORY_RECOMMENDATION: Final = "category_recommendation"
SEARCH: Final = "search"
TAGGING: Final = "tagging"
CATEGORY_PROPENSITY: Final = "category_propensity"
RANKING_TASKS: Final = (RECOMMENDATION, CATEGORY_RECOMMENDATION, SEARCH, TAGGING)


@dataclass(frozen=True)
class Ranking:
    """Ranked lists, best first; one per user, query or item asked about.

    Args:
        ids: Outside ids.
        scores: Their scores, in the same order.
        fallbacks: Per list, whether nothing was known of who asks, so that it is what is popular.
        familiarities: Of search, per query the share of usual queries that match at most as well.
    """

    ids: list[list[str]]
    scores: list[list[float]]
    fallbacks: list[bool] = field(default_factory=list)
    familiarities: list[float] = field(default_factory=list)

    @property
    def unfamiliar(self) -> list[bool]:
        """Of search, per query: it matches worse than 99 in 100 usual ones; distrust the answer."""
        return [one < UNFAMILIAR_BELOW for one in self.familiarities]


@dataclass(frozen=True, eq=False)
class Predictor:
    """Answers from one bundle.

    Args:
        bundle: Checked.
        backbone: In evaluation mode.
        content: Of all items.
        index: Nearest items by behaviour.
        rankers: Per level.
        user_tasks: Per task name.
        propensity_head: None where the bundle has none.
        search_head: None where the bundle has none.
        tagging_head: None where the bundle has none.
        encoder: The text encoder of this machine.
    """

    bundle: Bundle
    backbone: Backbone
    content: ItemContent
    index: ItemIndex
    rankers: dict[str, RecommendationHead]
    user_tasks: dict[str, UserTaskHead]
    propensity_head: PropensityHead | None
    search_head: SearchHead | None
    tagging_head: TaggingHead | None
    encoder: TextEncoder

    @classmethod
    def load(cls, root: Path) -> Predictor:
        """Open a bundle, check every file, and load all of its parts.

        Raises:
            BundleError: the bundle is incomplete or was changed.
            VocabularyMismatchError: a part was made with another vocabulary.
        """
        bundle = open_bundle(root)
        vocabulary = bundle.vocabulary
        content = ItemContent.load(bundle.items, vocabulary)
        encoder = TextEncoder.named(content.encoder_name)
        index = ItemIndex.load(bundle.index)
        tasks = bundle.manifest.tasks
        levels = {"item": RECOMMENDATION, "category": CATEGORY_RECOMMENDATION}
        rankers = {
            level: RecommendationHead.load(bundle.head(task), vocabulary)
            for level, task in levels.items()
            if task in tasks
        }
        search_head = None
        if SEARCH in tasks:
            search_head = SearchHead.load(
                bundle.head(SEARCH),
                vocabulary,
                content,
                encoder,
                index.item_embeddings(),
                rankers.get("item"),
            )
        tagging_head = None
        if TAGGING in tasks:
            tagging_head = TaggingHead.load(bundle.head(TAGGING), vocabulary)
        propensity_head = None
        if CATEGORY_PROPENSITY in tasks:
            propensity_head = PropensityHead.load(bundle.head(CATEGORY_PROPENSITY), vocabulary)
        return cls(
            bundle=bundle,
            backbone=load_backbone(bundle.backbone, vocabulary),
            content=content,
            index=index,
            rankers=rankers,
            user_tasks={
                task: UserTaskHead.load(bundle.head(task), vocabulary)
                for task in tasks
                if task not in (*RANKING_TASKS, CATEGORY_PROPENSITY)
            },
            propensity_head=propensity_head,
            search_head=search_head,
            tagging_head=tagging_head,
            encoder=encoder,
        )

    def warm(self) -> None:
        """Make now what the first answers would otherwise wait for: the word index of search, and
        what people see of items.

        Raises:
            WorkspaceError: another text encoder than this machine's made the items' content, so
                that no text could be held against them.
        """
        if self.vocabulary.items:
            self.content.require(self.encoder)
        if self.search_head is not None:
            self.search_head.warm()
        self.catalogue.cards([""])

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def vocabulary(self) -> Vocabulary:
        return self.bundle.vocabulary

    @property
    def catalogue(self) -> Catalogue:
        """Titles and categories of items."""
        return self.bundle.catalogue

    def recommend(
        self,
        histories: Histories,
        prediction_times_us: Longs,
        k: int,
        *,
        level: LevelName = "item",
        exclude_owned: bool = False,
    ) -> Ranking:
        """What each of U users will buy next; a user without history gets what is popular.

        Args:
            histories: U users, events before their prediction times.
            prediction_times_us: int64[U].
            k: Length of the lists.
            level: Products or categories.
            exclude_owned: Leave out what the user bought before.

        Raises:
            UnknownNameError: the bundle does not rank this level.
        """
        if level not in self.rankers:
            raise UnknownNameError("level", level, self.rankers)
        states = self.states(histories, prediction_times_us)
        ranked = self.rankers[level].rank(
            histories, states, prediction_times_us, k, exclude_owned=exclude_owned
        )
        lists = [ranked.of(user) for user in range(len(histories))]
        name = self._category_ids if level == "category" else self._item_ids
        return Ranking(
            ids=[name(targets) for targets, _ in lists],
            scores=[scores.astype(float).tolist() for _, scores in lists],
            fallbacks=ranked.fallbacks.tolist(),
        )

    def explain(
        self,
        histories: Histories,
        prediction_times_us: Longs,
        name: str,
        k: int,
        *,
        level: LevelName = "item",
    ) -> Explanation:
        """Why an item or category stands where it does in the list of one user.

        Args:
            histories: One user, events before the prediction time.
            prediction_times_us: int64[1].
            name: Item id or category.
            k: Length of the list.
            level: Which of both.

        Raises:
            UnknownNameError: the bundle does not rank this level, or does not know the name.
            UserError: it is not among the user's candidates.
        """
        if level not in self.rankers:
            raise UnknownNameError("level", level, self.rankers)
        if level == "item":
            target = int(self._require_items([name])[0])
        elif name in self.vocabulary.categories:
            target = self.vocabulary.categories.index(name)
        else:
            raise UnknownNameError("category", name, self.vocabulary.categories)
        states = self.states(histories, prediction_times_us)
        moment = int(prediction_times_us[0])
        found = explain(self.rankers[level], histories, states, moment, target, k)
        if found is None:
            raise UserError(
                f"{level} '{name}' was not weighed for a list of {k} for user "
                f"'{histories.user_ids[0]}': nothing that is known of both speaks for it, or the "
                "user is unknown and the list is what is popular. Ask for one of a known user's "
                "list, with the k of that list."
            )
        return found

    def require_user_task(self, task: str) -> None:
        """Refuse a task that the bundle does not answer.

        Raises:
            UnknownNameError: the message lists those it does.
        """
        if task not in self.user_tasks:
            raise UnknownNameError("user task", task, self.user_tasks)

    def predict(
        self, task: str, histories: Histories, prediction_times_us: Longs
    ) -> UserPrediction:
        """A user task's answers for U users.

        Raises:
            UnknownNameError: no such task.
        """
        self.require_user_task(task)
        states = self.states(histories, prediction_times_us)
        return self.user_tasks[task].predict(histories, states, prediction_times_us)

    def propensities(self, histories: Histories, prediction_times_us: Longs) -> Propensities:
        """Chances of U users to buy from each of the largest categories.

        Raises:
            UnknownNameError: the bundle holds no such head.
        """
        if self.propensity_head is None:
            raise UnknownNameError("task", CATEGORY_PROPENSITY, self.manifest.tasks)
        states = self.states(histories, prediction_times_us)
        return self.propensity_head.predict(histories, states, prediction_times_us)

    @property
    def personalises_search(self) -> bool:
        """Whether search listens to who asks."""
        return self.search_head is not None

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        histories: Histories | None = None,
        prediction_times_us: Longs | None = None,
    ) -> Ranking:
        """Items per query; personal where the histories of the Q people who ask are given.

        Raises:
            UnknownNameError: the bundle holds no search head.
        """
        if self.search_head is None:
            raise UnknownNameError("task", SEARCH, self.manifest.tasks)
        states = None
        if histories is not None and prediction_times_us is not None:
            states = self.states(histories, prediction_times_us)
        items, scores, familiarities = self.search_head.predict(
            queries,
            k,
            histories=histories,
            prediction_times_us=prediction_times_us,
            states=states,
        )
        return replace(self._named(items, scores), familiarities=familiarities.tolist())

    def tags(self, item_ids: Sequence[str], k: int) -> Ranking:
        """What customers would call some items, from everything but their own words.

        Raises:
            UnknownNameError: an unknown item, or no tagging head in the bundle.
        """
        head = self._tagging()
        return _tagged(head, *head.predict(self._require_items(item_ids), k))

    def tags_of_texts(self, texts: Sequence[str], k: int) -> Ranking:
        """Tags of things that are known by a text alone; errors as in `tags`."""
        head = self._tagging()
        return _tagged(head, *head.predict_texts(self.content, self.encoder, list(texts), k))

    def similar_items(
        self, item_ids: Sequence[str], k: int, *, by: Likeness = "behavior"
    ) -> Ranking:
        """Items like each of some items, themselves left out.

        Raises:
            UnknownNameError: an unknown item, or no item has a text to be likened by.
        """
        known = self._require_items(item_ids)
        found, scores = self._likeness.to_items(known, k + FIRST_IDX + 1, by)
        return self._named(found, scores, k=k, without=known)

    def similar_to_texts(
        self, texts: Sequence[str], k: int, *, by: Likeness = "behavior"
    ) -> Ranking:
        """Items like things that are known by a text alone; errors as in `similar_items`."""
        found, scores = self._likeness.to_texts(texts, k + FIRST_IDX, by)
        return self._named(found, scores, k=k)

    def states(self, histories: Histories, prediction_times_us: Longs) -> UserStates:
        """The backbone's states of U users."""
        return embed_users(self.backbone, self.content, histories, prediction_times_us)

    def embed_users(self, histories: Histories, prediction_times_us: Longs) -> Floats:
        """float32[U, E]: user embeddings."""
        return self.states(histories, prediction_times_us).embedding

    def embed_items(self, item_ids: Sequence[str]) -> Floats:
        """float32[n, D] of length 1.

        Raises:
            UnknownNameError: an unknown item.
        """
        return self.index.embeddings(self._require_items(item_ids))

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """float32[n, D] of length 1, in the space of items."""
        encoded = self.content.encode_texts(self.encoder, list(texts), is_query=True)
        return text_embeddings(self.backbone, encoded)

    @cached_property
    def _likeness(self) -> ItemLikeness:
        ranker = self.rankers.get("item")
        memory = None if ranker is None else ranker.memories.collective
        return ItemLikeness(self.backbone, self.content, self.index, self.encoder, memory)

    def _tagging(self) -> TaggingHead:
        if self.tagging_head is None:
            raise UnknownNameError("task", TAGGING, self.manifest.tasks)
        return self.tagging_head

    def _named(
        self, found: Longs, scores: Floats, *, k: int | None = None, without: Longs | None = None
    ) -> Ranking:
        """Item indices as outside ids; reserved, absent and unwanted ones left out."""
        keep = found >= FIRST_IDX
        if without is not None:
            keep &= found != without[:, None]
        return Ranking(
            ids=[self._item_ids(row[kept][:k]) for row, kept in zip(found, keep, strict=True)],
            scores=[
                row[kept][:k].astype(float).tolist() for row, kept in zip(scores, keep, strict=True)
            ],
        )

    def _require_items(self, item_ids: Sequence[str]) -> Longs:
        known = self.vocabulary.item_idx_of
        for item in item_ids:
            if item not in known:
                raise _unknown_item(item, self.vocabulary)
        return np.asarray([known[item] for item in item_ids], dtype=np.int64)

    def _item_ids(self, targets: Longs) -> list[str]:
        return [self.vocabulary.items[i - FIRST_IDX] for i in targets.tolist()]

    def _category_ids(self, targets: Longs) -> list[str]:
        return [self.vocabulary.categories[i] for i in targets.tolist()]


def _tagged(head: TaggingHead, positions: Longs, shares: Floats) -> Ranking:
    scores = [row[found >= 0].tolist() for row, found in zip(shares, positions, strict=True)]
    return Ranking(ids=head.names(positions), scores=scores)


def _unknown_item(item: str, vocabulary: Vocabulary) -> UnknownNameError:
    """With a few known items: the whole list may be millions long."""
    some = vocabulary.items[:5]
    return UnknownNameError("item", item, some, is_all=len(some) == len(vocabulary.items))
