"""Benchmark interactions as the backbone reads them: a vocabulary, histories, content, batches.

The model is shown what came first and nothing more, so an interaction is an event of one type, a
day after the one before it. Legend: U users, N items.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from behavior_model.benchmark.interactions import Interactions, Longs
from behavior_model.model.batch import PackedBatch, Segments, lay_out
from behavior_model.objectives.next_item import NextItemBatch
from behavior_model.recipes import Recipe
from behavior_model.training.ahead import made_ahead
from pipelines.contracts import CATALOGUE, EVENT_TYPE, ITEM_ID, TITLE
from pipelines.tokens.binning import DAY_US, FIRST_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import PROBE_TYPE, TokenField, TokenKind, Vocabulary

INTERACTION = "interaction"


@dataclass(frozen=True, eq=False)
class Encoded:
    """Interactions in the platform's own terms.

    Args:
        vocabulary: Items in order of how often they were taken; one event type.
        histories: The interactions.
        item_idx: int64[N], item index of each item of the files.
    """

    vocabulary: Vocabulary
    histories: Histories
    item_idx: Longs

    def encode(self, interactions: Interactions) -> Encoded:
        """Interactions of other users with the same items, in the same indices."""
        return replace(self, histories=_histories(interactions, self.item_idx))


def encode(interactions: Interactions) -> Encoded:
    """Encode a history; its own counts decide the order of items."""
    counts = interactions.counts
    order = np.lexsort((np.arange(len(counts)), -counts))
    item_idx = np.empty(len(order), dtype=np.int64)
    item_idx[order] = FIRST_IDX + np.arange(len(order))
    names = [str(one) for one in interactions.item_ids.take(pa.array(order)).to_pylist()]
    vocabulary = Vocabulary(
        company="benchmark",
        fitted_before="the end of each history",
        fields=(
            TokenField(
                name=EVENT_TYPE,
                kind=TokenKind.CATEGORICAL,
                column=EVENT_TYPE,
                values=(PROBE_TYPE, INTERACTION),
            ),
            TokenField(name=ITEM_ID, kind=TokenKind.ITEM, column=ITEM_ID),
        ),
        items=tuple(names),
        item_counts=tuple(counts[order].tolist()),
        categories=(INTERACTION,),  # no item is in it: the files know no categories
        item_categories=(-1,) * len(names),
    )
    return Encoded(vocabulary, _histories(interactions, item_idx), item_idx)


def _histories(interactions: Interactions, item_idx: Longs) -> Histories:
    num_events = interactions.num_events
    first = np.repeat(interactions.offsets[:-1], interactions.lengths)
    missing = np.full(num_events, np.nan, dtype=np.float32)
    return Histories(
        user_ids=[str(one) for one in interactions.user_ids.to_pylist()],
        offsets=interactions.offsets,
        times_us=(1 + np.arange(num_events) - first) * DAY_US,
        event_hashes=np.arange(num_events, dtype=np.int64),
        amounts=missing,
        quantities=missing,
        tokens={
            EVENT_TYPE: np.full(num_events, FIRST_IDX + 1, dtype=np.int32),
            ITEM_ID: item_idx[interactions.items].astype(np.int32),
        },
    )


def catalogue_of(interactions: Interactions) -> pa.Table:
    """The canonical catalogue: ids and, as titles, texts."""
    ids = [str(one) for one in interactions.item_ids.to_pylist()]
    columns = {name: pa.nulls(len(ids), pa.string()) for name in CATALOGUE.column_names}
    columns[ITEM_ID] = pa.array(ids, pa.string())
    columns[TITLE] = pa.array([text or None for text in interactions.texts], pa.string())
    return pa.table(columns)


@dataclass(frozen=True, kw_only=True)
class SequenceLoader:
    """Makes batches of whole histories, or of windows of long ones, in a new order every epoch.

    Args:
        encoded: Training interactions.
        recipe: Context and batch size.
        seed: Seed of the run.
        shard: There is one.
        share: Of the windows, how many an epoch reads, drawn anew each time.
    """

    encoded: Encoded
    recipe: Recipe
    seed: int
    shard: int = 0
    share: float = 1.0

    def epoch(self, epoch: int) -> SequenceEpoch:
        """All batches of an epoch, from any step on."""
        rng = np.random.default_rng((self.seed, epoch))
        starts, stops = _windows(self.encoded.histories, self.recipe.model.context, rng)
        order = rng.permutation(len(starts))[: math.ceil(self.share * len(starts))]
        starts, stops = starts[order], stops[order]
        filled = np.cumsum(stops - starts)
        total = int(filled[-1]) if len(filled) else 0  # nobody may have taken two things
        bounds = np.searchsorted(filled, np.arange(0, total, self.recipe.training.batch_tokens))
        plan = [
            (starts[low:high], stops[low:high])
            for low, high in pairwise([*bounds, len(starts)])
            if high > low
        ]
        return SequenceEpoch(self, plan)


@dataclass(frozen=True)
class SequenceEpoch:
    """The batches of one epoch; each is made when it is asked for."""

    loader: SequenceLoader
    plan: list[tuple[Longs, Longs]]

    def __len__(self) -> int:
        return len(self.plan)

    def make(self, step: int) -> NextItemBatch:
        """The batch of a step, the same whenever it is made."""
        starts, stops = self.plan[step]
        return NextItemBatch(
            packed=pack(self.loader.encoded, starts, stops, self.loader.recipe.model.context)
        )

    def from_step(self, step: int) -> Generator[NextItemBatch, None, None]:
        """Batches from `step` on; the next one is made in a thread while this one is used."""
        return made_ahead(self.make, step, len(self))


def pack(encoded: Encoded, starts: Longs, stops: Longs, row_length: int) -> PackedBatch:
    """Segments of the histories side by side in rows."""
    none = np.zeros(0, dtype=np.int64)
    segments = Segments(
        starts=starts,
        stops=stops,
        users=np.arange(len(starts)),
        probe_segments=none,
        probe_times_us=none,
    )
    return lay_out(encoded.vocabulary, encoded.histories, segments, row_length)


def _windows(histories: Histories, context: int, rng: np.random.Generator) -> tuple[Longs, Longs]:
    """Starts and stops of segments with at least two events, none longer than the context.

    A history that is too long is cut at a place drawn anew.
    """
    parts: list[tuple[int, int]] = []
    for start, stop in pairwise(histories.offsets):
        length = stop - start
        if length <= context:
            parts.append((start, stop))
            continue
        first = start + int(rng.integers(2, context + 1))
        cuts = [start, *range(first, stop, context - 1), stop]
        parts += [(max(low - 1, start), high) for low, high in pairwise(cuts)]
    pairs = np.asarray(parts, dtype=np.int64).reshape(-1, 2)
    long_enough = pairs[:, 1] - pairs[:, 0] >= 2
    return pairs[long_enough, 0], pairs[long_enough, 1]
