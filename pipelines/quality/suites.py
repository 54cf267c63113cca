"""Promises derived from the contracts: rules about a row, expectations about a table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pyspark.sql import Column
from pyspark.sql import functions as F

from pipelines.contracts import EVENT_TIME, EVENTS, ColumnType, SemanticType, TableContract
from pipelines.contracts import Column as ContractColumn

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

INTAKE_SUITE: Final = "intake"
INPUT_ROWS: Final = "input_rows"
UNACCOUNTED_ROWS: Final = "unaccounted_rows"
CONFLICTING_KEYS: Final = "conflicting_keys"
QUARANTINED_SHARE: Final = "quarantined_share"
MAX_QUARANTINED_SHARE: Final = "max_quarantined_share"
UNKNOWN_ITEM_SHARE: Final = "unknown_item_share"
MAX_UNKNOWN_ITEM_SHARE: Final = 0.001
FUTURE_TOLERANCE: Final = timedelta(days=1)
_MAX_LENGTHS: Final = {SemanticType.IDENTIFIER: 256, SemanticType.TEXT: 20_000}

_SPARK_TYPE_NAMES: Final = {
    ColumnType.STRING: "StringType",
    ColumnType.LONG: "LongType",
    ColumnType.DOUBLE: "DoubleType",
    ColumnType.TIMESTAMP: "TimestampType",
}


def row_rules(contract: TableContract) -> dict[str, Column]:
    """Boolean columns that are true where a row breaks the contract, by name of the rule."""
    rules: dict[str, Column] = {}
    for column in contract.columns:
        value = F.col(column.name)
        if column.required:
            rules[f"{column.name}_missing"] = value.isNull()
        if column.minimum is not None:
            broken = value <= column.minimum if column.exclusive else value < column.minimum
            word = "not_above" if column.exclusive else "below"
            rules[f"{column.name}_{word}_{column.minimum:g}"] = broken
    return rules


def table_suite(contract: TableContract) -> ExpectationSuite:
    """What holds for the accepted rows of a table as a whole."""
    gx = import_gx()
    gxe = gx.expectations
    expectations: list[Expectation] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(contract.column_names)),
    ]
    for column in contract.columns:
        expectations += _column_expectations(column)
        if contract.name != EVENTS.name or column.name == EVENT_TIME:
            expectations += _meaning_expectations(column)
    suite: ExpectationSuite = gx.ExpectationSuite(contract.name, expectations)
    return suite


def import_gx() -> Any:
    """Great Expectations: takes seconds to import, and declares no exports to type checkers."""
    import great_expectations

    return great_expectations


def _column_expectations(column: ContractColumn) -> list[Expectation]:
    gxe = import_gx().expectations
    expectations: list[Expectation] = [
        gxe.ExpectColumnValuesToBeOfType(column=column.name, type_=_SPARK_TYPE_NAMES[column.type])
    ]
    if column.required:
        expectations.append(gxe.ExpectColumnValuesToNotBeNull(column=column.name))
    if column.minimum is not None:
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(
                column=column.name, min_value=column.minimum, strict_min=column.exclusive
            )
        )
    return expectations


def _meaning_expectations(column: ContractColumn) -> list[Expectation]:
    """What a column's meaning promises, as warnings, in the one pass over the table.

    Of events, times alone are judged: the lengths of their ids would double the time of the pass.
    The number of distinct categories is watched on a sample (`pipelines.quality.drift`): counting
    them all would cost a pass of its own.
    """
    gxe = import_gx().expectations
    if column.semantic in _MAX_LENGTHS:
        return [
            gxe.ExpectColumnValueLengthsToBeBetween(
                column=column.name,
                min_value=1,
                max_value=_MAX_LENGTHS[column.semantic],
                severity="warning",
            )
        ]
    if column.name == EVENT_TIME:
        soon = datetime.now(UTC).replace(tzinfo=None) + FUTURE_TOLERANCE
        return [
            gxe.ExpectColumnValuesToBeBetween(
                column=column.name, max_value=soon, severity="warning"
            )
        ]
    return []


def intake_suite() -> ExpectationSuite:
    """What holds for the count of rows of every source table: one row per source table.

    An item that no catalogue row describes is a warning: the event is kept.
    """
    gx = import_gx()
    gxe = gx.expectations
    suite: ExpectationSuite = gx.ExpectationSuite(
        INTAKE_SUITE,
        [
            gxe.ExpectColumnValuesToBeBetween(column=INPUT_ROWS, min_value=1),
            gxe.ExpectColumnValuesToBeBetween(column=UNACCOUNTED_ROWS, min_value=0, max_value=0),
            gxe.ExpectColumnValuesToBeBetween(column=CONFLICTING_KEYS, min_value=0, max_value=0),
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=MAX_QUARANTINED_SHARE, column_B=QUARANTINED_SHARE, or_equal=True
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column=UNKNOWN_ITEM_SHARE,
                min_value=0.0,
                max_value=MAX_UNKNOWN_ITEM_SHARE,
                severity="warning",
            ),
        ],
    )
    return suite
