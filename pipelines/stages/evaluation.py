"""Column expressions on Spark: see `pipelines.expressions` for what they say."""

from __future__ import annotations

from functools import partial, reduce
from operator import mul
from typing import Final

from pyspark.errors import PySparkException
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from pipelines.expressions import ColumnExpression, ParsedTime
from pipelines.sources.request import quoted
from pipelines.stages.casts import (
    Cast,
    Caster,
    merged,
    to_number,
    to_text,
    to_timestamp_by_pattern,
)
from pipelines.stages.lookups import Scope

WITHOUT_FACTOR: Final = "without_factor"


class BadPatternError(ValueError):
    """A datetime pattern that Spark does not know."""


def evaluate(
    scope: Scope, expression: ColumnExpression, caster: Caster, zone: str | None = None
) -> Cast:
    """A column as an expression and a cast make it.

    Args:
        scope: The raw rows, joined with all lookups of the expression.
        expression: What to make.
        caster: Casts to what is wanted.
        zone: The table's time zone, for `parse`.

    Raises:
        UncastableError, NoTimeZoneError, NoTimeUnitError: as `casts` raises them.
        BadPatternError: the format of a `parse` is no datetime pattern.
    """
    if expression.values:
        plain = _WAYS[expression.way](scope, expression, to_text, zone)
        return _then(Cast(value=_renamed(plain.value, expression), failures=plain.failures), caster)
    return _WAYS[expression.way](scope, expression, caster, zone)


def _column(scope: Scope, one: ColumnExpression, caster: Caster, zone: str | None) -> Cast:
    assert one.column is not None
    return caster(quoted(one.column), scope.types[one.column])


def _constant(scope: Scope, one: ColumnExpression, caster: Caster, zone: str | None) -> Cast:
    constant = F.lit(one.constant)
    return caster(constant, scope.frame.select(constant).dtypes[0][1])


def _concat(scope: Scope, one: ColumnExpression, caster: Caster, zone: str | None) -> Cast:
    parts = [evaluate(scope, part, to_text, zone) for part in one.parts]
    text = F.concat_ws(one.separator, *(part.value for part in parts))
    return _then(Cast(value=text, failures=merged(parts)), caster)


def _coalesce(scope: Scope, one: ColumnExpression, caster: Caster, zone: str | None) -> Cast:
    parts = [evaluate(scope, part, caster, zone) for part in one.parts]
    value = F.coalesce(*(part.value for part in parts))
    failures = {name: value.isNull() & broken for name, broken in merged(parts).items()}
    return Cast(value=value, failures=failures if len(parts) > 1 else parts[0].failures)


def _product(scope: Scope, one: ColumnExpression, caster: Caster, zone: str | None) -> Cast:
    """Null where the first number is; a first number whose factor is missing is a failure."""
    number = partial(to_number, decimal_mark=scope.decimal_mark)
    parts = [evaluate(scope, part, number, zone) for part in one.parts]
    value = reduce(mul, (part.value for part in parts))
    failures = merged(parts)
    failures[WITHOUT_FACTOR] = parts[0].value.isNotNull() & value.isNull()
    return _then(Cast(value=value, failures=failures), caster, "double")


def _parse(scope: Scope, one: ColumnExpression, caster: Caster, zone: str | None) -> Cast:
    assert one.parse is not None
    _check_pattern(scope.frame.sparkSession, one.parse)
    text = evaluate(scope, one.parse.column, to_text, zone)
    time = to_timestamp_by_pattern(text.value, one.parse.format, one.parse.time_zone or zone)
    failures = merged([text, time])
    return _then(Cast(value=time.value, failures=failures), caster, "timestamp")


def _lookup(scope: Scope, one: ColumnExpression, caster: Caster, zone: str | None) -> Cast:
    assert one.lookup is not None
    value, dtype = scope.found(one.lookup)
    found = caster(value, dtype)
    if one.lookup.default is None:
        return found
    default = _constant(scope, ColumnExpression(constant=one.lookup.default), caster, zone)
    return Cast(value=F.coalesce(found.value, default.value), failures=found.failures)


_WAYS: Final = {
    "column": _column,
    "constant": _constant,
    "concat": _concat,
    "coalesce": _coalesce,
    "product": _product,
    "parse": _parse,
    "lookup": _lookup,
}


def _then(inner: Cast, caster: Caster, dtype: str = "string") -> Cast:
    outer = caster(inner.value, dtype)
    return Cast(value=outer.value, failures=merged([inner, outer]))


def _renamed(text: Column, expression: ColumnExpression) -> Column:
    pairs = [F.lit(text) for pair in expression.values.items() for text in pair]
    return F.coalesce(F.create_map(*pairs)[text], text)


def _check_pattern(spark: SparkSession, parse: ParsedTime) -> None:
    try:
        spark.sql("SELECT 1").select(F.try_to_timestamp(F.lit(""), F.lit(parse.format))).collect()
    except PySparkException as error:
        raise BadPatternError(parse.format) from error
