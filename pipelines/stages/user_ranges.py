"""The events table cut into ranges of users, each read whole by one task without a shuffle.

Intake sorts events by user across files, and Delta keeps the smallest and largest user of every
file. So a range of users lies in few files, and the task that encodes it reads those alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from pipelines.contracts import EVENT_ID, EVENT_TIME, SESSION_ID, USER_ID

EVENTS_PER_RANGE: Final = 500_000
MAX_FILES_PER_RANGE: Final = 50
MAX_READ_SHARE: Final = 3.0
EVENT_ORDER: Final = (EVENT_TIME, SESSION_ID, EVENT_ID)
"""Order of events inside a user; a missing session stands first."""


@dataclass(frozen=True, kw_only=True)
class UserRange:
    """Users from `lower` on and before `upper`; None is open."""

    lower: str | None
    upper: str | None

    def filter(self) -> ds.Expression:
        """The range as a filter on events."""
        expression = pc.field(USER_ID).is_valid()
        if self.lower is not None:
            expression &= pc.field(USER_ID) >= self.lower
        if self.upper is not None:
            expression &= pc.field(USER_ID) < self.upper
        return expression


@dataclass(frozen=True, kw_only=True)
class UserRanges:
    """All users of one version of the events table.

    Args:
        path: Folder of the table.
        version: Its version.
        ranges: Ascending, without gap or overlap.
        num_events: Events of the table.
        num_files: Files of the table.
        read_share: How often an event is read when each range reads all files that may hold one
            of its users: 1 in a table that is sorted by user.
    """

    path: Path
    version: int
    ranges: tuple[UserRange, ...]
    num_events: int
    num_files: int
    read_share: float

    @property
    def is_scattered(self) -> bool:
        """Whether small intakes have made reading so dear that sorting the table anew pays."""
        too_many = self.num_files > MAX_FILES_PER_RANGE * len(self.ranges)
        return too_many or self.read_share > MAX_READ_SHARE

    def read(
        self, positions: Iterable[int], columns: Sequence[str], users: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Events of ranges, each sorted by user and `EVENT_ORDER`; of `users` alone if given."""
        dataset = DeltaTable(str(self.path), version=self.version).to_pyarrow_dataset()
        for position in positions:
            wanted = self.ranges[position].filter()
            if users is not None:
                wanted &= pc.field(USER_ID).isin(pa.array(users, type=pa.string()))
            yield sorted_events(dataset.to_table(columns=list(columns), filter=wanted))


def user_ranges(path: Path) -> UserRanges:
    """Cut the present version of an events table where its files begin."""
    table = DeltaTable(str(path))
    files = pa.table(table.get_add_actions(flatten=True)).to_pydict()
    spans = sorted(
        zip(files[f"min.{USER_ID}"], files[f"max.{USER_ID}"], files["num_records"], strict=True)
    )
    num_events = sum(rows for _, _, rows in spans)
    ranges = _ranges(_cuts(spans))
    read = sum(
        rows
        for first, last, rows in spans
        for one in ranges
        if (one.upper is None or first < one.upper) and (one.lower is None or last >= one.lower)
    )
    return UserRanges(
        path=path,
        version=table.version(),
        ranges=ranges,
        num_events=num_events,
        num_files=len(spans),
        read_share=read / max(num_events, 1),
    )


def sorted_events(events: pa.Table) -> pa.Table:
    """Sorted by user and `EVENT_ORDER`, ties impossible since event ids are distinct."""
    keys = [(name, "ascending", "at_start") for name in (USER_ID, *EVENT_ORDER)]
    order = pc.sort_indices(events, sort_keys=keys)
    return events.take(order)


def _cuts(spans: Sequence[tuple[str, str, int]]) -> list[str]:
    """Smallest users of files, so far apart that a range holds about `EVENTS_PER_RANGE` events."""
    cuts: list[str] = []
    held = 0
    for first, _, rows in spans:
        if held >= EVENTS_PER_RANGE / 2 and held + rows > EVENTS_PER_RANGE and first not in cuts:
            cuts.append(first)
            held = 0
        held += rows
    return cuts


def _ranges(cuts: Sequence[str]) -> tuple[UserRange, ...]:
    edges = [None, *cuts, None]
    return tuple(UserRange(lower=lower, upper=upper) for lower, upper in itertools.pairwise(edges))
