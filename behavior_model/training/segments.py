"""From histories to training segments: where they begin, which probes they carry, in which order.

Everything drawn here follows from (seed, epoch, shard) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.model.batch import Segments
from behavior_model.recipes import Recipe
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import TIME_KINDS, Vocabulary

Longs = npt.NDArray[np.int64]

PROBE_SLOTS: Final = 24
"""Room for probes beside a full context in a row."""

MIN_SEEN_SHARE: Final = 3 / 8
"""Share of the context that a probe must see, unless it sees the whole history."""

SPLIT_SHARE: Final = 0.3
"""Share of short histories that are cut in two, so that they have slices to contrast."""

MIN_SPLIT_EVENTS: Final = 32


def shuffle_ties(
    vocabulary: Vocabulary, histories: Histories, rng: np.random.Generator
) -> Histories:
    """The same histories with a fresh order among events of one user and one time.

    Time fields stay in place: gap and session start belong to the first event of a basket,
    whichever it is. Times are equal within a tie, so they need no move.
    """
    changes = np.diff(histories.times_us, prepend=-1) != 0
    changes |= np.diff(histories.user_positions, prepend=-1) != 0
    order = np.lexsort((rng.random(histories.num_events), np.cumsum(changes)))
    time_fields = {f.name for f in vocabulary.fields if f.kind in TIME_KINDS}
    return replace(
        histories,
        event_hashes=histories.event_hashes[order],
        amounts=histories.amounts[order],
        quantities=histories.quantities[order],
        tokens={
            name: column if name in time_fields else column[order]
            for name, column in histories.tokens.items()
        },
    )


def row_length(recipe: Recipe) -> int:
    """L of training rows: a full context and its probes."""
    return recipe.model.context + PROBE_SLOTS


def draw_segments(
    histories: Histories, recipe: Recipe, cut_us: int, rng: np.random.Generator
) -> Iterator[list[Segments]]:
    """Units of one or two segments of one user each, users in random order.

    Args:
        histories: Cut at the training cut.
        recipe: Context and number of probes.
        cut_us: The training cut; probes stand before it.
        rng: Source of all draws.
    """
    if not histories.num_events:
        return
    begin = int(histories.times_us.min())
    density = recipe.training.probes_per_user / max(cut_us - begin, 1)
    for user in rng.permutation(len(histories)):
        start, stop = int(histories.offsets[user]), int(histories.offsets[user + 1])
        times = histories.times_us[start:stop]
        bounds = _bounds(len(times), recipe.model.context, rng)
        probes = _probe_times(int(times[0]), cut_us, density, rng)
        parts = [
            _segment(int(user), start, times, low, high, probes, recipe, rng, high == len(times))
            for low, high in pairwise(bounds)
        ]
        order = rng.permutation(len(parts))
        for i in range(0, len(parts), 2):
            yield [parts[j] for j in order[i : i + 2]]


def _bounds(length: int, context: int, rng: np.random.Generator) -> list[int]:
    """Where the segments of a history begin and end."""
    if length <= context:
        if length >= MIN_SPLIT_EVENTS and rng.random() < SPLIT_SHARE:
            return [0, int(rng.integers(length // 4, length - length // 4)), length]
        return [0, length]
    first = int(rng.integers(context // 4, context + 1))
    return [0, *range(first, length, context), length]


def _probe_times(begin: int, cut_us: int, density: float, rng: np.random.Generator) -> Longs:
    """One probe in each of equal stretches of time from the first event to the cut, at random."""
    count = max(round(density * (cut_us - begin)), 2)
    stretches = np.arange(count) + rng.random(count)
    return (begin + 1 + stretches / count * (cut_us - begin - 2)).astype(np.int64)


def _segment(
    user: int,
    offset: int,
    times: Longs,
    low: int,
    high: int,
    probes: Longs,
    recipe: Recipe,
    rng: np.random.Generator,
    is_last: bool,
) -> Segments:
    until = np.inf if is_last else times[high]
    own = probes[(probes > times[low]) & (probes <= until)]
    if low > 0:
        seen = np.searchsorted(times[low:high], own, side="left")
        own = own[seen >= min(MIN_SEEN_SHARE * recipe.model.context, high)]
    room = row_length(recipe) - (high - low)
    if len(own) > room:
        own = np.sort(rng.choice(own, size=room, replace=False))
    return Segments(
        starts=np.asarray([offset + low]),
        stops=np.asarray([offset + high]),
        users=np.asarray([user]),
        probe_segments=np.zeros(len(own), dtype=np.int64),
        probe_times_us=own,
    )


def join(parts: list[Segments]) -> Segments:
    """Many segments as one."""
    shifts = np.cumsum([0] + [len(part.starts) for part in parts])
    return Segments(
        starts=np.concatenate([part.starts for part in parts]),
        stops=np.concatenate([part.stops for part in parts]),
        users=np.concatenate([part.users for part in parts]),
        probe_segments=np.concatenate(
            [part.probe_segments + shift for part, shift in zip(parts, shifts, strict=False)]
        ),
        probe_times_us=np.concatenate([part.probe_times_us for part in parts]),
    )
