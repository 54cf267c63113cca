"""A made-up shop for the benchmark: users walk round a ring of items."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.recipe import benchmark_recipe
from behavior_model.recipes import Recipe

NUM_USERS, NUM_ITEMS, LENGTH = 80, 24, 8


def write_shop(folder: Path, *, with_times: bool = False) -> tuple[Path, Path]:
    """Users walk round a ring of items, from a start of their own, in steps of one.

    With times, users set out at times 0 to 19, as many at each, and step at every time after.
    """
    rng = np.random.default_rng(3)
    starts = rng.integers(0, NUM_ITEMS, NUM_USERS)
    items = (starts[:, None] + np.arange(LENGTH)) % NUM_ITEMS
    positions = np.tile(np.arange(LENGTH), NUM_USERS)
    users = np.repeat(np.arange(NUM_USERS), LENGTH)
    order = {"event_time": users % 20 + positions} if with_times else {"position": positions}
    interactions = pa.table(
        {
            "user_id": pa.array(users),
            "item_id": pa.array([f"i{one:02d}" for one in items.ravel()]),
            **{name: pa.array(values) for name, values in order.items()},
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


def ring_recipe(full: Interactions, size: str = "tiny", epochs: int = 30) -> Recipe:
    """The benchmark's recipe, shrunk to the shop."""
    recipe = benchmark_recipe(size, full, budget_minutes=1, bfloat16=False, epochs=epochs)
    model = replace(recipe.model, width=32, num_heads=2, dropout=0.1, input_dropout=0.1)
    training = replace(
        recipe.training, batch_tokens=256, num_negatives=64, learning_rate=3e-3, num_threads=1
    )
    return replace(recipe, model=replace(model, max_descriptors=0), training=training)
