"""What rows look like, in counts small enough to keep: the reference for the next intake.

Numbers fall into bins of equal ratio, as in DDSketch (Masson et al. 2019): the edges depend on no
data, so that profiles add up, and a change of unit moves every count by the same number of bins.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.contracts import SemanticType, TableContract
from pipelines.workspace import write_json_atomically

MAX_VALUES: Final = 1_000
BINS_PER_DECADE: Final = 20
KEPT_HOURS: Final = 13 * 7 * 24
FADING: Final = 0.9
"""What is left of the older counts when an intake joins them: what was usual may change."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)
_MAX_DECADE: Final = 20
_ONE: Final = _MAX_DECADE * BINS_PER_DECADE + 1


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Counts over the rows of a table.

    Args:
        num_rows: Number of rows.
        nulls: Rows without a value, by column.
        values: Rows by value, the most frequent `MAX_VALUES` of each categorical column.
        others: Rows with a value beyond those, by column.
        bins: Rows by bin (see `bins_of`), for each column of numbers.
        hours: Rows by hour since 1970-01-01 UTC.
        num_absent: Intakes since then that brought no row.
    """

    num_rows: int
    nulls: dict[str, int]
    values: dict[str, dict[str, int]]
    others: dict[str, int]
    bins: dict[str, dict[int, int]]
    hours: dict[int, int] = field(default_factory=dict)
    num_absent: int = 0

    def faded_into(self, newer: Profile) -> Profile:
        """This profile, faded, and a newer one together."""
        columns = newer.values.keys() | self.values.keys()
        joined = {name: _joined(self.values, newer.values, name) for name in columns}
        capped = {name: _capped(counts) for name, counts in joined.items()}
        hours = Counter(self.hours) + Counter(newer.hours)
        return Profile(
            num_rows=round(self.num_rows * FADING) + newer.num_rows,
            nulls={
                name: round(self.nulls.get(name, self.num_rows) * FADING) + count
                for name, count in newer.nulls.items()
            },
            values={name: counts for name, (counts, _) in capped.items()},
            others={
                name: round(self.others.get(name, 0) * FADING) + newer.others.get(name, 0) + cut
                for name, (_, cut) in capped.items()
            },
            bins={
                name: dict(_joined(self.bins, newer.bins, name))
                for name in newer.bins.keys() | self.bins.keys()
            },
            hours={hour: hours[hour] for hour in sorted(hours)[-KEPT_HOURS:]},
        )

    @property
    def num_expected(self) -> float:
        """Rows that are still usual, less with each intake that brought none."""
        return self.num_rows * FADING**self.num_absent

    def absent(self) -> Profile:
        """This profile after an intake that brought no row."""
        return replace(self, num_absent=self.num_absent + 1)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json_atomically(path, json.loads(json.dumps(asdict(self))))

    @classmethod
    def load(cls, path: Path) -> Profile | None:
        """The profile in a file; None when there is none."""
        if not path.is_file():
            return None
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        bins = {name: _numbered(counts) for name, counts in row["bins"].items()}
        return cls(**{**row, "bins": bins, "hours": _numbered(row["hours"])})


def profile_of(
    rows: pa.Table, contract: TableContract, hours: Mapping[int, int], weight: int = 1
) -> Profile:
    """Count rows.

    Args:
        rows: Rows of the contract, or a sample of them.
        contract: Columns of categories and numbers are told by their meaning.
        hours: Rows by hour since 1970-01-01 UTC, of all rows.
        weight: Number of rows that each row of the sample stands for.
    """
    by_meaning: dict[SemanticType | None, list[str]] = {}
    for column in contract.columns:
        by_meaning.setdefault(column.semantic, []).append(column.name)
    categories = by_meaning.get(SemanticType.CATEGORICAL, [])
    counted = {name: _capped(_value_counts(rows.column(name), weight)) for name in categories}
    known = [c.name for c in contract.columns if c.name in rows.column_names]
    return Profile(
        num_rows=rows.num_rows * weight,
        nulls={name: rows.column(name).null_count * weight for name in known},
        values={name: counts for name, (counts, _) in counted.items()},
        others={name: cut for name, (_, cut) in counted.items()},
        bins={
            name: _bin_counts(rows.column(name), weight)
            for name in by_meaning.get(SemanticType.NUMBER, [])
        },
        hours=dict(hours),
    )


def bins_of(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bins of numbers, in the numbers' order: 0 for 0, negative for negative ones."""
    size = np.abs(numbers)
    exponent = np.log10(np.where(size > 0, size, 1.0))
    bound = _MAX_DECADE * BINS_PER_DECADE
    place = np.clip(np.floor(exponent * BINS_PER_DECADE + 1e-9), -bound, bound) + _ONE
    return np.asarray(np.where(size > 0, np.sign(numbers) * place, 0)).astype(np.int64)


def middle_of(bin_: int) -> float:
    """A number in the middle of a bin."""
    if bin_ == 0:
        return 0.0
    return float(np.sign(bin_) * 10 ** ((abs(bin_) - _ONE + 0.5) / BINS_PER_DECADE))


def hour_of(moment: datetime) -> int:
    """Number of the hour since 1970-01-01 UTC."""
    return (moment - _EPOCH) // _HOUR


def moment_of(hour: int) -> datetime:
    """When an hour begins."""
    return _EPOCH + hour * _HOUR


def _value_counts(column: pa.ChunkedArray, weight: int) -> Counter[str]:
    found = pc.value_counts(column.drop_null()).to_pylist()
    return Counter({row["values"]: row["counts"] * weight for row in found})


def _bin_counts(column: pa.ChunkedArray, weight: int) -> dict[int, int]:
    bins, counts = np.unique(bins_of(column.drop_null().to_numpy()), return_counts=True)
    return dict(zip(bins.tolist(), (counts * weight).tolist(), strict=True))


def _capped(counts: Counter[str]) -> tuple[dict[str, int], int]:
    kept = sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:MAX_VALUES]
    return dict(kept), counts.total() - sum(count for _, count in kept)


def _joined(old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> Counter[Any]:
    """Counts of a column together; what has faded to nothing is forgotten."""
    faded = {key: round(count * FADING) for key, count in old.get(name, {}).items()}
    return Counter(faded) + Counter(new.get(name, {}))


def _numbered(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(key): count for key, count in counts.items()}
