"""Users who are no customers: staff and bots, by rule or because they behave like no one else.

An outlier is told by the robust z-score of Iglewicz and Hoaglin (1993), from medians, of each of
four habits. It takes more than their 3.5: a keen customer must not be called a bot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.contracts import FLAG, REASON, SCORE, TIMES_US, USER_FLAGS, USER_ID
from pipelines.flags import FlagsConfig

STAFF: Final = "staff"
BOT: Final = "bot"
MAX_Z: Final = 5.0
MIN_EVENTS: Final = 50
MIN_DAYS: Final = 3
MIN_USERS: Final = 20
"""With fewer users nobody can say what is usual."""
BUSIEST_DAY: Final = "busiest_day"
_MIN_DEVIATIONS: Final = {
    "events per active day": 0.2,
    "hours per active day": 0.2,
    "events per active minute": 0.2,
    "share of the most frequent gap": 0.1,
}
"""Habit -> smallest deviation that one user's habit is measured by; all but shares are logs."""
_SHARE: Final = "share of the most frequent gap"
_SECOND_US: Final = 1_000_000
_MINUTE_US: Final = 60 * _SECOND_US
_HOUR_US: Final = 60 * _MINUTE_US
_DAY_US: Final = 24 * _HOUR_US
_MAD_TO_DEVIATION: Final = 1.4826
_SCHEMA: Final = pa.schema(
    [(USER_ID, pa.string()), (FLAG, pa.string()), (REASON, pa.string()), (SCORE, pa.float64())]
)

Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def habits_of(sequences: pa.Table | pa.RecordBatch, before_us: int) -> pa.Table:
    """One row per user with an event: how often, how long and how regularly.

    Args:
        sequences: `user_id` and `times_us` of token sequences.
        before_us: Events at or after it are not looked at (UTC microseconds).
    """
    times = sequences.column(TIMES_US)
    times = times.combine_chunks() if isinstance(times, pa.ChunkedArray) else times
    values = times.flatten().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(times).to_numpy(zero_copy_only=False)
    user = np.repeat(np.arange(len(times)), lengths)
    user, at = user[values < before_us], values[values < before_us]
    num = np.bincount(user, minlength=len(times))
    days, hours, minutes = (
        _num_distinct(user, at // unit, len(times)) for unit in (_DAY_US, _HOUR_US, _MINUTE_US)
    )
    by_day = np.maximum(days, 1)
    table = pa.table(
        {
            USER_ID: sequences.column(USER_ID),
            "num_events": num,
            "num_days": days,
            BUSIEST_DAY: _longest_run(user, at // _DAY_US, len(times)),
            "events per active day": num / by_day,
            "hours per active day": hours / by_day,
            "events per active minute": num / np.maximum(minutes, 1),
            _SHARE: _gap_share(user, at, len(times)),
        }
    )
    return table.filter(pa.array(num > 0))


def user_flags(
    habits: pa.Table, config: FlagsConfig, profiles: Mapping[str, Sequence[Any]] | None = None
) -> pa.Table:
    """Rows of `user_flags`, sorted by user.

    Args:
        habits: See `habits_of`.
        config: The company's rules.
        profiles: Columns of the profiles that rules need, and `user_id`.
    """
    rows = {
        **_outliers(habits),
        **_too_busy(habits, config.bots.max_events_per_day),
        **_staff(config, profiles or {}, set(habits.column(USER_ID).to_pylist())),
    }
    flagged = [rows[key] for key in sorted(rows)]
    return pa.Table.from_pylist(flagged, schema=_SCHEMA).select(list(USER_FLAGS.column_names))


def _staff(
    config: FlagsConfig, profiles: Mapping[str, Sequence[Any]], known: Collection[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    named = dict.fromkeys(config.staff.users, "named in company.yaml")
    for field, value in config.staff.profile.items():
        for user, held in zip(profiles.get(USER_ID, ()), profiles.get(field, ()), strict=True):
            if str(held) == value:
                named.setdefault(user, f"profile {field}: {value}")
    return _rows((user, STAFF, reason, 1.0) for user, reason in named.items() if user in known)


def _too_busy(habits: pa.Table, limit: int | None) -> dict[tuple[str, str], dict[str, Any]]:
    if limit is None:
        return {}
    busy = habits.filter(pc.greater(habits.column(BUSIEST_DAY), limit))
    return _rows(
        (user, BOT, f"{num:,} events on one day, more than {limit:,}", num / limit)
        for user, num in zip(
            busy.column(USER_ID).to_pylist(), busy.column(BUSIEST_DAY).to_pylist(), strict=True
        )
    )


def _outliers(habits: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    enough = pc.and_(
        pc.greater_equal(habits.column("num_events"), MIN_EVENTS),
        pc.greater_equal(habits.column("num_days"), MIN_DAYS),
    )
    judged = habits.filter(enough)
    if judged.num_rows < MIN_USERS:
        return {}
    names = list(_MIN_DEVIATIONS)
    scores = np.stack([_z_scores(judged, name) for name in names])
    users = judged.column(USER_ID).to_pylist()
    found = np.flatnonzero(scores.max(axis=0) > MAX_Z)
    return _rows(
        (users[i], BOT, _reason(judged, names[scores[:, i].argmax()], i), scores[:, i].max())
        for i in found.tolist()
    )


def _z_scores(habits: pa.Table, name: str) -> Floats:
    values = habits.column(name).to_numpy()
    values = values if name == _SHARE else np.log(values)
    away = values - np.median(values)
    deviation = _MAD_TO_DEVIATION * np.median(np.abs(away))
    return np.asarray(away / max(deviation, _MIN_DEVIATIONS[name]))


def _reason(habits: pa.Table, name: str, row: int) -> str:
    values = habits.column(name).to_numpy()
    return f"{name} {values[row]:.3g}, usual {np.median(values):.3g}"


def _rows(
    found: Iterable[tuple[str, str, str, float]],
) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (user, flag): dict(zip(_SCHEMA.names, (user, flag, reason, float(score)), strict=True))
        for user, flag, reason, score in found
    }


def _num_distinct(user: Ints, value: Ints, num_users: int) -> Ints:
    """Distinct values of each user; equal ones stand together."""
    return np.bincount(user[_run_starts(user, value)], minlength=num_users)


def _longest_run(user: Ints, value: Ints, num_users: int) -> Ints:
    """Length of each user's longest run of equal values; 0 without a value."""
    starts = np.flatnonzero(_run_starts(user, value))
    longest = np.zeros(num_users, dtype=np.int64)
    np.maximum.at(longest, user[starts], np.diff(np.append(starts, len(user))))
    return longest


def _run_starts(user: Ints, value: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
    changed = (np.diff(user) != 0) | (np.diff(value) != 0)
    return np.concatenate([np.ones(min(len(user), 1), dtype=bool), changed])


def _gap_share(user: Ints, at: Ints, num_users: int) -> Floats:
    """Share of each user's most frequent gap, in whole seconds, among all gaps."""
    inside = np.diff(user) == 0
    owner, gap = user[1:][inside], np.diff(at)[inside] // _SECOND_US
    order = np.lexsort((gap, owner))
    most = _longest_run(owner[order], gap[order], num_users)
    return np.asarray(most / np.maximum(np.bincount(owner, minlength=num_users), 1))
