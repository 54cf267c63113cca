"""Which users an intake touched: read from the changes that Delta keeps of the events table.

Changes of a day are few, so this process reads them, a batch of rows at a time and without Spark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipelines.contracts import EVENT_TIME, USER_ID
from pipelines.erasure import without_users

UNREADABLE: Final = (DeltaError, pa.ArrowException, OSError)
"""What reading changes raises when Delta holds them no more (after a vacuum, say)."""
_CHANGE: Final = "_change_type"
_INSERT: Final = "insert"
_OTHERWISE: Final = "otherwise"


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What became of events between two versions of their table.

    Args:
        user_ids: Users with an event that was added, corrected or deleted, sorted.
        num_before: How many of these events lie before each of the times asked about.
        users_before: The users of these events, for each of the times.
        added_alone: Users of whose events none was corrected or deleted.
    """

    user_ids: list[str]
    num_before: tuple[int, ...]
    users_before: tuple[list[str], ...]
    added_alone: list[str]

    @classmethod
    def none(cls, num_times: int) -> Changes:
        """No change before any of so many times."""
        return cls(
            user_ids=[],
            num_before=(0,) * num_times,
            users_before=([],) * num_times,
            added_alone=[],
        )

    def followed_by(self, later: Changes) -> Changes:
        """These changes, which Delta holds no more, and later ones that it holds."""
        known = set(self.user_ids)
        return Changes(
            user_ids=sorted(known.union(later.user_ids)),
            num_before=tuple(map(sum, zip(self.num_before, later.num_before, strict=True))),
            users_before=tuple(
                sorted({*first, *second})
                for first, second in zip(self.users_before, later.users_before, strict=True)
            ),
            added_alone=[user for user in later.added_alone if user not in known],
        )

    def with_users(self, user_ids: Iterable[str]) -> Changes:
        """Also users whose events stayed as they are and must be read again."""
        others = {*user_ids}
        return replace(
            self,
            user_ids=sorted(others.union(self.user_ids)),
            added_alone=[user for user in self.added_alone if user not in others],
        )

    def carried_for(self, user_ids: Set[str]) -> Changes:
        """What is left to know of these users when Delta holds the changes no more: the added
        events can not be read from them."""
        return replace(
            self,
            user_ids=[user for user in self.user_ids if user in user_ids],
            users_before=tuple(
                [user for user in users if user in user_ids] for users in self.users_before
            ),
            added_alone=[],
        )


def changes_since(
    events: Path, version: int, times: Sequence[datetime], erased: frozenset[str] = frozenset()
) -> Changes | None:
    """Changes after a version; None when Delta no longer holds them (after a vacuum, say).

    Args:
        events: Folder of the events table.
        version: The last version whose events are known.
        times: Changes before each of them are counted.
        erased: Digests of users who are left out.
    """
    counts = [f"before_{number}" for number in range(len(times))]
    parts = []
    try:
        if version == DeltaTable(str(events)).version():
            return Changes.none(len(times))
        for rows in _changed(events, version, [USER_ID, EVENT_TIME, _CHANGE]):
            marks = [pc.less(rows.column(EVENT_TIME), pa.scalar(time)) for time in times]
            marks.append(pc.not_equal(rows.column(_CHANGE), _INSERT))
            columns = [rows.column(USER_ID), *(one.cast(pa.int64()) for one in marks)]
            parts.append(_summed(pa.table(columns, names=[USER_ID, *counts, _OTHERWISE])))
    except UNREADABLE:
        return None
    if not parts:
        return Changes.none(len(times))
    found = without_users(_summed(pa.concat_tables(parts)).sort_by(USER_ID), erased)
    users = found.column(USER_ID)
    return Changes(
        user_ids=users.to_pylist(),
        num_before=tuple(pc.sum(found.column(name), min_count=0).as_py() for name in counts),
        users_before=tuple(
            users.filter(pc.greater(found.column(name), 0)).to_pylist() for name in counts
        ),
        added_alone=users.filter(pc.equal(found.column(_OTHERWISE), 0)).to_pylist(),
    )


def inserted_since(events: Path, version: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of the events that were inserted after a version, a batch of rows at a time.

    Raises:
        UNREADABLE: Delta does not hold the changes.
    """
    for rows in _changed(events, version, [*columns, _CHANGE]):
        inserted = pc.equal(rows.column(_CHANGE), _INSERT)
        yield rows.filter(inserted).select(list(columns))


def _changed(events: Path, version: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    reader = DeltaTable(str(events)).load_cdf(starting_version=version + 1, columns=list(columns))
    for batch in pa.RecordBatchReader.from_stream(reader):
        rows = pa.table(batch)
        yield rows.cast(pa.schema([(f.name, _plain(f.type)) for f in rows.schema]))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Texts come as views, which not all functions of Arrow take."""
    return pa.string() if pa.types.is_string_view(kind) else kind


def _summed(rows: pa.Table) -> pa.Table:
    names = [name for name in rows.column_names if name != USER_ID]
    sums = rows.group_by(USER_ID).aggregate([(name, "sum") for name in names])
    return sums.rename_columns({f"{name}_sum": name for name in names})
