"""Column expressions of `company.yaml`: how one column is made from the columns of a source table.

An expression is the name of a source column, or a mapping with exactly one of these keys. Wherever
it says EXPRESSION, any expression may stand.

    column: NAME                          a source column, where `values` is wanted too
    constant: 1.5                         the same for all rows
    concat: [EXPRESSION, ...]             texts, joined by `separator` (a space by default)
    coalesce: [EXPRESSION, ...]           the first that is there
    product: [EXPRESSION, ...]            numbers, multiplied: `[price, {lookup: ...}]`
    parse:                                a time in a format that is not ISO 8601
      column: EXPRESSION
      format: "dd.MM.yyyy HH:mm"          Spark's datetime pattern
      time_zone: Europe/Berlin            of times without one; the table's by default
    lookup:                               a value of a table that stands under `lookups`
      table: NAME
      key: EXPRESSION                     of this table
      equals: EXPRESSION                  of that table; compared with the key as text
      column: NAME                        of that table
      default: 1.0                        where the key is not found or has no value; else null

`values` renames values of the result (`{buy: purchase}`); others stay as they are.
"""

from __future__ import annotations

import difflib
import zoneinfo
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

_WAYS = ("column", "constant", "concat", "coalesce", "product", "parse", "lookup")


class Strict(BaseModel):
    """A part of `company.yaml`: unknown keys are refused, nothing is converted in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _known_zone(value: str | None) -> str | None:
    zones = zoneinfo.available_timezones()
    if value is not None and value not in zones:
        close = difflib.get_close_matches(value, zones, n=1)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"'{value}' is not an IANA time zone like 'Europe/Berlin'.{guess}")
    return value


TimeZone = Annotated[str | None, AfterValidator(_known_zone)]
DecimalMark = Literal[".", ","]


class ColumnExpression(Strict):
    """How one column is made. Exactly one way is given; see the module."""

    column: str | None = None
    constant: str | float | int | None = None
    concat: Expressions | None = None
    coalesce: Expressions | None = None
    product: Expressions | None = None
    parse: ParsedTime | None = None
    lookup: Lookup | None = None
    separator: str = " "
    values: dict[str, str] = {}

    @model_validator(mode="after")
    def _exactly_one(self) -> ColumnExpression:
        if sum(getattr(self, way) is not None for way in _WAYS) != 1:
            raise ValueError(f"give exactly one of: {', '.join(_WAYS)}")
        return self

    @property
    def way(self) -> str:
        """The key that is given."""
        return next(way for way in _WAYS if getattr(self, way) is not None)

    @property
    def parts(self) -> tuple[ColumnExpression, ...]:
        """The expressions over the same table that this one is made of."""
        if self.parse is not None:
            return (self.parse.column,)
        if self.lookup is not None:
            return (self.lookup.key,)
        return self.concat or self.coalesce or self.product or ()

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Names of the source columns that this expression reads."""
        if self.column is not None:
            return (self.column,)
        return tuple(name for part in self.parts for name in part.source_columns)

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """The lookups in it; one that another's key needs comes first."""
        inner = tuple(lookup for part in self.parts for lookup in part.lookups)
        return inner if self.lookup is None else (*inner, self.lookup)


def _expression(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


def _list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Expression = Annotated[ColumnExpression, BeforeValidator(_expression)]
Expressions = Annotated[tuple[Expression, ...], BeforeValidator(_list), Field(min_length=1)]


class ParsedTime(Strict):
    """A time that is text in a format of its own."""

    column: Expression
    format: Annotated[str, Field(min_length=1)]
    time_zone: TimeZone = None


class Lookup(Strict):
    """A value that another table has for a key of this one."""

    table: str
    key: Expression
    equals: Expression
    column: str
    default: str | float | int | None = None
