"""All tables of the platform: names, columns, types, keys and promises.

Spark types, expectation suites, Arrow schemas and feature definitions are derived from here, so
that no column name stands as a bare string elsewhere. This module is part of the light floor: no
Spark, torch, Ray, Feast or FastAPI behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

BLANKS: Final = " \t\r\n"
"""What surrounds an id or a name is no part of it: tables, requests and erasures take it off."""


class ColumnType(StrEnum):
    """Physical types that every engine here (Spark, Delta, Arrow, Feast) can hold."""

    STRING = "string"
    LONG = "long"
    INT = "int"
    DOUBLE = "double"
    FLOAT = "float"
    TIMESTAMP = "timestamp"  # microseconds, UTC
    BINARY = "binary"
    STRING_LIST = "array<string>"
    LONG_LIST = "array<long>"
    INT_LIST = "array<int>"
    FLOAT_LIST = "array<float>"


class SemanticType(StrEnum):
    """What a field means; decides its physical type, binning, missing values and encoding."""

    CATEGORICAL = "categorical"
    NUMBER = "number"
    TEXT = "text"
    IDENTIFIER = "identifier"
    TIMESTAMP = "timestamp"

    @property
    def column_type(self) -> ColumnType:
        return _PHYSICAL[self]


_PHYSICAL: Final = {
    SemanticType.CATEGORICAL: ColumnType.STRING,
    SemanticType.NUMBER: ColumnType.DOUBLE,
    SemanticType.TEXT: ColumnType.STRING,
    SemanticType.IDENTIFIER: ColumnType.STRING,
    SemanticType.TIMESTAMP: ColumnType.TIMESTAMP,
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table.

    Args:
        name: Column name.
        type: Physical type.
        semantic: Meaning, for columns a company fills; None for columns the platform makes.
        required: Never null in an accepted row.
        minimum: Smallest allowed value (numbers only).
        exclusive: Whether `minimum` itself is refused.
    """

    name: str
    type: ColumnType
    semantic: SemanticType | None = None
    required: bool = False
    minimum: float | None = None
    exclusive: bool = False


@dataclass(frozen=True, kw_only=True)
class TableContract:
    """A table: its columns in order and the columns that identify a row."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def with_fields(self, extra: tuple[Column, ...]) -> TableContract:
        """The same contract with a company's extra typed fields at the end."""
        return TableContract(name=self.name, columns=self.columns + extra, key=self.key)


# Canonical column names, used by every room.
EVENT_ID: Final = "event_id"
USER_ID: Final = "user_id"
EVENT_TIME: Final = "event_time"
EVENT_TYPE: Final = "event_type"
ITEM_ID: Final = "item_id"
QUANTITY: Final = "quantity"
AMOUNT: Final = "amount"
QUERY: Final = "query"
SESSION_ID: Final = "session_id"
CHANNEL: Final = "channel"
MARKET: Final = "market"
LOCALE: Final = "locale"
CONTENT_HASH: Final = "content_hash"
KEY_HASH: Final = "key_hash"
ARRIVAL: Final = "_arrival"
"""Order in which rows of a stream's batch came: of two rows with one key, the later holds."""
SOURCE_TABLE: Final = "source_table"

TITLE: Final = "title"
DESCRIPTION: Final = "description"
CATEGORY: Final = "category"
CATEGORY_PATH: Final = "category_path"
CATEGORY_SEPARATOR: Final = " > "
BRAND: Final = "brand"
PRICE: Final = "price"

PREDICTION_TIME: Final = "prediction_time"
WINDOW_DAYS: Final = "window_days"
NUM_EVENTS: Final = "num_events"
NUM_PURCHASES: Final = "num_purchases"
ITEM_IDS: Final = "item_ids"
ITEM_COUNTS: Final = "item_counts"
CATEGORIES: Final = "categories"

VOCABULARY_ID: Final = "vocabulary_id"
TIMES_US: Final = "times_us"
EVENT_HASHES: Final = "event_hashes"
AMOUNTS: Final = "amounts"
QUANTITIES: Final = "quantities"
TOKEN_PREFIX: Final = "token_"
GENERATION: Final = "generation"
"""Of a user's rows in `token_sequences` the one with the largest holds; null is the smallest. The
column is there once an increment has added rows; `pipelines.lake` reads the rows that hold."""

FLAG: Final = "flag"
REASON: Final = "reason"
SCORE: Final = "score"

RULE: Final = "rule"
RAW_ROW: Final = "raw_row"
ROW_HASH: Final = "row_hash"

# Event types that the platform knows by name; a company may add its own.
PURCHASE: Final = "purchase"
SEARCH: Final = "search"
PAGE_VIEW: Final = "page_view"
CART: Final = "cart"
RETURN: Final = "return"


def _text(name: str, *, required: bool = False) -> Column:
    return Column(
        name=name, type=ColumnType.STRING, semantic=SemanticType.CATEGORICAL, required=required
    )


def _identifier(name: str, *, required: bool = False) -> Column:
    return Column(
        name=name, type=ColumnType.STRING, semantic=SemanticType.IDENTIFIER, required=required
    )


def _made(name: str, type_: ColumnType) -> Column:
    return Column(name=name, type=type_, required=True)


EVENTS: Final = TableContract(
    name="events",
    key=(EVENT_ID,),
    columns=(
        _identifier(EVENT_ID, required=True),
        _identifier(USER_ID, required=True),
        Column(
            name=EVENT_TIME,
            type=ColumnType.TIMESTAMP,
            semantic=SemanticType.TIMESTAMP,
            required=True,
        ),
        _text(EVENT_TYPE, required=True),
        _identifier(ITEM_ID),
        Column(
            name=QUANTITY,
            type=ColumnType.DOUBLE,
            semantic=SemanticType.NUMBER,
            minimum=0.0,
            exclusive=True,
        ),
        Column(
            name=AMOUNT,
            type=ColumnType.DOUBLE,
            semantic=SemanticType.NUMBER,
            minimum=0.0,
        ),
        Column(name=QUERY, type=ColumnType.STRING, semantic=SemanticType.TEXT),
        _identifier(SESSION_ID),
        _text(CHANNEL),
        _text(MARKET),
        _text(LOCALE),
    ),
)

CATALOGUE: Final = TableContract(
    name="catalogue",
    key=(ITEM_ID,),
    columns=(
        _identifier(ITEM_ID, required=True),
        Column(name=TITLE, type=ColumnType.STRING, semantic=SemanticType.TEXT, required=True),
        Column(name=DESCRIPTION, type=ColumnType.STRING, semantic=SemanticType.TEXT),
        _text(CATEGORY),
        _text(CATEGORY_PATH),
        _text(BRAND),
        Column(name=PRICE, type=ColumnType.DOUBLE, semantic=SemanticType.NUMBER, minimum=0.0),
        _text(MARKET),
        _text(LOCALE),
    ),
)

PROFILES: Final = TableContract(
    name="profiles", key=(USER_ID,), columns=(_identifier(USER_ID, required=True),)
)

QUARANTINE: Final = TableContract(
    name="quarantine",
    key=(ROW_HASH, RULE),
    columns=(
        _made(SOURCE_TABLE, ColumnType.STRING),
        _made(RULE, ColumnType.STRING),
        _made(RAW_ROW, ColumnType.STRING),
        _made(ROW_HASH, ColumnType.STRING),
    ),
)

TOKEN_SEQUENCES: Final = TableContract(
    name="token_sequences",
    key=(USER_ID,),
    columns=(
        _made(USER_ID, ColumnType.STRING),
        _made(VOCABULARY_ID, ColumnType.STRING),
        _made(NUM_EVENTS, ColumnType.INT),
        _made(TIMES_US, ColumnType.LONG_LIST),
        _made(EVENT_HASHES, ColumnType.LONG_LIST),
        _made(AMOUNTS, ColumnType.FLOAT_LIST),
        _made(QUANTITIES, ColumnType.FLOAT_LIST),
    ),
)
"""One row per user, events sorted by (event_time, session_id, event_id); one further
`token_<field>` INT_LIST column per token field of the vocabulary. Readers truncate the arrays at
`prediction_time` (`pipelines.lake.read_histories`): an encoded event depends on its past alone.
On disk older rows of a user may lie beside the one that holds (`GENERATION`)."""

USER_FLAGS: Final = TableContract(
    name="user_flags",
    key=(USER_ID, FLAG),
    columns=(
        _made(USER_ID, ColumnType.STRING),
        _made(FLAG, ColumnType.STRING),
        _made(REASON, ColumnType.STRING),
        _made(SCORE, ColumnType.DOUBLE),
    ),
)
"""Users who are no customers: staff and bots. They are kept and scored, but training leaves them
out. `score` is 1 for staff, how many times a limit was passed, or a robust z-score."""

LABELS: Final = TableContract(
    name="labels",
    key=(USER_ID, PREDICTION_TIME),
    columns=(
        _made(USER_ID, ColumnType.STRING),
        _made(PREDICTION_TIME, ColumnType.TIMESTAMP),
        _made(WINDOW_DAYS, ColumnType.INT),
        _made(NUM_EVENTS, ColumnType.LONG),
        _made(NUM_PURCHASES, ColumnType.LONG),
        _made(AMOUNT, ColumnType.DOUBLE),
        _made(ITEM_IDS, ColumnType.STRING_LIST),
        _made(ITEM_COUNTS, ColumnType.LONG_LIST),
        _made(CATEGORIES, ColumnType.STRING_LIST),
    ),
)
"""What each user with any history before `prediction_time` did in the window that begins there.
Items are distinct, sorted by id; a task's label is a function of this row and the history."""
