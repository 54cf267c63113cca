"""When new events happened against what was usual: volume, silence and clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from statistics import median
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from pipelines.contracts import EVENT_TIME
from pipelines.quality.alarm import Alarm, Sample
from pipelines.quality.profile import Profile, hour_of, moment_of

MAX_Z: Final = 3.5
"""Robust z-score from which on a day is an outlier (Iglewicz and Hoaglin 1993)."""
MIN_VOLUME_RATIO: Final = 2.0
MIN_PEERS: Final = 7
MIN_SILENT_HOURS: Final = 3
BUSY_SHARE: Final = 0.95
MIN_EVENTS: Final = 200
MIN_CLOCK_HOURS: Final = 20
MIN_CLOCK_DISTANCE: Final = 0.15
_MAD_TO_DEVIATION: Final = 1.4826
_DAY: Final = 24
_WEEK: Final = 7 * _DAY

Hours = Mapping[int, int]


def rhythm(sample: Sample, new: Profile, usual: Profile, table: str, now: datetime) -> list[Alarm]:
    """Alarms about the times of events.

    Args:
        sample: New rows, for examples.
        new: Their profile.
        usual: The profile of what came before.
        table: Name of the table.
        now: Later events cannot have happened.
    """
    past = {hour: count for hour, count in new.hours.items() if hour <= hour_of(now)}
    alarms = [*_future(sample, new.hours, past, table, now)]
    if past and usual.hours:
        alarms += _volume(past, usual.hours, table)
        alarms += _silence(past, usual.hours, table)
        alarms += _clock(past, usual.hours, table)
    return alarms


def _future(
    sample: Sample, hours: Hours, past: Hours, table: str, now: datetime
) -> Iterator[Alarm]:
    total = sum(hours.values())
    num = total - sum(past.values())
    if num:
        yield Alarm(
            table=table,
            field=EVENT_TIME,
            kind="future",
            seen=f"{num:,} events ({num / total:.1%}) lie in the future",
            usual=f"none after {now:%Y-%m-%d %H:%M} UTC",
            cause="A wrong clock or time zone, or day and month swapped?",
            example=sample.where(pc.greater(sample.rows.column(EVENT_TIME), now)),
        )


def _volume(new: Hours, usual: Hours, table: str) -> Iterator[Alarm]:
    """Days with far more or fewer events than the same weekday, or than all days, had before."""
    before, total = _by_day(usual), _by_day(Counter(usual) + Counter(new))
    first, last = min(before), max(before)
    odd: dict[int, tuple[int, float]] = {}
    for day in sorted(_by_day(new)):
        peers = [before.get(one, 0) for one in range(first + 1, last) if (day - one) % 7 == 0]
        if len(peers) < MIN_PEERS:
            peers = [before.get(one, 0) for one in range(first + 1, last)]
        is_whole = last <= day < max(_by_day(new))
        if len(peers) >= MIN_PEERS and _is_outlier(total[day], peers, low_counts=is_whole):
            odd[day] = (total[day], median(peers))
    if odd:
        day, (num, middle) = max(odd.items(), key=lambda one: abs(np.log(one[1][0] / one[1][1])))
        yield Alarm(
            table=table,
            field=EVENT_TIME,
            kind="volume",
            seen=f"{num:,} events on {moment_of(day * _DAY):%Y-%m-%d}"
            + (f", and {len(odd) - 1} more such day(s)" if len(odd) > 1 else ""),
            usual=f"about {middle:,.0f} a day",
            cause="Rows delivered twice under new ids, or an event of the trade?"
            if num > middle
            else "A part of the export missing, or a holiday?",
        )


def _is_outlier(num: int, peers: list[int], *, low_counts: bool) -> bool:
    middle = median(peers)
    if not middle or (num < middle and not low_counts):
        return False
    deviation = _MAD_TO_DEVIATION * median(abs(peer - middle) for peer in peers)
    z = (num - middle) / max(deviation, middle**0.5)
    ratio = max(num / middle, middle / num)
    return abs(z) > MAX_Z and ratio >= MIN_VOLUME_RATIO


def _by_day(hours: Hours) -> Counter[int]:
    days: Counter[int] = Counter()
    for hour, count in hours.items():
        days[hour // _DAY] += count
    return days


def _silence(new: Hours, usual: Hours, table: str) -> Iterator[Alarm]:
    """Hours without events, after what was known before, that nearly always had some."""
    period = _WEEK if max(usual) - min(usual) >= 4 * _WEEK else _DAY
    if max(usual) - min(usual) < 7 * _DAY:
        return
    busy, runs = _busy(usual, period), []
    begun = None
    for hour in range(max(usual) + 1, max(new) + 1):
        if hour in new:
            begun = None
        elif hour % period in busy:
            begun = hour if begun is None else begun
            runs.append((begun, hour + 1))
    lengths = {begin: end - begin for begin, end in runs}
    gaps = {begin: length for begin, length in lengths.items() if length >= MIN_SILENT_HOURS}
    if gaps:
        begin, length = max(gaps.items(), key=lambda one: one[1])
        expected = sum(busy.get((begin + i) % period, 0.0) for i in range(length))
        yield Alarm(
            table=table,
            field=EVENT_TIME,
            kind="silence",
            seen=f"no event from {moment_of(begin):%Y-%m-%d %H:00} for {length} hours (UTC)"
            + (f", and {len(gaps) - 1} more such gap(s)" if len(gaps) > 1 else ""),
            usual=f"about {expected:,.0f} events in these hours",
            cause="Was the source down, or is its export incomplete?",
        )


def _busy(usual: Hours, period: int) -> dict[int, float]:
    """Mean number of events in hours of the period that nearly always have some."""
    span = np.arange(min(usual), max(usual) + 1)
    counts = np.array([usual.get(hour, 0) for hour in span.tolist()])
    seen = np.bincount(span % period, minlength=period)
    filled = np.bincount(span % period, counts > 0, minlength=period)
    totals = np.bincount(span % period, counts, minlength=period)
    often = np.flatnonzero(filled >= BUSY_SHARE * seen)
    return {hour: float(totals[hour] / seen[hour]) for hour in often.tolist()}


def _clock(new: Hours, usual: Hours, table: str) -> Iterator[Alarm]:
    """Whether the new hours of day are the usual ones, moved by whole hours."""
    enough = min(sum(new.values()), sum(usual.values())) >= MIN_EVENTS
    if not enough or min(max(one) - min(one) for one in (new, usual)) < MIN_CLOCK_HOURS:
        return
    fresh, known = _hours_of_day(new), _hours_of_day(usual)
    moves = list(range(-11, 13))
    distances = {by: float(np.abs(fresh - np.roll(known, by)).sum() / 2) for by in moves}
    best = min(moves, key=lambda by: (distances[by], abs(by)))
    if distances[0] >= MIN_CLOCK_DISTANCE and distances[best] <= distances[0] / 2:
        yield Alarm(
            table=table,
            field=EVENT_TIME,
            kind="clock",
            seen=f"the hours of the day lie {abs(best)} h {'later' if best > 0 else 'earlier'}",
            usual=f"most events at {int(known.argmax())}:00 UTC, now at {int(fresh.argmax())}:00",
            cause="Is the time_zone of the source right, or did its clock change?",
        )


def _hours_of_day(hours: Hours) -> np.ndarray[Any, Any]:
    """Share of each hour of the day, as if every one was covered equally often."""
    span = np.arange(min(hours), max(hours) + 1)
    counts = np.array([hours.get(hour, 0) for hour in span.tolist()])
    covered = np.maximum(np.bincount(span % _DAY, minlength=_DAY), 1)
    rates = np.bincount(span % _DAY, counts, minlength=_DAY) / covered
    return np.asarray(rates / rates.sum())
