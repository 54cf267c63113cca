"""What an intake added, profiled and held against the profile of all intakes before it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.contracts import CONTENT_HASH, EVENT_TIME, EVENTS, TableContract
from pipelines.quality.alarm import Alarm, Sample
from pipelines.quality.drift import drift
from pipelines.quality.profile import Profile, hour_of, profile_of
from pipelines.quality.rhythm import rhythm
from pipelines.stages.changes import UNREADABLE, inserted_since
from pipelines.workspace import Workspace

MAX_SAMPLE: Final = 200_000
PROFILE_FILE: Final = "intake_profile.json"
_US_PER_HOUR: Final = 3_600_000_000
_ROWS_AT_ONCE: Final = 2_000_000
_NONE: Final = np.empty(0, dtype=np.int64)


def profile_path(workspace: Workspace) -> Path:
    """The profile of all events that were taken in; it outlives the page of any one intake."""
    return workspace.root / PROFILE_FILE


def watch_new_events(
    workspace: Workspace,
    contract: TableContract,
    *,
    after_version: int,
    num_rows: int,
    now: datetime,
) -> list[Alarm]:
    """Compare the events that an intake added with those before, and remember them as usual.

    The first intake has nothing to be compared with.

    Args:
        workspace: Holds the events and the profile.
        contract: Contract of the stored events.
        after_version: Version of the events table before the intake; -1 without one.
        num_rows: How many events it added.
        now: Later events cannot have happened.
    """
    if not num_rows:
        return []
    weight = math.ceil(num_rows / MAX_SAMPLE)
    try:
        taken, hours = _taken(workspace.table(EVENTS.name), after_version, contract, weight)
    except UNREADABLE as error:  # the rows are stored: the line goes on
        return [_unseen(error)]
    new = profile_of(taken, contract, hours, weight)
    usual = Profile.load(profile_path(workspace))
    happened = replace(new, hours={h: n for h, n in new.hours.items() if h <= hour_of(now)})
    (usual.faded_into(happened) if usual else happened).save(profile_path(workspace))
    if usual is None:
        return []
    sample = Sample.of(taken, contract)
    return [
        *drift(sample, new, usual, EVENTS.name),
        *rhythm(sample, new, usual, EVENTS.name, now),
    ]


def _unseen(error: Exception) -> Alarm:
    return Alarm(
        table=EVENTS.name,
        field=EVENT_TIME,
        kind="not compared",
        seen=f"the new rows could not be read back ({str(error).splitlines()[0]:.200})",
        usual="Delta keeps the changes of this table",
        cause="Was its change data feed switched off by hand?",
    )


def _taken(
    events: Path, version: int, contract: TableContract, weight: int
) -> tuple[pa.Table, dict[int, int]]:
    """One of `weight` new rows, chosen by the hash of its content, and all rows by hour."""
    columns = list(contract.column_names)
    read = list(dict.fromkeys([*columns, CONTENT_HASH]))
    chosen, hours = [], _Hours()
    for rows in inserted_since(events, version, read):
        hashes = rows.column(CONTENT_HASH).to_numpy()
        chosen.append(rows.filter(pa.array(hashes % weight == 0)).select(columns))
        hours.add(rows.column(EVENT_TIME).cast(pa.int64()).to_numpy())
    return pa.concat_tables(chosen), hours.counts()


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
