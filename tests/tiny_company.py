"""A made-up company of a few users, written as raw files with its `company.yaml`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import yaml

Rows = list[dict[str, Any]]

NUM_USERS = 6
NUM_ITEMS = 12
FIRST_DAY = np.datetime64("2024-01-01T00:00:00", "us")


def events_table(**changes: Any) -> dict[str, Any]:
    """The description of an events table with all that the tests use."""
    return {
        "name": "orders",
        "into": "events",
        "source": {"format": "parquet", "path": "orders.parquet"},
        "time_zone": "UTC",
        "columns": {
            "event_id": "id",
            "user_id": "customer",
            "event_time": "time",
            "event_type": "kind",
            "item_id": "item",
            "quantity": "pieces",
            "amount": "paid",
            "session_id": "basket",
        },
        "fields": {"store": {"type": "categorical"}, "discount": {"type": "number"}},
        **changes,
    }


def catalogue_table(**changes: Any) -> dict[str, Any]:
    """The description of a catalogue table."""
    return {
        "name": "products",
        "into": "catalogue",
        "source": {"format": "parquet", "path": "products.parquet"},
        "columns": {"item_id": "item", "title": "name", "category": "group"},
        **changes,
    }


def order(number: int, **changes: Any) -> dict[str, Any]:
    """One raw order."""
    return {
        "id": f"o{number}",
        "customer": f"u{number % NUM_USERS}",
        "time": FIRST_DAY + np.timedelta64(7 * number, "h"),
        "kind": "purchase",
        "item": number % NUM_ITEMS,
        "pieces": 1 + number % 3,
        "paid": 0.5 * (number % 7),
        "basket": f"b{number // 2}",
        "store": ["north", "south"][number % 2],
        "discount": None if number % 5 else 0.25,
        **changes,
    }


def orders(num: int) -> Rows:
    """Raw orders over time; two in three hours, so that baskets have two."""
    return [order(i) for i in range(num)]


def products() -> Rows:
    """Raw products, one of them never sold."""
    return [
        {"item": i, "name": f"Thing {i}", "group": ["food", "tools", None][i % 3]}
        for i in range(NUM_ITEMS + 1)
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows by the file's suffix; times have no zone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, default=str) for row in rows), encoding="utf-8")
        return
    names = list(rows[0])
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)


def write_company(
    folder: Path,
    *tables: Mapping[str, Any],
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    **top: Any,
) -> Path:
    """Write raw files and the `company.yaml` that describes them; gives the path of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write_rows(folder / name, rows)
    path = folder / "company.yaml"
    text = yaml.safe_dump({"name": "tiny-company", "tables": list(tables), **top}, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


def write_tiny_company(folder: Path, num_orders: int = 120) -> Path:
    """Orders and products of a small healthy company."""
    return write_company(
        folder,
        events_table(),
        catalogue_table(),
        files={"orders.parquet": orders(num_orders), "products.parquet": products()},
    )
