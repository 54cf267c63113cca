"""New rows against what was usual: values, numbers and nulls.

How far two distributions lie apart is measured by the population stability index; from 0.25 on it
counts as a major shift (Siddiqi 2006, "Credit Risk Scorecards").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.contracts import AMOUNT
from pipelines.quality.alarm import Alarm, Sample
from pipelines.quality.profile import BINS_PER_DECADE, MAX_VALUES, Profile, bins_of, middle_of

MAJOR_SHIFT: Final = 0.25
MIN_ROWS: Final = 100
MIN_EXPECTED: Final = 30
"""A value counts as vanished where so many rows of it were to be expected."""
NUM_GROUPS: Final = 10
MAX_SHOWN: Final = 3
_FACTORS: Final = {100: 2, 1_000: 3, 10: 1}
_MIN_SCALED_SHARE: Final = 0.02

Floats = np.ndarray[Any, np.dtype[np.float64]]


def drift(sample: Sample, new: Profile, usual: Profile, table: str) -> list[Alarm]:
    """Alarms about the values of single columns.

    Args:
        sample: New rows, for examples.
        new: Their profile.
        usual: The profile of what came before.
        table: Name of the table.
    """
    return [
        *_new_values(sample, new, usual, table),
        *_vanished_values(new, usual, table),
        *_too_many_values(new, usual, table),
        *_shifted_numbers(sample, new, usual, table),
        *_nulls(sample, new, usual, table),
    ]


def stability_index(new: Floats, usual: Floats) -> float:
    """Population stability index of counts over the same groups; empty groups count as half a row.

    Args:
        new: Counts of the new rows.
        usual: Counts of the reference.
    """
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (new, usual))
    return float(((p - q) * np.log(p / q)).sum())


def _new_values(sample: Sample, new: Profile, usual: Profile, table: str) -> Iterator[Alarm]:
    for field, counts in new.values.items():
        known = usual.values.get(field)
        if not known or usual.others[field]:
            continue
        unseen = [value for value in counts if value not in known]
        if unseen:
            shares = _shares(unseen, counts, sum(counts.values()) + new.others[field])
            yield Alarm(
                table=table,
                field=field,
                kind="new values",
                seen=f"{len(unseen)} value(s) never seen before: {shares}",
                usual=_shares(list(known), known, sum(known.values())),
                cause=_cause_of_new(unseen, known),
                example=_example_where(sample, field, pc.is_in, pa.array(unseen, pa.string())),
            )


def _shares(values: list[str], counts: Mapping[str, int], total: int) -> str:
    shown = sorted(values, key=lambda value: (-counts[value], value))
    texts = [f"'{value:.40}' {counts[value] / total:.1%}" for value in shown[:MAX_SHOWN]]
    return ", ".join(texts) + (f" and {len(shown) - MAX_SHOWN} more" if len(shown) > 3 else "")


def _cause_of_new(unseen: list[str], known: Mapping[str, int]) -> str:
    spellings = {_spelling(value): value for value in known}
    for value in unseen:
        if _spelling(value) in spellings:
            return f"Is '{value:.40}' another spelling of '{spellings[_spelling(value)]:.40}'?"
    return "Something new at the source, or a changed code? The model does not know it yet."


def _spelling(value: str) -> str:
    return "".join(letter for letter in value.casefold() if letter.isalnum())


def _vanished_values(new: Profile, usual: Profile, table: str) -> Iterator[Alarm]:
    for field, known in usual.values.items():
        counts = new.values.get(field)
        if counts is None or new.others[field]:
            continue
        num_values, total = sum(counts.values()), sum(known.values()) + usual.others[field]
        gone = [
            value
            for value, count in known.items()
            if value not in counts and count * num_values >= MIN_EXPECTED * total
        ]
        if gone:
            yield Alarm(
                table=table,
                field=field,
                kind="vanished values",
                seen=f"{len(gone)} value(s) came no more",
                usual=_shares(gone, known, total),
                cause=_cause_of_vanished(counts.keys() - known.keys()),
            )


def _cause_of_vanished(unseen: set[str]) -> str:
    if unseen:
        return "Renamed at the source? There are new values, too."
    return "No longer recorded, or a part of the export is missing?"


def _too_many_values(new: Profile, usual: Profile, table: str) -> Iterator[Alarm]:
    for field, others in new.others.items():
        if others and not usual.others.get(field):
            yield Alarm(
                table=table,
                field=field,
                kind="too many values",
                seen=f"more than {MAX_VALUES:,} distinct values",
                usual=f"{len(usual.values.get(field, {})):,}",
                cause="An identifier or free text rather than a category?",
            )


@dataclass(frozen=True, kw_only=True)
class _Bins:
    """Counts of new and usual numbers over the same consecutive bins; `first` is the lowest."""

    first: int
    new: Floats
    usual: Floats

    @classmethod
    def of(cls, new: Mapping[int, int], usual: Mapping[int, int]) -> _Bins:
        first, last = min(*new, *usual), max(*new, *usual)
        counts = [np.zeros(last - first + 1) for _ in range(2)]
        for row, given in zip(counts, (new, usual), strict=True):
            for bin_, count in given.items():
                row[bin_ - first] = count
        return cls(first=first, new=counts[0], usual=counts[1])

    def shift(self) -> float:
        """Stability index over tenths of the usual numbers, and what lies outside all of them."""
        reached = np.cumsum(self.usual) / self.usual.sum()
        group = np.ceil(np.round(reached * NUM_GROUPS, 9)).astype(int)
        filled = np.flatnonzero(self.usual)
        group[: filled[0]], group[filled[-1] + 1 :] = 0, NUM_GROUPS + 1
        new, usual = (
            np.bincount(group, counts).astype(np.float64) for counts in (self.new, self.usual)
        )
        used = (new + usual) > 0
        return stability_index(new[used], usual[used])

    def scaled_share(self, decades: int) -> tuple[float, float]:
        """Share of new numbers that are usual ones times a power of ten, and what is left unlike.

        The share is the least-squares weight of the moved distribution in a mixture with the usual.
        """
        p, q = self.new / self.new.sum(), self.usual / self.usual.sum()
        zero = np.where(np.arange(len(q)) + self.first == 0, q, 0.0)
        moved = np.roll(q - zero, decades * BINS_PER_DECADE) + zero
        away = moved - q
        length = float(away @ away)
        weight = min(max(float((p - q) @ away) / length, 0.0), 1.0) if length else 0.0
        mixture = weight * moved + (1 - weight) * q
        return weight, float(np.abs(p - mixture).sum() / max(float(np.abs(p - q).sum()), 1e-12))


def _shifted_numbers(sample: Sample, new: Profile, usual: Profile, table: str) -> Iterator[Alarm]:
    for field, counts in new.bins.items():
        known = usual.bins.get(field, {})
        if min(sum(counts.values()), sum(known.values())) < MIN_ROWS:
            continue
        bins = _Bins.of(_padded(counts), _padded(known))
        if bins.shift() < MAJOR_SHIFT:
            continue
        scaled, cause = _scale(field, bins)
        yield Alarm(
            table=table,
            field=field,
            kind="shifted numbers",
            seen=scaled + _spread(counts),
            usual=_spread(known),
            cause=cause,
            example=sample.where(_in_bin(sample.rows.column(field), _most_excessive(bins))),
        )


def _padded(counts: Mapping[int, int]) -> dict[int, int]:
    """Counts with empty bins around them, so that moving by decades wraps nothing around."""
    room = BINS_PER_DECADE * max(_FACTORS.values())
    return {min(counts) - room: 0, max(counts) + room: 0, **counts}


def _most_excessive(bins: _Bins) -> int:
    """The bin that holds most in excess of what was usual."""
    excess = bins.new / bins.new.sum() - bins.usual / bins.usual.sum()
    return bins.first + int(excess.argmax())


def _in_bin(column: pa.ChunkedArray, bin_: int) -> pa.Array:
    inside = bins_of(pc.fill_null(column, 0.0).to_numpy()) == bin_
    return pa.array(inside & column.is_valid().to_numpy())


def _scale(field: str, bins: _Bins) -> tuple[str, str]:
    """Whether a change of unit explains the shift, and the likely cause in words."""
    tried = [
        (bins.scaled_share(sign * decades), factor, sign)
        for factor, decades in _FACTORS.items()
        for sign in (1, -1)
    ]
    (share, unlike), factor, sign = min(tried, key=lambda one: one[0][1])
    if unlike > 0.5 or share < _MIN_SCALED_SHARE:
        return "", "Other prices or customers, another unit, or a part of the data missing?"
    word = "larger" if sign > 0 else "smaller"
    seen = f"about {share:.0%} of the values are {factor:,} times {word}; "
    if factor == 100 and field == AMOUNT:
        units = ("cents", "euros") if sign > 0 else ("euros", "cents")
        return seen, f"{units[0].capitalize()} instead of {units[1]}?"
    return seen, "Another unit, or a moved decimal point?"


def _spread(counts: Mapping[int, int]) -> str:
    bins = np.array(sorted(counts))
    reached = np.cumsum([counts[bin_] for bin_ in bins.tolist()])
    places = np.searchsorted(reached, np.array([0.05, 0.5, 0.95]) * reached[-1])
    low, median, high = (middle_of(int(bins[place])) for place in places)
    return f"median about {median:.3g}, 90 % between {low:.3g} and {high:.3g}"


def _nulls(sample: Sample, new: Profile, usual: Profile, table: str) -> Iterator[Alarm]:
    if min(new.num_rows, usual.num_rows) < MIN_ROWS:
        return
    for field, num in new.nulls.items():
        if field not in usual.nulls:
            continue
        cells = [
            np.array([nulls, max(profile.num_rows - nulls, 0)], dtype=np.float64)
            for profile, nulls in ((new, num), (usual, usual.nulls[field]))
        ]
        if stability_index(*cells) < MAJOR_SHIFT:
            continue
        share, before = num / new.num_rows, usual.nulls[field] / usual.num_rows
        more = share > before
        yield Alarm(
            table=table,
            field=field,
            kind="nulls",
            seen=f"empty in {share:.1%} of rows",
            usual=f"{before:.1%}",
            cause="No longer filled or renamed at the source, or other kinds of rows?"
            if more
            else "A default value instead of nothing, or other kinds of rows?",
            example=_example_where(sample, field, pc.is_null if more else pc.is_valid),
        )


def _example_where(sample: Sample, field: str, test: Any, *arguments: Any) -> str:
    if field not in sample.rows.column_names:
        return ""
    return sample.where(test(sample.rows.column(field), *arguments))
