"""Fitting a tagging head: evidence from all visible items, weights from a sample of them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from behavior_model.context import ModelContext
from behavior_model.heads.choice import fit_choice_weights
from behavior_model.heads.tag_evidence import (
    basket_tags,
    item_tags,
    log_prices,
    partial_texts,
    sold_items,
    tag_matrix,
    text_matrix,
)
from behavior_model.heads.tagging import FEATURES, FLOORS, TaggingHead
from behavior_model.items import ItemContent
from pipelines import lake
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.vocabulary import Vocabulary

Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

NUM_FIT_ITEMS: Final = 1_500
_USUAL_WEIGHTS: Final = np.asarray([1.0, 0.2, 0.0])


def fit(
    context: ModelContext,
    *,
    catalogue: pa.Table | None = None,
    hidden: Longs | None = None,
    with_price: bool = True,
    seed: int = 0,
) -> TaggingHead:
    """Fit the head on what is sold before the test cut.

    Args:
        context: At the test cut.
        catalogue: Canonical catalogue; the workspace's by default.
        hidden: int64, item indices whose title and category must not be read, for judging.
        with_price: Whether prices may be used.
        seed: Seed of the sample that weights are learned on.
    """
    if catalogue is None:
        catalogue = lake.read_catalogue(context.workspace)
    head = evidence(context, catalogue, hidden=hidden, with_price=with_price)
    sold = sold_items(context.vocabulary, context.histories(context.as_of_us))
    visible = _visible(context.vocabulary, hidden)
    known = sold[visible[sold] & (np.diff(head.tag_rows.indptr)[sold] > 0)]
    sample = np.random.default_rng(seed).permutation(known)[:NUM_FIT_ITEMS]
    return head.with_weights(_weights(head, sample))


def evidence(
    context: ModelContext,
    catalogue: pa.Table,
    *,
    hidden: Longs | None = None,
    with_price: bool = True,
) -> TaggingHead:
    """A head whose weights are all zero; arguments as in `fit`."""
    vocabulary, histories = context.vocabulary, context.histories(context.as_of_us)
    tags, tag_rows = tag_matrix(item_tags(catalogue, vocabulary), _visible(vocabulary, hidden))
    prices = log_prices(vocabulary, histories, catalogue) if with_price else None
    return TaggingHead(
        vocabulary=vocabulary,
        tags=tags,
        text=text_matrix(partial_texts(catalogue, vocabulary, prices)),
        tag_rows=tag_rows,
        baskets=basket_tags(vocabulary, histories, tag_rows),
        descriptor_tags=_descriptor_tags(context.content, tag_rows),
        weights=np.zeros(len(FEATURES)),
    )


def _visible(vocabulary: Vocabulary, hidden: Longs | None) -> Bools:
    """bool[num_item_indices]: items whose title and category may be read."""
    visible = np.ones(vocabulary.num_item_indices, dtype=np.bool_)
    visible[:FIRST_IDX] = False
    visible[hidden if hidden is not None else []] = False
    return visible


def _weights(head: TaggingHead, sample: Longs) -> Doubles:
    """The usual weights where no item has anything that speaks for one of its tags."""
    if len(sample) == 0:
        return _USUAL_WEIGHTS
    features = head.features(sample)
    chosen = head.tag_rows[sample].toarray() > 0
    possible = (features[:, :, :2] > 0).any(axis=2)
    offsets = np.concatenate([[0], np.cumsum(possible.sum(axis=1))]).astype(np.int64)
    some = np.diff(offsets) > 0
    if not chosen[possible].any():
        return _USUAL_WEIGHTS
    return fit_choice_weights(
        np.log(features[possible] + FLOORS).astype(np.float32),
        chosen[possible],
        np.concatenate([[0], offsets[1:][some]]),
        columns=range(len(FEATURES)),
    )


def _descriptor_tags(content: ItemContent, tag_rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """float32[P, T]: share of the items of each distinct text that have a tag."""
    items = np.flatnonzero(np.diff(tag_rows.indptr) > 0)
    texts = content.descriptor_idx[items]
    counts = np.bincount(texts, minlength=len(content.descriptors))
    weights = (1.0 / counts[texts]).astype(np.float32)
    shape = (len(content.descriptors), tag_rows.shape[0])
    return sparse.csr_matrix(sparse.csr_matrix((weights, (texts, items)), shape=shape) @ tag_rows)
