"""A made-up shop for the benchmark: users walk round a ring of items."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_USERS, NUM_ITEMS, LENGTH = 80, 24, 8


def write_shop(folder: Path) -> tuple[Path, Path]:
    """Users walk round a ring of items, from a start of their own, in steps of one."""
    rng = np.random.default_rng(3)
    starts = rng.integers(0, NUM_ITEMS, NUM_USERS)
    items = (starts[:, None] + np.arange(LENGTH)) % NUM_ITEMS
    interactions = pa.table(
        {
            "user_id": pa.array(np.repeat(np.arange(NUM_USERS), LENGTH)),
            "item_id": pa.array([f"i{one:02d}" for one in items.ravel()]),
            "position": pa.array(np.tile(np.arange(LENGTH), NUM_USERS)),
        }
    )
    catalogue = pa.table(
        {
            "item_id": pa.array([f"i{one:02d}" for one in range(NUM_ITEMS)]),
            "text": pa.array([f"thing number {one}" for one in range(NUM_ITEMS)]),
        }
    )
    paths = folder / "interactions.parquet", folder / "items.parquet"
    for table, path in zip((interactions, catalogue), paths, strict=True):
        pq.write_table(table.take(pa.array(rng.permutation(table.num_rows))), path)
    return paths
