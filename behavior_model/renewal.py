"""A bundle brought to the present without a training: the weights stay, the memories are read anew.

The backbone, the trees and every learned weight were taught by windows that ended before the test
cut. What they read besides a user's own history is memory: what is bought by many, again and
together, what is written about items, what items there are. That is counted, not learned, and can
be counted again at any later time, as it was at each of the times that the trees learned from.
Items that came after the training are known by content and by memory; they have no identity.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from threadpoolctl import threadpool_limits

from behavior_model.bundle import Bundle, Manifest
from behavior_model.bundle_writer import BundleParts, write_bundle
from behavior_model.context import ModelContext
from behavior_model.embedding import item_embeddings
from behavior_model.heads.lexical_index import LexicalIndex, item_texts
from behavior_model.heads.pair_features import Memories
from behavior_model.heads.propensity import PropensityHead
from behavior_model.heads.recommendation import RecommendationHead
from behavior_model.heads.recommendation_fitting import fit_memories
from behavior_model.heads.search import SearchHead
from behavior_model.heads.search_fitting import at_cut
from behavior_model.heads.tagging import TaggingHead
from behavior_model.heads.tagging_fitting import evidence
from behavior_model.item_index import ItemIndex
from behavior_model.items import ItemContent, extend_item_content
from behavior_model.memory.content import ContentMemory
from behavior_model.memory.purchases import Level
from behavior_model.model.backbone import load_backbone, save_backbone, with_added_items
from behavior_model.predictor import (
    CATEGORY_PROPENSITY,
    CATEGORY_RECOMMENDATION,
    RECOMMENDATION,
    SEARCH,
    TAGGING,
)
from behavior_model.text_encoder import TextEncoder
from pipelines import lake
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

_SCRATCH: Final = ".renewal."


def renew_bundle(
    workspace: Workspace, bundle: Bundle, vocabulary: Vocabulary, moment_us: int, *, seed: int
) -> Manifest:
    """Replace the workspace's bundle by one whose memories hold what happened before a moment.

    Written whole or not at all; the same inputs give the same bundle. The caller holds the
    workspace's lock.

    Args:
        workspace: Its token sequences were encoded with the vocabulary.
        bundle: What is renewed.
        vocabulary: The bundle's, or one that has grown from it.
        moment_us: UTC microseconds.
        seed: Seed of the taste factors, as in fitting.

    Raises:
        WorkspaceError: this machine lacks the text encoder that made the items' content.
    """
    manifest = bundle.manifest
    for left in workspace.root.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left)  # of a renewal that was killed
    with (
        tempfile.TemporaryDirectory(dir=workspace.root, prefix=_SCRATCH) as scratch,
        threadpool_limits(1, "blas"),
    ):
        folder = Path(scratch)
        context = ModelContext(
            workspace=workspace,
            vocabulary=vocabulary,
            as_of_us=moment_us,
            window_us=manifest.window_days * DAY_US,
            parts=folder,
        )
        _write_items(context, bundle, folder)
        renewal = _Renewal(context=context, bundle=bundle, seed=seed)
        ItemIndex.build(renewal.item_embeddings).save(folder / "index")
        for task in manifest.tasks:
            _HEADS.get(task, _as_it_is)(renewal, task, folder / "heads" / task)
        parts = BundleParts(
            vocabulary=vocabulary,
            as_of_us=manifest.as_of_us,
            training_cut_us=manifest.training_cut_us,
            window_days=manifest.window_days,
            event_fields=manifest.event_fields,
            backbone=folder / "backbone",
            items=folder / "items",
            index=folder / "index",
            heads={task: folder / "heads" / task for task in manifest.tasks},
            catalogue=renewal.catalogue,
            trained_version=manifest.lineage,
            memories_us=moment_us,
        )
        return write_bundle(workspace.bundle, parts)


def _write_items(context: ModelContext, bundle: Bundle, folder: Path) -> None:
    """Content and backbone with the items that the bundle does not know yet."""
    known, vocabulary = bundle.vocabulary, context.vocabulary
    content = ItemContent.load(bundle.items, known)
    backbone = load_backbone(bundle.backbone, known)
    if vocabulary.num_item_indices > known.num_item_indices:
        encoder = TextEncoder.named(content.encoder_name, context.workspace.text_cache)
        catalogue = lake.read_catalogue(context.workspace)
        content = extend_item_content(content, catalogue, vocabulary, encoder)
        counts = _counts_since(context, bundle.manifest.training_cut_us)
        backbone = with_added_items(backbone, vocabulary, counts)
    content.save(folder / "items")
    save_backbone(folder / "backbone", backbone)


def _counts_since(context: ModelContext, moment_us: int) -> Longs:
    """int64[num_item_indices]: events with each item at or after a moment."""
    histories, vocabulary = context.histories(context.as_of_us), context.vocabulary
    late = histories.tokens[vocabulary.item_field][histories.times_us >= moment_us]
    return np.bincount(late, minlength=vocabulary.num_item_indices).astype(np.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Renewal:
    """What the heads of one renewal share.

    Args:
        context: At the moment that memories are brought to.
        bundle: What is renewed.
        seed: Seed of the taste factors.
    """

    context: ModelContext
    bundle: Bundle
    seed: int

    @cached_property
    def item_embeddings(self) -> Floats:
        """float32[N, D + 1]."""
        return item_embeddings(self.context.backbone, self.context.content)

    @cached_property
    def catalogue(self) -> pa.Table:
        return lake.read_catalogue(self.context.workspace)

    @cached_property
    def category_memories(self) -> Memories:
        return self._memories(Level.CATEGORY, None)

    @cached_property
    def item_memories(self) -> Memories:
        context = self.context
        content = ContentMemory.fit(context.content, context.vocabulary.count_by_item_idx)
        return self._memories(Level.ITEM, content)

    @cached_property
    def ranker(self) -> RecommendationHead | None:
        """The bundle's ranking of items, if it has one."""
        if RECOMMENDATION not in self.bundle.manifest.tasks:
            return None
        return RecommendationHead.load(self.bundle.head(RECOMMENDATION), self.bundle.vocabulary)

    def _memories(self, level: Level, content: ContentMemory | None) -> Memories:
        moment = self.context.as_of_us
        return fit_memories(self.context, level, moment, content=content, seed=self.seed)[1]


def _recommendation(renewal: _Renewal, task: str, folder: Path) -> None:
    assert renewal.ranker is not None
    items = None
    if renewal.ranker.items is not None:
        items = renewal.item_embeddings.astype(np.float16).astype(np.float32)
    vocabulary, memories = renewal.context.vocabulary, renewal.item_memories
    replace(renewal.ranker, vocabulary=vocabulary, memories=memories, items=items).save(folder)


def _category_recommendation(renewal: _Renewal, task: str, folder: Path) -> None:
    head = RecommendationHead.load(renewal.bundle.head(task), renewal.bundle.vocabulary)
    vocabulary, memories = renewal.context.vocabulary, renewal.category_memories
    replace(head, vocabulary=vocabulary, memories=memories).save(folder)


def _propensity(renewal: _Renewal, task: str, folder: Path) -> None:
    head = PropensityHead.load(renewal.bundle.head(task), renewal.bundle.vocabulary)
    vocabulary, memories = renewal.context.vocabulary, renewal.category_memories
    replace(head, vocabulary=vocabulary, memories=memories).save(folder)


def _search(renewal: _Renewal, task: str, folder: Path) -> None:
    context = renewal.context
    head = SearchHead.load(
        renewal.bundle.head(task),
        renewal.bundle.vocabulary,
        context.content,
        TextEncoder.named(context.content.encoder_name),
        renewal.item_embeddings,
        renewal.ranker,  # the head keeps weights for it, and nothing of it
    )
    texts = LexicalIndex(item_texts(renewal.catalogue, context.vocabulary))
    renewed = replace(head, vocabulary=context.vocabulary, index=texts)
    at_cut(renewed, context, head.weights).save(folder)


def _tagging(renewal: _Renewal, task: str, folder: Path) -> None:
    head = TaggingHead.load(renewal.bundle.head(task), renewal.bundle.vocabulary)
    evidence(renewal.context, renewal.catalogue).with_weights(head.weights).save(folder)


def _as_it_is(renewal: _Renewal, task: str, folder: Path) -> None:
    """A head that reads users' own histories and states alone has no memory to renew."""
    shutil.copytree(renewal.bundle.head(task), folder)


_HEADS: Final[dict[str, Callable[[_Renewal, str, Path], None]]] = {
    RECOMMENDATION: _recommendation,
    CATEGORY_RECOMMENDATION: _category_recommendation,
    CATEGORY_PROPENSITY: _propensity,
    SEARCH: _search,
    TAGGING: _tagging,
}
