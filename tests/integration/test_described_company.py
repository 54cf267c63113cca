"""A company of several tables, markets and currencies, taken in by its description alone."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import lake
from pipelines.company import load_company
from pipelines.contracts import CONTENT_HASH, EVENTS, SOURCE_TABLE
from pipelines.stages.ingest import ingest
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

DESCRIPTION = """
name: two-markets
lookups:
  - {name: stores, source: {format: csv, path: stores.csv}}
tables:
  - name: orders
    into: events
    source: {format: csv, path: orders.csv, options: {delimiter: ";"}}
    negative_quantity: return_event
    columns:
      event_id: {concat: [order, line], separator: "/"}
      user_id: customer
      event_time: {parse: {column: when, format: "dd.MM.yyyy HH:mm", time_zone: Europe/Berlin}}
      event_type: {column: status, values: {paid: purchase, cancelled: cancellation}}
      item_id: item
      quantity: pieces
      amount:
        product: [price, {lookup: {table: stores, key: store, equals: number, column: euros}}]
      session_id: order
      channel: {constant: store}
      market: {lookup: {table: stores, key: store, equals: number, column: market}}
    fields:
      city: {type: categorical, from: {lookup: {table: stores, key: store, equals: number,
                                                column: city, default: elsewhere}}}
  - name: clicks
    into: events
    source: {format: jsonl, path: clicks.jsonl}
    time_unit: ms
    columns:
      event_id: {concat: [{constant: click}, id]}
      user_id: user
      event_time: ts
      event_type: {column: kind, values: {pv: page_view, q: search}}
      item_id: sku
      query: words
      channel: {constant: web}
      market: {coalesce: [site, {constant: DE}]}
"""
STORES = """number,city,market,euros
1,Berlin,DE,1
2,Zürich,CH,1.05
3,,DE,1
"""
ORDERS = """order;line;customer;when;store;item;pieces;price;status
A;1;u1;01.07.2024 12:00;1;7;2;10.00;paid
A;2;u1;01.07.2024 12:00;1;8;1;3.50;cancelled
B;1;u2;01.01.2024 00:30;2;7;-1;-20.00;paid
C;1;u1;31.10.2024 09:05;3;9;;0;paid
D;1;u3;01.07.2024 12:00;4;7;1;5.00;paid
E;1;u3;2024-07-01 12:00;1;7;1;5.00;paid
F;1;u3;01.07.2024 12:00;1;7;0;5.00;paid
A;1;u1;01.07.2024 12:00;1;7;2;10.00;paid
"""
CLICKS = """{"id": 1, "user": "u1", "ts": 1719828000123, "kind": "pv", "sku": 7, "site": "CH"}
{"id": 2, "user": "u2", "ts": 1719828060000, "kind": "q", "words": "rote Schuhe"}
{"id": 3, "user": "u2", "ts": 17198
{"id": 4, "ts": 1719828060000, "kind": "pv", "sku": 7}
"""


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def event(source_table: str = "orders", **given: Any) -> dict[str, Any]:
    empty = dict.fromkeys((*EVENTS.column_names, "city"))
    return {**empty, SOURCE_TABLE: source_table, **given}


NOON = utc("2024-07-01T10:00:00")
IN_A = {"user_id": "u1", "event_time": NOON, "session_id": "A", "channel": "store", "market": "DE"}
EVENTS_EXPECTED = [
    event(event_id="A/1", event_type="purchase", item_id="7", quantity=2.0, amount=10.0, **IN_A)
    | {"city": "Berlin"},
    event(event_id="A/2", event_type="cancellation", item_id="8", quantity=1.0, amount=3.5, **IN_A)
    | {"city": "Berlin"},
    event(
        event_id="B/1",
        user_id="u2",
        event_time=utc("2023-12-31T23:30:00"),
        event_type="return",
        item_id="7",
        quantity=1.0,
        amount=21.0,
        session_id="B",
        channel="store",
        market="CH",
        city="Zürich",
    ),
    event(
        event_id="C/1",
        user_id="u1",
        event_time=utc("2024-10-31T08:05:00"),
        event_type="purchase",
        item_id="9",
        amount=0.0,
        session_id="C",
        channel="store",
        market="DE",
        city="elsewhere",
    ),
    event(
        event_id="click 1",
        user_id="u1",
        event_time=utc("2024-07-01T10:00:00.123"),
        event_type="page_view",
        item_id="7",
        channel="web",
        source_table="clicks",
        market="CH",
    ),
    event(
        event_id="click 2",
        user_id="u2",
        event_time=utc("2024-07-01T10:01:00"),
        event_type="search",
        query="rote Schuhe",
        channel="web",
        source_table="clicks",
        market="DE",
    ),
]


def write(folder: Path) -> Path:
    folder.mkdir()
    files = {
        "company.yaml": DESCRIPTION,
        "stores.csv": STORES,
        "orders.csv": ORDERS,
        "clicks.jsonl": CLICKS,
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "company.yaml"


def test_every_cell_and_every_count(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    path = write(tmp_path / "raw")
    said: list[str] = []
    ingest(spark, workspace, load_company(path), path, said.append)
    assert said == [
        "orders: 8 rows in = 4 accepted + 3 quarantined + 1 duplicates "
        "(amount_without_factor 1, event_time_not_a_time 1, quantity_not_above_0 1)",
        "clicks: 4 rows in = 2 accepted + 2 quarantined + 0 duplicates "
        "(malformed_row 1, user_id_missing 1)",
    ]
    events = lake.read(workspace, EVENTS.name).sort_by("event_id")
    assert events.drop_columns([CONTENT_HASH]).to_pylist() == EVENTS_EXPECTED


DESCRIPTIONS = Path(__file__).parents[2] / "docs" / "companies"
CDNOW = """ customer_id     date number_of_cds dollar_value
 00001 19970101  1   11.77
 00002 19970112  1   12.00
 00002 19970112  5   77.00
 00002 19970112  5   77.00
"""
BEHAVIOUR = pa.table(
    {
        "user_id": [1, 1, 2],
        "item_id": [7, 7, 8],
        "category_id": [3, 3, 4],
        "behavior": ["pv", "buy", "cart"],
        "event_time": pa.array(
            [1_511_568_000, 1_511_568_060, 1_511_568_120], pa.timestamp("s", "UTC")
        ),
    }
)


def taken_in(spark: SparkSession, workspace: Workspace, raw: Path, name: str) -> list[Any]:
    """Of a description that the documents publish: what was said, and types, amounts, user ids."""
    path = Path(shutil.copy(DESCRIPTIONS / f"{name}.yaml", raw))
    said: list[str] = []
    ingest(spark, workspace, load_company(path), path, said.append)
    events = lake.read(workspace, EVENTS.name).sort_by([("event_time", "ascending")])
    told = ("user_id", "event_type", "amount", "item_id")
    return [said, [tuple(row[one] for one in told) for row in events.to_pylist()]]


def test_purchases_in_columns_of_text_are_taken_in_as_published(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "CDNOW_master.txt").write_text(CDNOW, encoding="utf-8")
    said, events = taken_in(spark, workspace, tmp_path, "cdnow")
    assert said == ["purchases: 4 rows in = 3 accepted + 0 quarantined + 1 duplicates"]
    assert sorted(events) == [
        ("00001", "purchase", 11.77, None),
        ("00002", "purchase", 12.0, None),
        ("00002", "purchase", 77.0, None),
    ]


def test_a_clickstream_is_taken_in_as_published(
    spark: SparkSession, workspace: Workspace, tmp_path: Path
) -> None:
    pq.write_table(BEHAVIOUR, tmp_path / "events.parquet")
    said, events = taken_in(spark, workspace, tmp_path, "taobao")
    assert said == ["behaviour: 3 rows in = 3 accepted + 0 quarantined + 0 duplicates"]
    assert events == [
        ("1", "page_view", None, "7"),
        ("1", "purchase", None, "7"),
        ("2", "cart", None, "8"),
    ]
