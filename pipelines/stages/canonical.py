"""Room 1: raw rows of one source table to the columns of its contract."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.company import ColumnExpression, TableConfig
from pipelines.contracts import (
    AMOUNT,
    ARRIVAL,
    CONTENT_HASH,
    EVENT_ID,
    EVENT_TYPE,
    KEY_HASH,
    QUANTITY,
    RAW_ROW,
    RETURN,
    RULE,
    SOURCE_TABLE,
    SemanticType,
    TableContract,
)
from pipelines.errors import CompanyConfigError, SourceError
from pipelines.sources.request import MALFORMED_ROW, quoted
from pipelines.stages.casts import (
    Cast,
    Caster,
    NoTimeUnitError,
    NoTimeZoneError,
    UncastableError,
    to_number,
    to_text,
    to_timestamp,
)
from pipelines.stages.evaluation import BadPatternError, evaluate
from pipelines.stages.lookups import Scope, refuse_missing, with_lookups
from pipelines.stages.schemas import SPARK_TYPES

WITHOUT_TIME_ZONE: Final = "without_time_zone"
NOT_IN_ENCODING: Final = "not_in_encoding"
_TEXT_FORMATS: Final = ("csv", "jsonl", "whitespace")
_NO_CHARACTER: Final = "\ufffd"
"""Stands for bytes that the encoding does not know: two names that differ there would be one."""


def canonical_rows(
    raw: DataFrame,
    table: TableConfig,
    contract: TableContract,
    company_path: Path,
    lookups: Mapping[str, DataFrame] | None = None,
) -> DataFrame:
    """Every raw row in the shape of its contract, with what is wrong about it.

    Args:
        raw: Rows of the source, with the source's own columns.
        table: Their description.
        contract: The company's contract of the table they go into.
        company_path: Named in messages.
        lookups: The company's lookup tables by name.

    Returns:
        The contract's columns, then content_hash, key_hash, source_table, rule (the first cast
        that failed, null for a sound row) and raw_row (JSON of all raw columns); of a stream's
        rows also `ARRIVAL`.

    Raises:
        SourceError: a column that the description names is missing, or holds a type that can
            never become what the contract asks for.
        CompanyConfigError: times hold no zone or unit and the description gives none.
    """
    scope = _scope(raw, table, lookups or {}, company_path)
    casts = {
        column.name: _cast(scope, table, column.name, column.semantic, company_path)
        for column in contract.columns
        if column.name in table.columns or column.name in table.fields
    }
    values = {name: cast.value for name, cast in casts.items()}
    if table.negative_quantity == "return_event":
        values |= _returns(values)
    content = F.xxhash64(*_tagged(values))
    if EVENT_ID in contract.key and EVENT_ID not in values:
        key_hash = content
        values[EVENT_ID] = _derived_id(values, content)
    else:
        key_hash = F.xxhash64(*(values[name] for name in contract.key))
    typed = {
        column.name: values.get(column.name, F.lit(None)).cast(SPARK_TYPES[column.type])
        for column in contract.columns
    }
    shown = [name for name in raw.columns if name != ARRIVAL]
    return scope.frame.select(
        *(value.alias(name) for name, value in typed.items()),
        content.alias(CONTENT_HASH),
        key_hash.alias(KEY_HASH),
        F.lit(table.name).alias(SOURCE_TABLE),
        _first_failure(raw, casts).alias(RULE),
        F.to_json(F.struct(*map(quoted, shown)), {"ignoreNullFields": "false"}).alias(RAW_ROW),
        *(quoted(name) for name in raw.columns if name == ARRIVAL),
    )


def _scope(
    raw: DataFrame, table: TableConfig, lookups: Mapping[str, DataFrame], company_path: Path
) -> Scope:
    place = f"{company_path}: tables.{table.name}"
    for key, expression in table.expressions.items():
        refuse_missing(raw, expression.source_columns, f"{place}.{key}")

    def key_text(scope: Scope, expression: ColumnExpression, key: str) -> Column:
        with _explained(scope, expression, table, key, "key", company_path):
            return evaluate(scope, expression, to_text, table.time_zone).value

    return with_lookups(
        Scope.of(raw, table.decimal_mark), table.expressions, lookups, key_text, company_path
    )


def _cast(
    scope: Scope,
    table: TableConfig,
    name: str,
    semantic: SemanticType | None,
    company_path: Path,
) -> Cast:
    key = f"{'fields' if name in table.fields else 'columns'}.{name}"
    expression, wanted = table.expressions[key], semantic.value if semantic else "value"
    with _explained(scope, expression, table, key, wanted, company_path):
        cast = evaluate(scope, expression, _caster(semantic, table), table.time_zone)
    if _caster(semantic, table) is to_text and table.source.format in _TEXT_FORMATS:
        failures = {**cast.failures, NOT_IN_ENCODING: cast.value.contains(_NO_CHARACTER)}
        return replace(cast, failures=failures)
    return cast


@contextlib.contextmanager
def _explained(
    scope: Scope,
    expression: ColumnExpression,
    table: TableConfig,
    key: str,
    wanted: str,
    company_path: Path,
) -> Iterator[None]:
    """Errors of an evaluation, told by file and key."""
    place, name = f"{company_path}: tables.{table.name}", key.partition(".")[2]
    try:
        yield
    except UncastableError as error:
        raise SourceError(
            f"{place}.{key}: {_typed_sources(scope, expression)} can never become a {wanted} "
            f"({error} came). Name another column, or change its type at the source."
        ) from error
    except BadPatternError as error:
        raise CompanyConfigError(
            f"{place}.{key}: '{error}' is not a datetime pattern like 'dd.MM.yyyy HH:mm'. The "
            "letters are listed at "
            "https://spark.apache.org/docs/latest/sql-ref-datetime-pattern.html."
        ) from error
    except NoTimeZoneError as error:
        raise CompanyConfigError(no_time_zone(table, company_path, name)) from error
    except NoTimeUnitError as error:
        raise CompanyConfigError(
            f"{place}.time_unit is missing, and {_typed_sources(scope, expression)} of '{name}' "
            "holds numbers. Give the unit since 1970-01-01 UTC: s, ms, us or ns."
        ) from error


def no_time_zone(table: TableConfig, company_path: Path, name: str) -> str:
    """The message about times whose zone nobody knows."""
    return (
        f"{company_path}: tables.{table.name}.time_zone is missing, and '{name}' holds times "
        "without a zone. Give the IANA zone they were recorded in, like 'Europe/Berlin' or 'UTC'."
    )


def _typed_sources(scope: Scope, expression: ColumnExpression) -> str:
    named = [f"column '{name}' ({scope.types[name]})" for name in expression.source_columns]
    named += [
        f"lookup '{one.table}.{one.column}' ({scope.found(one)[1]})" for one in expression.lookups
    ]
    return ", ".join(named) or f"constant {expression.constant!r}"


def _caster(semantic: SemanticType | None, table: TableConfig) -> Caster:
    if semantic is SemanticType.NUMBER:
        return partial(to_number, decimal_mark=table.decimal_mark)
    if semantic is SemanticType.TIMESTAMP:
        return partial(to_timestamp, zone=table.time_zone, unit=table.time_unit)
    return to_text


def _returns(values: dict[str, Column]) -> dict[str, Column]:
    """Negative quantities and amounts as events of their own type, with the sizes."""
    sizes: dict[str, Column] = {
        name: F.abs(values[name]) for name in (QUANTITY, AMOUNT) if name in values
    }
    negative = [F.coalesce(values[name] < 0, F.lit(False)) for name in sizes]
    is_return = reduce(or_, negative, F.lit(False)) & values[EVENT_TYPE].isNotNull()
    return {**sizes, EVENT_TYPE: F.when(is_return, F.lit(RETURN)).otherwise(values[EVENT_TYPE])}


def _first_failure(raw: DataFrame, casts: dict[str, Cast]) -> Column:
    failures = [
        F.when(broken, F.lit(f"{name}_{meaning}"))
        for name, cast in casts.items()
        for meaning, broken in cast.failures.items()
    ]
    if MALFORMED_ROW in raw.columns:
        failures.insert(0, F.when(quoted(MALFORMED_ROW).isNotNull(), F.lit("malformed_row")))
    return F.coalesce(*failures, F.lit(None).cast("string"))


def _derived_id(values: dict[str, Column], content: Column) -> Column:
    """An id of 128 bits from what a row says, for sources that name none."""
    again = F.xxhash64(F.lit(EVENT_ID), *_tagged(values))
    return F.concat_ws("-", F.lower(F.hex(content)), F.lower(F.hex(again)))


def _tagged(values: dict[str, Column]) -> list[Column]:
    """Each value behind its name; both are null and so not hashed where there is none.

    So a new empty column changes no hash, and a value hashes otherwise in another column.
    """
    return [
        part
        for name, value in sorted(values.items())
        for part in (F.when(value.isNotNull(), F.lit(name)), value)
    ]
