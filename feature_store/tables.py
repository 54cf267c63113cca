"""The tables on the shelf, declared once; Feast's fields and the Arrow schemas follow from them."""

from __future__ import annotations

import hashlib
from typing import Final

import pyarrow as pa

from pipelines.contracts import (
    ITEM_ID,
    NUM_EVENTS,
    NUM_PURCHASES,
    USER_ID,
    Column,
    ColumnType,
    TableContract,
)

EVENT_TIMESTAMP: Final = "event_timestamp"
"""When a row is true: its prediction time."""
CREATED_TIMESTAMP: Final = "created_timestamp"
"""When a row could be known; late corrections carry a later one."""
TIME_COLUMNS: Final = (EVENT_TIMESTAMP, CREATED_TIMESTAMP)
TIME_TYPE: Final = pa.timestamp("us", tz="UTC")
"""Microseconds, because Spark refuses nanoseconds."""

EMBEDDING: Final = "embedding"
MODEL_VERSION: Final = "model_version"
STATE: Final = "state"
AS_OF_US: Final = "as_of_us"
DAYS_SINCE_FIRST_EVENT: Final = "days_since_first_event"
DAYS_SINCE_LAST_EVENT: Final = "days_since_last_event"
NUM_ITEMS: Final = "num_items"
NUM_USERS: Final = "num_users"
NUM_EVENTS_28D: Final = "num_events_28d"
NUM_PURCHASES_28D: Final = "num_purchases_28d"
NUM_SESSIONS_28D: Final = "num_sessions_28d"
NUM_USERS_28D: Final = "num_users_28d"
SPEND_28D: Final = "spend_28d"


def _table(name: str, key: str, *columns: tuple[str, ColumnType]) -> TableContract:
    declared = ((key, ColumnType.STRING), *columns, (AS_OF_US, ColumnType.LONG))
    return TableContract(
        name=name,
        key=(key,),
        columns=tuple(Column(name=n, type=t, required=True) for n, t in declared),
    )


USER_EMBEDDING: Final = _table(
    "user_embedding",
    USER_ID,
    (EMBEDDING, ColumnType.FLOAT_LIST),
    (MODEL_VERSION, ColumnType.STRING),
)
USER_ACTIVITY: Final = _table(
    "user_activity",
    USER_ID,
    (NUM_EVENTS, ColumnType.LONG),
    (NUM_PURCHASES, ColumnType.LONG),
    (NUM_ITEMS, ColumnType.LONG),
    (DAYS_SINCE_FIRST_EVENT, ColumnType.DOUBLE),
    (DAYS_SINCE_LAST_EVENT, ColumnType.DOUBLE),
    (NUM_EVENTS_28D, ColumnType.LONG),
    (NUM_PURCHASES_28D, ColumnType.LONG),
    (NUM_SESSIONS_28D, ColumnType.LONG),
    (SPEND_28D, ColumnType.DOUBLE),
)
USER_STATE: Final = _table("user_state", USER_ID, (STATE, ColumnType.BINARY))
"""A user's whole encoded history (`Histories.to_bytes`): any replica answers any user from it."""
ITEM_EMBEDDING: Final = _table(
    "item_embedding",
    ITEM_ID,
    (EMBEDDING, ColumnType.FLOAT_LIST),
    (MODEL_VERSION, ColumnType.STRING),
)
ITEM_ACTIVITY: Final = _table(
    "item_activity",
    ITEM_ID,
    (NUM_EVENTS, ColumnType.LONG),
    (NUM_USERS, ColumnType.LONG),
    (DAYS_SINCE_LAST_EVENT, ColumnType.DOUBLE),
    (NUM_EVENTS_28D, ColumnType.LONG),
    (NUM_USERS_28D, ColumnType.LONG),
)
FEATURE_TABLES: Final = (
    USER_EMBEDDING,
    USER_ACTIVITY,
    USER_STATE,
    ITEM_EMBEDDING,
    ITEM_ACTIVITY,
)

_ARROW: Final = {
    ColumnType.STRING: pa.string(),
    ColumnType.LONG: pa.int64(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.BINARY: pa.binary(),
    ColumnType.FLOAT_LIST: pa.list_(pa.float32()),
}


def feature_names(table: TableContract) -> list[str]:
    """Names of a table's features: every column but its key."""
    return [name for name in table.column_names if name not in table.key]


def arrow_schema(table: TableContract) -> pa.Schema:
    """Schema of a table's offline files."""
    fields = [pa.field(column.name, _ARROW[column.type]) for column in table.columns]
    times = [pa.field(name, TIME_TYPE) for name in TIME_COLUMNS]
    return pa.schema(fields + times)


def stamp(rows: pa.Table, event_us: int, created_us: int) -> pa.Table:
    """The rows with their two time columns at the end."""
    for name, value in ((EVENT_TIMESTAMP, event_us), (CREATED_TIMESTAMP, created_us)):
        column = pa.repeat(pa.scalar(value, type=pa.int64()), rows.num_rows).cast(TIME_TYPE)
        rows = rows.append_column(name, column)
    return rows


def content_hash(rows: pa.Table) -> str:
    """Sixteen hex digits of SHA-256 over the rows in Arrow's stream format."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]
