"""Room 1: raw rows of one source table to the columns of its contract."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial, reduce
from pathlib import Path
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.company import ColumnExpression, TableConfig
from pipelines.contracts import (
    CONTENT_HASH,
    EVENT_ID,
    RAW_ROW,
    RULE,
    SOURCE_TABLE,
    ColumnType,
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
from pipelines.stages.schemas import SPARK_TYPES

HASH_LENGTH: Final = 32
WITHOUT_TIME_ZONE: Final = "without_time_zone"


def canonical_rows(
    raw: DataFrame, table: TableConfig, contract: TableContract, company_path: Path
) -> DataFrame:
    """Every raw row in the shape of its contract, with what is wrong about it.

    Args:
        raw: Rows of the source, with the source's own columns.
        table: Their description.
        contract: The company's contract of the table they go into.
        company_path: Named in messages.

    Returns:
        The contract's columns, then content_hash, source_table, rule (the first cast that failed,
        null for a sound row) and raw_row (JSON of all raw columns).

    Raises:
        SourceError: a column that the description names is missing, or holds a type that can
            never become what the contract asks for.
        CompanyConfigError: times hold no zone or unit and the description gives none.
    """
    _refuse_missing(raw, table, company_path)
    casts = {
        column.name: _cast(raw, table, column.name, column.semantic, company_path)
        for column in contract.columns
        if column.name in table.columns or column.name in table.fields
    }
    values = {name: cast.value for name, cast in casts.items()}
    if EVENT_ID in contract.key and EVENT_ID not in values:
        mapped = [
            (column.name, column.type) for column in contract.columns if column.name in values
        ]
        values[EVENT_ID] = _hash(values, mapped)
    typed = {
        column.name: values.get(column.name, F.lit(None)).cast(SPARK_TYPES[column.type])
        for column in contract.columns
    }
    content = [(column.name, column.type) for column in contract.columns]
    return raw.select(
        *(value.alias(name) for name, value in typed.items()),
        _hash(typed, content).alias(CONTENT_HASH),
        F.lit(table.name).alias(SOURCE_TABLE),
        _first_failure(raw, casts).alias(RULE),
        F.to_json(F.struct(*map(quoted, raw.columns)), {"ignoreNullFields": "false"}).alias(
            RAW_ROW
        ),
    )


def _refuse_missing(raw: DataFrame, table: TableConfig, company_path: Path) -> None:
    expressions = {f"columns.{name}": expression for name, expression in table.columns.items()}
    expressions |= {f"fields.{name}": table.field_expression(name) for name in table.fields}
    for key, expression in expressions.items():
        for name in expression.source_columns:
            if name in raw.columns:
                continue
            known = [column for column in raw.columns if column != MALFORMED_ROW]
            close = difflib.get_close_matches(name, known, n=1)
            guess = f" Did you mean '{close[0]}'?" if close else ""
            raise SourceError(
                f"{company_path}: tables.{table.name}.{key}: the source has no column '{name}'. "
                f"It has: {', '.join(known)}.{guess}"
            )


def _cast(
    raw: DataFrame,
    table: TableConfig,
    name: str,
    semantic: SemanticType | None,
    company_path: Path,
) -> Cast:
    in_fields = name in table.fields
    expression = table.field_expression(name) if in_fields else table.columns[name]
    key = f"{company_path}: tables.{table.name}.{'fields' if in_fields else 'columns'}.{name}"
    caster = _caster(semantic, table)
    wanted = semantic.value if semantic else "value"
    try:
        return _renamed(_evaluate(raw, expression, caster), expression)
    except UncastableError as error:
        raise SourceError(
            f"{key}: {_typed_sources(raw, expression)} can never become a {wanted} "
            f"({error} came). Name another column, or change its type at the source."
        ) from error
    except NoTimeZoneError as error:
        raise CompanyConfigError(no_time_zone(table, company_path, name)) from error
    except NoTimeUnitError as error:
        raise CompanyConfigError(
            f"{company_path}: tables.{table.name}.time_unit is missing, and "
            f"{_typed_sources(raw, expression)} of '{name}' holds numbers. "
            "Give the unit since 1970-01-01 UTC: s, ms, us or ns."
        ) from error


def no_time_zone(table: TableConfig, company_path: Path, name: str) -> str:
    """The message about times whose zone nobody knows."""
    return (
        f"{company_path}: tables.{table.name}.time_zone is missing, and '{name}' holds times "
        "without a zone. Give the IANA zone they were recorded in, like 'Europe/Berlin' or 'UTC'."
    )


def _typed_sources(raw: DataFrame, expression: ColumnExpression) -> str:
    types = dict(raw.dtypes)
    named = [f"column '{name}' ({types[name]})" for name in expression.source_columns]
    return ", ".join(named) or f"constant {expression.constant!r}"


def _caster(semantic: SemanticType | None, table: TableConfig) -> Caster:
    if semantic is SemanticType.NUMBER:
        return to_number
    if semantic is SemanticType.TIMESTAMP:
        return partial(to_timestamp, zone=table.time_zone, unit=table.time_unit)
    return to_text


def _evaluate(raw: DataFrame, expression: ColumnExpression, caster: Caster) -> Cast:
    types = dict(raw.dtypes)
    if expression.constant is not None:
        constant = F.lit(expression.constant)
        return caster(constant, raw.select(constant).dtypes[0][1])
    if expression.concat is not None:
        parts = [to_text(quoted(name), types[name]).value for name in expression.concat]
        return caster(F.concat_ws(expression.separator, *parts), "string")
    casts = [caster(quoted(name), types[name]) for name in expression.source_columns]
    if len(casts) == 1:
        return casts[0]
    value = F.coalesce(*(cast.value for cast in casts))
    meanings = {meaning for cast in casts for meaning in cast.failures}
    return Cast(
        value=value,
        failures={
            meaning: value.isNull()
            & _any(c.failures[meaning] for c in casts if meaning in c.failures)
            for meaning in sorted(meanings)
        },
    )


def _any(conditions: Iterable[Column]) -> Column:
    return reduce(lambda left, right: left | right, conditions)


def _renamed(cast: Cast, expression: ColumnExpression) -> Cast:
    if not expression.values:
        return cast
    pairs = [F.lit(text) for pair in expression.values.items() for text in pair]
    renamed = F.coalesce(F.create_map(*pairs)[cast.value], cast.value)
    return Cast(value=renamed, failures=cast.failures)


def _first_failure(raw: DataFrame, casts: dict[str, Cast]) -> Column:
    failures = [
        F.when(broken, F.lit(f"{name}_{meaning}"))
        for name, cast in casts.items()
        for meaning, broken in cast.failures.items()
    ]
    if MALFORMED_ROW in raw.columns:
        failures.insert(0, F.when(quoted(MALFORMED_ROW).isNotNull(), F.lit("malformed_row")))
    return F.coalesce(*failures, F.lit(None).cast("string"))


def _hash(values: dict[str, Column], columns: list[tuple[str, ColumnType]]) -> Column:
    """128 bits of SHA-256 over the values that are there: a new empty column is no change."""
    exact = [
        (F.unix_micros(values[name]) if kind is ColumnType.TIMESTAMP else values[name]).alias(name)
        for name, kind in columns
    ]
    return F.left(F.sha2(F.to_json(F.struct(*exact)), 256), F.lit(HASH_LENGTH))
