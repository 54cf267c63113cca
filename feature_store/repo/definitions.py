"""What `feast apply` registers: two entities and five feature views. Nothing else lives here.

Sources are parquet files relative to the folder of a workspace's `feature_store.yaml`.
"""

from __future__ import annotations

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bytes, FeastType, Float32, Float64, Int64, String

from feature_store.tables import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    ITEM_ACTIVITY,
    ITEM_EMBEDDING,
    USER_ACTIVITY,
    USER_EMBEDDING,
    USER_STATE,
)
from pipelines.contracts import ITEM_ID, USER_ID, ColumnType, TableContract

_TYPES: dict[ColumnType, FeastType] = {
    ColumnType.STRING: String,
    ColumnType.LONG: Int64,
    ColumnType.DOUBLE: Float64,
    ColumnType.BINARY: Bytes,
    ColumnType.FLOAT_LIST: Array(Float32),
}


def _view(table: TableContract, entity: Entity) -> FeatureView:
    source = FileSource(
        name=f"{table.name}_source",
        path=f"offline/{table.name}.parquet",
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=CREATED_TIMESTAMP,
    )
    return FeatureView(
        name=table.name,
        entities=[entity],
        schema=[Field(name=column.name, dtype=_TYPES[column.type]) for column in table.columns],
        source=source,
        ttl=timedelta(0),
        online=True,
    )


user = Entity(name="user", join_keys=[USER_ID], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=[ITEM_ID], value_type=ValueType.STRING)

user_embedding = _view(USER_EMBEDDING, user)
user_activity = _view(USER_ACTIVITY, user)
user_state = _view(USER_STATE, user)
item_embedding = _view(ITEM_EMBEDDING, item)
item_activity = _view(ITEM_ACTIVITY, item)
