"""Raw columns to canonical types: what casts, what is broken in a row, what can never be cast."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pyspark.sql import Column
from pyspark.sql import functions as F

from pipelines.contracts import BLANKS
from pipelines.expressions import DecimalMark

_INTEGERS: Final = ("tinyint", "smallint", "int", "bigint")
_FLOATS: Final = ("float", "double")
_TEXTS: Final = ("string", "date", "timestamp", "timestamp_ntz", "boolean")
_LARGEST_EXACT: Final = 1e15
_TICKS_PER_S: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

_ISO_LOCAL: Final = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?)?"
_ISO_ZONE: Final = r" ?(?:Z|z|[+-]\d{2}(?::?\d{2})?)"
_QUOTED: Final = re.compile(r"'[^']*'")
_ZONE_LETTERS: Final = frozenset("VzOXxZ")
_EPOCH: Final = r"^[+-]?\d+(?:\.\d+)?$"
_GROUP_MARKS: Final = "[.' \u00a0\u202f]"
_NUMBER_WITH_COMMA: Final = rf"^[+-]?(?:\d+|\d{{1,3}}(?:{_GROUP_MARKS}\d{{3}})+)(?:,\d+)?$"


class UncastableError(TypeError):
    """No value of this type can become what is asked for."""


class NoTimeZoneError(ValueError):
    """Times without a zone, and none was given."""


class NoTimeUnitError(ValueError):
    """Times are numbers, and their unit was not given."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """A canonical value and the ways in which a row's raw value can fail.

    Args:
        value: The cast column, null where it fails.
        failures: Boolean columns by what they mean.
    """

    value: Column
    failures: dict[str, Column]


def to_text(column: Column, dtype: str) -> Cast:
    """Any scalar as text without blanks around it; whole numbers without decimals, blank text and
    NaN as null.

    Raises:
        UncastableError: an array, map, struct or binary column.
    """
    if dtype == "void":
        text = F.lit(None).cast("string")
    elif dtype in _TEXTS or dtype in _INTEGERS or dtype.startswith(("varchar", "char")):
        text = column.cast("string")
    elif dtype in _FLOATS:
        whole = (column == F.floor(column)) & (F.abs(column) < _LARGEST_EXACT)
        text = F.when(whole, column.cast("bigint").cast("string")).otherwise(column.cast("string"))
        text = F.when(~F.isnan(column), text)
    elif dtype.startswith("decimal"):
        whole = column == F.floor(column)
        text = F.when(whole, column.cast("decimal(38,0)").cast("string"))
        text = text.otherwise(column.cast("string"))
    else:
        raise UncastableError(dtype)
    trimmed = F.trim(text, F.lit(BLANKS))
    return Cast(value=F.when(trimmed != "", trimmed), failures={})


def to_number(column: Column, dtype: str, decimal_mark: DecimalMark = ".") -> Cast:
    """Numbers as double; NaN is missing, infinities and other text are failures.

    Args:
        column: Raw numbers.
        dtype: Their Spark type.
        decimal_mark: Stands before the decimals of numbers that are text. With a comma, points,
            blanks or apostrophes may stand between groups of three digits, and a point
            nowhere else.

    Raises:
        UncastableError: neither a number nor text.
    """
    if dtype == "void":
        return Cast(value=F.lit(None).cast("double"), failures={})
    if dtype == "string":
        raw: Column = F.when(F.trim(column) != "", F.trim(column))
    elif dtype in _INTEGERS or dtype in _FLOATS or dtype.startswith("decimal"):
        raw = column
    else:
        raise UncastableError(dtype)
    written = _with_point(raw) if dtype == "string" and decimal_mark == "," else raw
    number = written.try_cast("double")
    value = F.when(F.abs(number) < float("inf"), number)
    broken = raw.isNotNull() & (number.isNull() | (F.abs(number) == float("inf")))
    return Cast(value=value, failures={"not_a_number": broken})


def _with_point(text: Column) -> Column:
    """Numbers with a comma as numbers with a point; null where the text is none."""
    digits = F.regexp_replace(text, _GROUP_MARKS, "")
    return F.when(text.rlike(_NUMBER_WITH_COMMA), F.translate(digits, ",", "."))


def to_timestamp(column: Column, dtype: str, zone: str | None, unit: str | None) -> Cast:
    """Instants in UTC microseconds.

    Text is read by ISO 8601; its own offset wins over `zone`. A local time that a change of clocks
    skips moves forward by the change, one that occurs twice is the earlier instant.

    Args:
        column: Raw times.
        dtype: Their Spark type.
        zone: IANA zone of times without one.
        unit: Unit of numeric times since 1970-01-01 UTC: s, ms, us or ns.

    Raises:
        UncastableError: a type that holds no times.
        NoTimeZoneError: the type has no zone and none is given.
        NoTimeUnitError: numbers without a unit.
    """
    if dtype == "timestamp":
        return Cast(value=column, failures={})
    if dtype == "void":
        return Cast(value=F.lit(None).cast("timestamp"), failures={})
    if dtype in ("timestamp_ntz", "date"):
        if zone is None:
            raise NoTimeZoneError
        return Cast(value=_in_zone(column.cast("timestamp_ntz"), zone), failures={})
    if dtype in _INTEGERS or dtype in _FLOATS or dtype.startswith("decimal"):
        if unit is None:
            raise NoTimeUnitError
        value = _from_epoch(column, dtype, unit)
        return Cast(value=value, failures={"not_a_time": column.isNotNull() & value.isNull()})
    if dtype == "string":
        return _from_epoch_text(column, unit) if unit else _from_iso(column, zone)
    raise UncastableError(dtype)


def _in_zone(local: Column, zone: str) -> Column:
    return F.to_utc_timestamp(local.cast("timestamp"), zone)


def _from_iso(column: Column, zone: str | None) -> Cast:
    text = F.regexp_replace(F.trim(column), ",", ".")
    raw = F.when(text != "", text)
    zoned = raw.rlike(f"^{_ISO_LOCAL}{_ISO_ZONE}$")
    local = raw.rlike(f"^{_ISO_LOCAL}$")
    parts = F.regexp_replace(F.upper(raw), r"(\d) ?([+-]\d{2})$", "$1$2:00")
    instant = F.when(zoned, parts.try_cast("timestamp"))
    clock = F.when(local, raw.try_cast("timestamp_ntz"))
    value = F.coalesce(instant, _in_zone(clock, zone)) if zone else instant
    no_zone = F.lit(False) if zone else clock.isNotNull()
    broken = raw.isNotNull() & value.isNull() & ~no_zone
    return Cast(value=value, failures={"not_a_time": broken, "without_time_zone": no_zone})


def to_timestamp_by_pattern(text: Column, pattern: str, zone: str | None) -> Cast:
    """Instants from text in a format of its own; see `to_timestamp` for changes of clocks.

    Args:
        text: Raw times.
        pattern: Spark's datetime pattern; an offset or zone in it wins over `zone`.
        zone: IANA zone of times without one.

    Raises:
        NoTimeZoneError: the pattern has no zone and none is given.
    """
    raw = F.trim(text)
    value = F.try_to_timestamp(raw, F.lit(pattern))
    if not _ZONE_LETTERS & set(_QUOTED.sub("", pattern)):
        if zone is None:
            raise NoTimeZoneError
        value = F.to_utc_timestamp(value, zone)
    return Cast(value=value, failures={"not_a_time": raw.isNotNull() & value.isNull()})


def merged(casts: Iterable[Cast]) -> dict[str, Column]:
    """The failures of several casts: a row fails where one of them does."""
    failures: dict[str, Column] = {}
    for cast in casts:
        for meaning, broken in cast.failures.items():
            failures[meaning] = failures[meaning] | broken if meaning in failures else broken
    return failures


def _from_epoch(column: Column, dtype: str, unit: str) -> Column:
    ticks = _TICKS_PER_S[unit]
    if dtype not in _INTEGERS:
        exact = column.try_cast("decimal(38,9)") * F.lit(1_000_000) / F.lit(ticks)
        return F.timestamp_micros(F.floor(exact).try_cast("bigint"))
    whole = column.cast("bigint")
    if ticks <= 1_000_000:
        return F.timestamp_micros(F.try_multiply(whole, F.lit(1_000_000 // ticks)))
    return F.timestamp_micros(F.floor(whole / F.lit(ticks // 1_000_000)).cast("bigint"))


def _from_epoch_text(column: Column, unit: str) -> Cast:
    raw = F.when(F.trim(column) != "", F.trim(column))
    number = F.when(raw.rlike(_EPOCH), raw).try_cast("decimal(38,9)")
    value = _from_epoch(number, "decimal(38,9)", unit)
    return Cast(value=value, failures={"not_a_time": raw.isNotNull() & value.isNull()})


Caster = Callable[[Column, str], Cast]
