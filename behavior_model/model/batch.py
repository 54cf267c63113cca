"""Packed batches: segments of histories and probes laid side by side in rows without padding waste.

Legend: S segments, P probes, B rows, L row length, F token fields without the item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.tokens.binning import DAY_US
from pipelines.tokens.encoder import probe_tokens
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import TokenKind, Vocabulary

Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

MINUTE_US: Final = 60_000_000
VISIT_SCALE: Final = 10.0
"""log2 of a day in minutes, about: one visit a day moves the visit clock by one."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """What is to be laid out: consecutive events of one user each, and probes that look at them.

    Args:
        starts: int64[S], first event of each segment (position in the histories).
        stops: int64[S], one past its last event; empty segments are allowed.
        users: int64[S], position of the user.
        probe_segments: int64[P], ascending: which segment a probe looks at.
        probe_times_us: int64[P]; a probe sees the events of its segment strictly before it.
    """

    starts: Longs
    stops: Longs
    users: Longs
    probe_segments: Longs
    probe_times_us: Longs

    @property
    def num_probes(self) -> Longs:
        """int64[S]: probes per segment."""
        return np.bincount(self.probe_segments, minlength=len(self.starts)).astype(np.int64)

    @property
    def lengths(self) -> Longs:
        """int64[S]: positions per segment, events and probes."""
        return self.stops - self.starts + self.num_probes


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """One batch. `flat` positions index B * L.

    Args:
        fields_BLF: int64, token fields in the vocabulary's order, the item left out.
        items_BL: int64, item indices.
        clocks_BL2: float32, the visit clock and the calendar clock (days), see `rotary`.
        segments_BL: int64, 1 + segment, 0 for padding.
        order_BL: int64, 2 i for the i-th event of a segment, 2 i + 1 for a probe right after it.
        probe_BL: bool, which positions are probes.
        next_BL: int64, flat position of the next event of the segment, -1 where there is none.
        event_rows: int64[E], position in the histories of each event of the batch.
        event_flat: int64[E], its flat position.
        probe_flat: int64[P], flat position of each probe, in the order of the segments' probes.
        users: int64[S], position of the user of each segment.
    """

    fields_BLF: Tensor
    items_BL: Tensor
    clocks_BL2: Tensor
    segments_BL: Tensor
    order_BL: Tensor
    probe_BL: Tensor
    next_BL: Tensor
    event_rows: Longs
    event_flat: Tensor
    probe_flat: Tensor
    users: Tensor

    @property
    def num_events(self) -> int:
        return len(self.event_rows)


def pack_rows(lengths: Longs, row_length: int) -> tuple[Longs, Longs]:
    """First-fit decreasing: a row and a column for each segment.

    Args:
        lengths: int64[S], none above `row_length`.
        row_length: L.

    Returns:
        int64[S] rows and int64[S] columns.
    """
    if len(lengths) and int(lengths.max()) > row_length:
        raise ValueError(f"a segment of {lengths.max()} positions in rows of {row_length}")
    rows = np.zeros(len(lengths), dtype=np.int64)
    columns = np.zeros(len(lengths), dtype=np.int64)
    filled: list[int] = []
    for segment in np.argsort(-lengths, kind="stable"):
        length = int(lengths[segment])
        row = next((r for r, used in enumerate(filled) if used + length <= row_length), len(filled))
        if row == len(filled):
            filled.append(0)
        rows[segment], columns[segment] = row, filled[row]
        filled[row] += length
    return rows, columns


def lay_out(
    vocabulary: Vocabulary, histories: Histories, segments: Segments, row_length: int
) -> PackedBatch:
    """Lay segments and their probes out in rows.

    Args:
        vocabulary: The vocabulary of the histories.
        histories: Where the events are.
        segments: What to lay out.
        row_length: L; no segment may be longer.
    """
    rows, columns = pack_rows(segments.lengths, row_length)
    num_rows = int(rows.max()) + 1 if len(rows) else 0
    base = rows * row_length + columns
    counts = segments.stops - segments.starts
    within = _ranges(counts)
    event_segment = np.repeat(np.arange(len(counts)), counts)
    event_rows = segments.starts[event_segment] + within
    event_flat = base[event_segment] + within
    probe_segment = segments.probe_segments
    seen = _events_before(histories, segments)
    probe_flat = base[probe_segment] + counts[probe_segment] + _ranges(segments.num_probes)
    size = num_rows * row_length

    def scatter(events: npt.NDArray[np.generic], probes: npt.NDArray[np.generic]) -> Tensor:
        flat = np.zeros((size, *events.shape[1:]), dtype=events.dtype)
        flat[event_flat] = events
        flat[probe_flat] = probes
        return torch.from_numpy(flat.reshape(num_rows, row_length, *events.shape[1:]))

    fields, items = _tokens(vocabulary, histories, segments, event_rows, seen)
    following = np.full(size, -1, dtype=np.int64)
    inner = within + 1 < counts[event_segment]
    following[event_flat[inner]] = event_flat[inner] + 1
    return PackedBatch(
        fields_BLF=scatter(*fields),
        items_BL=scatter(*items),
        clocks_BL2=scatter(*_clocks(histories, segments, event_rows, seen)),
        segments_BL=scatter(event_segment + 1, probe_segment + 1),
        order_BL=scatter(2 * within, 2 * seen - 1),
        probe_BL=scatter(
            np.zeros(len(event_flat), dtype=np.bool_), np.ones(len(probe_flat), dtype=np.bool_)
        ),
        next_BL=torch.from_numpy(following.reshape(num_rows, row_length)),
        event_rows=event_rows,
        event_flat=torch.from_numpy(event_flat),
        probe_flat=torch.from_numpy(probe_flat),
        users=torch.from_numpy(segments.users),
    )


def _ranges(counts: Longs) -> Longs:
    """0 .. count-1 for each count, one after another."""
    ends = np.cumsum(counts)
    return np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)


def _events_before(histories: Histories, segments: Segments) -> Longs:
    """int64[P]: events of its segment that each probe sees."""
    seen = np.zeros(len(segments.probe_segments), dtype=np.int64)
    ends = np.cumsum(segments.num_probes)
    for s in np.flatnonzero(segments.num_probes):
        times = histories.times_us[segments.starts[s] : segments.stops[s]]
        own = slice(ends[s] - segments.num_probes[s], ends[s])
        seen[own] = np.searchsorted(times, segments.probe_times_us[own], side="left")
    return seen


def _tokens(
    vocabulary: Vocabulary,
    histories: Histories,
    segments: Segments,
    event_rows: Longs,
    seen: Longs,
) -> tuple[tuple[Longs, Longs], tuple[Longs, Longs]]:
    last_rows = segments.starts[segments.probe_segments] + seen - 1
    last_times = (
        np.where(seen > 0, histories.times_us[np.maximum(last_rows, 0)], -1)
        if len(histories.times_us)
        else np.full(len(seen), -1, dtype=np.int64)
    )
    probes = probe_tokens(vocabulary, last_times, segments.probe_times_us)
    names = [f.name for f in vocabulary.fields if f.kind is not TokenKind.ITEM]
    item = vocabulary.item_field
    fields = (
        np.stack([histories.tokens[n][event_rows] for n in names], axis=-1).astype(np.int64),
        np.stack([probes[n] for n in names], axis=-1).astype(np.int64),
    )
    items = (histories.tokens[item][event_rows].astype(np.int64), probes[item].astype(np.int64))
    return fields, items


def _clocks(
    histories: Histories, segments: Segments, event_rows: Longs, seen: Longs
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """float32[E, 2] and float32[P, 2]: visit and calendar clock, both 0 at the first event."""
    counts = segments.stops - segments.starts
    times = histories.times_us[event_rows]
    ends = np.cumsum(counts)
    first = (ends - counts)[counts > 0]
    gaps = np.diff(times, prepend=times[:1])
    gaps[first] = 0
    steps = np.cumsum(_visit_step(gaps))
    origin = np.repeat(first, counts[counts > 0])
    visits = steps - steps[origin]
    days = (times - times[origin]) / DAY_US
    events = np.stack([visits, days], axis=-1)
    probes = np.zeros((len(seen), 2))
    some = seen > 0
    chosen = segments.probe_segments[some]
    last = (ends - counts)[chosen] + seen[some] - 1
    now = segments.probe_times_us[some]
    probes[some, 0] = visits[last] + _visit_step(now - times[last])
    probes[some, 1] = (now - times[(ends - counts)[chosen]]) / DAY_US
    return events.astype(np.float32), probes.astype(np.float32)


def _visit_step(gaps_us: Longs) -> Doubles:
    """How far the visit clock moves over a gap: the logarithm of its minutes."""
    return np.asarray(np.log2(1.0 + gaps_us / MINUTE_US) / VISIT_SCALE, dtype=np.float64)
