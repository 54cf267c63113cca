"""Broken, repeated and late order lines, planted on request and counted.

In every part of the orders, distinct rows are chosen: 1 per cent are written twice, 1 per cent
arrive late (in a file of their own), 0.3 per cent have a time that is none, 0.3 per cent have lost
their client. Of each at least one, where the part has rows enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.contracts import EVENT_ID
from pipelines.simulation.arrays import Ints, Stream, generator

DUPLICATED: Final = "duplicated"
LATE: Final = "late"
MALFORMED_TIME: Final = "malformed_time"
MISSING_CLIENT: Final = "missing_client"
DIRT_SHARES: Final = {DUPLICATED: 0.01, LATE: 0.01, MALFORMED_TIME: 0.003, MISSING_CLIENT: 0.003}
NO_TIME: Final = "2024-13-45T25:61:00Z"


@dataclass(frozen=True, kw_only=True)
class Dirty:
    """Order lines with dirt.

    Args:
        on_time: Rows of the part itself.
        late: Rows that arrive afterwards.
        truth: Which event got which kind of dirt.
        counts: How many rows got each kind.
    """

    on_time: pa.Table
    late: pa.Table
    truth: pa.Table
    counts: dict[str, int]


def soil(orders: pa.Table, seed: int, block: int) -> Dirty:
    """Plant dirt in the order lines of a block."""
    rng = generator(seed, Stream.DIRT, block)
    chosen = _choose(rng, len(orders))
    broken = _with_value(orders, "ordered_at", chosen[MALFORMED_TIME], NO_TIME)
    broken = _with_value(broken, "client", chosen[MISSING_CLIENT], None)
    stays = np.setdiff1d(np.arange(len(orders)), chosen[LATE])
    kinds = np.repeat(list(chosen), [len(rows) for rows in chosen.values()])
    numbers = orders["line_no"].take(np.concatenate(list(chosen.values())))
    return Dirty(
        on_time=broken.take(np.concatenate([stays, chosen[DUPLICATED]])),
        late=broken.take(chosen[LATE]),
        truth=pa.table({EVENT_ID: numbers.cast(pa.string()), "kind": kinds.tolist()}),
        counts={kind: len(rows) for kind, rows in chosen.items()},
    )


def _choose(rng: np.random.Generator, num_rows: int) -> dict[str, Ints]:
    rows, taken, chosen = rng.permutation(num_rows), 0, {}
    for kind, share in DIRT_SHARES.items():
        num = max(1, round(share * num_rows)) if num_rows >= len(DIRT_SHARES) else 0
        chosen[kind] = np.sort(rows[taken : taken + num])
        taken += num
    return chosen


def _with_value(table: pa.Table, column: str, rows: Ints, value: str | None) -> pa.Table:
    mask = np.zeros(len(table), dtype=bool)
    mask[rows] = True
    texts = table[column].cast(pa.string())
    changed = pc.if_else(pa.array(mask), pa.scalar(value, pa.string()), texts)
    return table.set_column(table.column_names.index(column), column, changed)
