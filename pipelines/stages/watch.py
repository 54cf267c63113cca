"""What an intake added, profiled and held against the profile of all intakes before it.

Each source table is held against its own past: a shift in a small one would be lost in a large one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.contracts import (
    CONTENT_HASH,
    EVENT_TIME,
    EVENTS,
    SOURCE_TABLE,
    TableContract,
)
from pipelines.quality.alarm import Alarm, Sample
from pipelines.quality.drift import MIN_EXPECTED, drift
from pipelines.quality.profile import Profile, hour_of, profile_of
from pipelines.quality.rhythm import rhythm
from pipelines.stages.changes import UNREADABLE, inserted_since
from pipelines.workspace import Workspace

MAX_SAMPLE: Final = 200_000
"""So many rows of a table are looked at; of more, one of two or more is."""
PROFILES: Final = "intake_profiles"
_US_PER_HOUR: Final = 3_600_000_000
_ROWS_AT_ONCE: Final = 2_000_000
_NONE: Final = np.empty(0, dtype=np.int64)


def profile_path(workspace: Workspace, table: str) -> Path:
    """The profile of all events that were taken in from a source table; it outlives the page of
    any one intake."""
    return workspace.root / PROFILES / f"{table}.json"


def watch_new_events(
    workspace: Workspace,
    contract: TableContract,
    *,
    tables: Sequence[str],
    after_version: int,
    num_rows: int,
    now: datetime,
) -> list[Alarm]:
    """Compare the events that an intake added with those before, and remember them as usual.

    The first intake of a table has nothing to be compared with. Of a table that brings nothing
    while others do less is expected each time.

    Args:
        workspace: Holds the events and the profiles.
        contract: Contract of the stored events.
        tables: The source tables that the intake read.
        after_version: Version of the events table before the intake; -1 without one.
        num_rows: How many events it added.
        now: Later events cannot have happened.
    """
    if not num_rows:
        return []
    events = workspace.table(EVENTS.name)
    try:
        counts = _counts(events, after_version, tables, num_rows)
        added = _added(events, after_version, contract, counts)
    except UNREADABLE as error:  # the rows are stored: the line goes on
        return [_unseen(error)]
    usual = {name: Profile.load(profile_path(workspace, name)) for name in tables}
    alarms = _stopped(counts, usual)
    for name, one in added.items():
        new, known = profile_of(one.rows, contract, one.hours, one.weight), usual[name]
        happened = replace(new, hours={h: n for h, n in new.hours.items() if h <= hour_of(now)})
        (known.faded_into(happened) if known else happened).save(profile_path(workspace, name))
        if known is not None:
            sample = Sample.of(one.rows, contract)
            alarms += drift(sample, new, known, name)
            alarms += rhythm(sample, new, known, name, now)
    for name, known in usual.items():
        if known is not None and name not in added:
            known.absent().save(profile_path(workspace, name))
    return alarms


def _unseen(error: Exception) -> Alarm:
    return Alarm(
        table=EVENTS.name,
        field=EVENT_TIME,
        kind="not compared",
        seen=f"the new rows could not be read back ({str(error).splitlines()[0]:.200})",
        usual="Delta keeps the changes of this table",
        cause="Was its change data feed switched off by hand?",
    )


def _stopped(counts: Mapping[str, int], usual: Mapping[str, Profile | None]) -> list[Alarm]:
    """Tables without any new event, where other tables' new events let some be expected."""
    known = {name: one.num_expected for name, one in usual.items() if one is not None}
    share = sum(counts.get(name, 0) for name in known) / max(sum(known.values()), 1)
    return [
        Alarm(
            table=name,
            field=SOURCE_TABLE,
            kind="vanished values",
            seen="no new event",
            usual=f"about {share * num_rows:,.0f} beside as many of the other tables",
            cause="Does the source still deliver?",
        )
        for name, num_rows in known.items()
        if not counts.get(name) and share * num_rows >= MIN_EXPECTED
    ]


def _counts(events: Path, version: int, tables: Sequence[str], num_rows: int) -> dict[str, int]:
    """How many events came from each table that brought any; one table brought all."""
    if len(tables) == 1:
        return {tables[0]: num_rows}
    counts = Counter[str]()
    for rows in inserted_since(events, version, [SOURCE_TABLE]):
        found = pc.value_counts(rows.column(SOURCE_TABLE)).to_pylist()
        counts.update({row["values"]: row["counts"] for row in found})
    return {name: counts[name] for name in tables if counts[name]}


@dataclass(frozen=True, eq=False, kw_only=True)
class _Added:
    """The new events of one table.

    Args:
        rows: One of `weight` of them, chosen by the hash of its content.
        weight: How many events a row stands for.
        hours: All events by hour since 1970-01-01 UTC.
    """

    rows: pa.Table
    weight: int
    hours: dict[int, int]


def _added(
    events: Path, version: int, contract: TableContract, counts: Mapping[str, int]
) -> dict[str, _Added]:
    columns = list(contract.column_names)
    read = list(dict.fromkeys([*columns, CONTENT_HASH]))
    weights = {name: math.ceil(count / MAX_SAMPLE) for name, count in counts.items()}
    chosen: dict[str, list[pa.Table]] = {name: [] for name in counts}
    hours = {name: _Hours() for name in counts}
    for rows in inserted_since(events, version, read):
        for name, weight in weights.items():
            theirs = rows
            if len(counts) > 1:
                theirs = rows.filter(pc.equal(rows.column(SOURCE_TABLE), name))
            hashes = theirs.column(CONTENT_HASH).to_numpy()
            chosen[name].append(theirs.filter(pa.array(hashes % weight == 0)).select(columns))
            hours[name].add(theirs.column(EVENT_TIME).cast(pa.int64()).to_numpy())
    return {
        name: _Added(rows=pa.concat_tables(chosen[name]), weight=weight, hours=hours[name].counts())
        for name, weight in weights.items()
    }


class _Hours:
    """Counts rows by hour, many batches at once: a batch of some users spans all hours."""

    def __init__(self) -> None:
        self._waiting: list[npt.NDArray[np.int64]] = []
        self._counts = Counter[int]()

    def add(self, times_us: npt.NDArray[np.int64]) -> None:
        """Count rows by their times."""
        self._waiting.append(times_us // _US_PER_HOUR)
        if sum(map(len, self._waiting)) >= _ROWS_AT_ONCE:
            self._count()

    def counts(self) -> dict[int, int]:
        """Rows by hour since 1970-01-01 UTC, ascending."""
        self._count()
        return dict(sorted(self._counts.items()))

    def _count(self) -> None:
        found, counts = np.unique(np.concatenate([_NONE, *self._waiting]), return_counts=True)
        self._counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        self._waiting = []
