"""Contracts as Spark types."""

from __future__ import annotations

from typing import Final

from pyspark.sql.types import (
    ArrayType,
    DataType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)

from pipelines.contracts import (
    CONTENT_HASH,
    EVENTS,
    SOURCE_TABLE,
    Column,
    ColumnType,
    TableContract,
)

SPARK_TYPES: Final[dict[ColumnType, DataType]] = {
    ColumnType.STRING: StringType(),
    ColumnType.LONG: LongType(),
    ColumnType.INT: IntegerType(),
    ColumnType.DOUBLE: DoubleType(),
    ColumnType.FLOAT: FloatType(),
    ColumnType.TIMESTAMP: TimestampType(),
    ColumnType.STRING_LIST: ArrayType(StringType()),
    ColumnType.LONG_LIST: ArrayType(LongType()),
    ColumnType.INT_LIST: ArrayType(IntegerType()),
    ColumnType.FLOAT_LIST: ArrayType(FloatType()),
}


def spark_schema(contract: TableContract) -> StructType:
    """The Spark schema of a table, all columns nullable as Delta writers produce them."""
    return StructType([StructField(c.name, SPARK_TYPES[c.type]) for c in contract.columns])


def stored(contract: TableContract) -> TableContract:
    """A company's contract with the columns that intake adds before it writes."""
    made = [Column(name=CONTENT_HASH, type=ColumnType.LONG, required=True)]
    if contract.name == EVENTS.name:
        made.append(Column(name=SOURCE_TABLE, type=ColumnType.STRING, required=True))
    return contract.with_fields(tuple(made))
