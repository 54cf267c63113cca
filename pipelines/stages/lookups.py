"""Rows of lookup tables beside the raw rows that ask for them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.errors import SourceError
from pipelines.expressions import ColumnExpression, DecimalMark, Lookup
from pipelines.sources.request import MALFORMED_ROW, quoted

_SHOWN_KEYS: Final = 3


class KeyText(Protocol):
    """Evaluates a key to text, so that 7 and "7" are equal.

    `key` is the key in the description that asks, for messages.
    """

    def __call__(self, scope: Scope, expression: ColumnExpression, key: str) -> Column: ...


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Raw rows, and beside each the rows of lookup tables that it asked for.

    Args:
        frame: The rows; columns beyond the source's own are named `_lookup_<n>`.
        types: Types of the source's own columns by name.
        joined: Column of `frame` and types of the row in it, by what was asked.
        decimal_mark: Of numbers that are text.
    """

    frame: DataFrame
    types: dict[str, str]
    joined: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    decimal_mark: DecimalMark = "."

    @classmethod
    def of(cls, frame: DataFrame, decimal_mark: DecimalMark = ".") -> Scope:
        """The rows alone."""
        return cls(frame=frame, types=dict(frame.dtypes), decimal_mark=decimal_mark)

    def found(self, lookup: Lookup) -> tuple[Column, str]:
        """The looked-up value and its type; null where the key was not found."""
        name, types = self.joined[_question(lookup)]
        return F.col(name)[lookup.column], types[lookup.column]


def with_lookups(
    scope: Scope,
    expressions: Mapping[str, ColumnExpression],
    tables: Mapping[str, DataFrame],
    key_text: KeyText,
    company_path: Path,
) -> Scope:
    """Join what the expressions look up; the number of rows stays.

    Args:
        scope: Raw rows.
        expressions: By their keys in the description.
        tables: Lookup tables by name.
        key_text: Evaluates keys.
        company_path: Named in messages.

    Raises:
        SourceError: a lookup table lacks a column, has a key twice, or a row that cannot be read.
    """
    for key, expression in expressions.items():
        for lookup in expression.lookups:
            rows = tables[lookup.table]
            place = f"{company_path}: lookups.{lookup.table}"
            wanted = (*lookup.equals.source_columns, lookup.column)
            refuse_missing(rows, wanted, f"{place}, asked by {key}")
            if _question(lookup) not in scope.joined:
                scope = _joined(scope, lookup, rows, partial(key_text, key=key), place)
    return scope


def _joined(
    scope: Scope, lookup: Lookup, rows: DataFrame, key_text: Callable[..., Column], place: str
) -> Scope:
    name = f"_lookup_{len(scope.joined)}"
    there = Scope.of(rows)
    keyed = rows.select(
        key_text(there, lookup.equals).alias(f"{name}_key"),
        F.struct(*map(quoted, rows.columns)).alias(name),
    ).where(F.col(f"{name}_key").isNotNull())
    _refuse_unsound(rows, keyed, f"{name}_key", place)
    asked = key_text(scope, lookup.key) == F.col(f"{name}_key")
    return replace(
        scope,
        frame=scope.frame.join(keyed, asked, "left").drop(f"{name}_key"),
        joined={**scope.joined, _question(lookup): (name, there.types)},
    )


def _refuse_unsound(rows: DataFrame, keyed: DataFrame, key: str, place: str) -> None:
    if MALFORMED_ROW in rows.columns:
        broken = rows.where(quoted(MALFORMED_ROW).isNotNull()).first()
        if broken is not None:
            raise SourceError(
                f"{place}: a row cannot be taken apart: {broken[MALFORMED_ROW][:200]}. Correct it."
            )
    twice = keyed.groupBy(key).count().where("count > 1").orderBy(key).limit(_SHOWN_KEYS).collect()
    if twice:
        raise SourceError(
            f"{place}: the key {', '.join(repr(row[key]) for row in twice)} stands more than once. "
            "A lookup table has one row per key; take the others out."
        )


def refuse_missing(rows: DataFrame, names: Sequence[str], place: str) -> None:
    """Refuse names that are no columns, with the list and a guess.

    Raises:
        SourceError: a name is no column of the rows.
    """
    for name in names:
        if name in rows.columns:
            continue
        known = [column for column in rows.columns if column != MALFORMED_ROW]
        close = difflib.get_close_matches(name, known, n=1)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        raise SourceError(
            f"{place}: the source has no column '{name}'. It has: {', '.join(known)}.{guess}"
        )


def _question(lookup: Lookup) -> str:
    """What is joined once, whichever of its columns are wanted."""
    return lookup.model_dump_json(include={"table", "key", "equals"})
