"""Room 3: the vocabulary, fitted on what happened before the training cut and on nothing else."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from pipelines.clock import from_micros
from pipelines.contracts import (
    CATEGORY,
    CHANNEL,
    EVENT_TIME,
    EVENT_TYPE,
    EVENTS,
    ITEM_ID,
    LOCALE,
    MARKET,
    QUERY,
    SemanticType,
    TableContract,
)
from pipelines.contracts import Column as ContractColumn
from pipelines.errors import WorkspaceError
from pipelines.tokens.binning import NUM_WORD_SLOTS
from pipelines.tokens.vocabulary import (
    PROBE_TYPE,
    TIME_KINDS,
    TokenField,
    TokenKind,
    Vocabulary,
)

MAX_VALUES: Final = 1_000
NUM_BINS: Final = 32
ITEM_FIELD: Final = "item"
_ONLY_WHEN_SEEN: Final = (CHANNEL, MARKET, LOCALE)
_CANONICAL: Final = frozenset(EVENTS.column_names)

Counts = dict[str, Counter[str]]
Edges = dict[str, tuple[float, ...]]


def fit_vocabulary(
    company: str,
    events: DataFrame,
    catalogue: DataFrame | None,
    contract: TableContract,
    training_cut: datetime,
) -> Vocabulary:
    """Fit token fields, items and categories. The same rows give the same `vocabulary_id`.

    Values are counted and quantiles are exact, so partitioning and order of rows play no part.

    Args:
        company: Name of the company.
        events: The `events` table.
        catalogue: The `catalogue` table, if the company has one.
        contract: The company's contract of events.
        training_cut: Events at or after it are not looked at.

    Raises:
        WorkspaceError: no event lies before the cut.
    """
    seen = events.where(F.col(EVENT_TIME) < F.lit(training_cut))
    counts = _count_values(seen, contract)
    if not counts[EVENT_TYPE]:
        raise WorkspaceError(_nothing_before(events, training_cut))
    item_categories = _catalogue_items(catalogue)
    categories = sorted({name for name in item_categories.values() if name is not None})
    category_idx = {name: i for i, name in enumerate(categories)}
    item_counts = counts[ITEM_ID]
    items = sorted(item_categories.keys() | item_counts.keys(), key=lambda i: (-item_counts[i], i))
    named = [item_categories.get(item) for item in items]
    return Vocabulary(
        company=company,
        fitted_before=training_cut.astimezone(UTC).isoformat(),
        fields=_token_fields(contract, counts, _fit_edges(seen, contract)),
        items=tuple(items),
        item_counts=tuple(item_counts[item] for item in items),
        categories=tuple(categories),
        item_categories=tuple(-1 if name is None else category_idx[name] for name in named),
    )


def _nothing_before(events: DataFrame, training_cut: datetime) -> str:
    micros = events.agg(F.unix_micros(F.min(EVENT_TIME)), F.unix_micros(F.max(EVENT_TIME))).first()
    first, last = (_iso(value) for value in micros or (None, None))
    return (
        f"No event lies before the training cut {training_cut.isoformat()}; events run from "
        f"{first} to {last}. Training sees events up to one window before --as-of: give fewer "
        "--window-days, or a later --as-of."
    )


def _iso(micros: int | None) -> str:
    return "-" if micros is None else from_micros(micros).isoformat()


def _counted(contract: TableContract) -> list[str]:
    """Columns whose values are counted; of the query, only whether it was ever typed."""
    by_kind = [c.name for c in contract.columns if c.semantic is SemanticType.CATEGORICAL]
    return [*by_kind, ITEM_ID]


def _count_values(seen: DataFrame, contract: TableContract) -> Counts:
    names = _counted(contract)
    pairs = [F.struct(F.lit(name).alias("field"), F.col(name).alias("value")) for name in names]
    typed = F.when(F.col(QUERY).isNotNull(), F.lit("typed"))
    pairs.append(F.struct(F.lit(QUERY).alias("field"), typed.alias("value")))
    grouped = seen.select(F.inline(F.array(*pairs))).where("value IS NOT NULL")
    columns = grouped.groupBy("field", "value").count().toArrow().to_pydict()
    counts: Counts = {name: Counter() for name in (*names, QUERY)}
    rows = zip(columns["field"], columns["value"], columns["count"], strict=True)
    for name, value, count in rows:
        counts[name][value] = count
    return counts


def _fit_edges(seen: DataFrame, contract: TableContract) -> Edges:
    names = [c.name for c in contract.columns if c.semantic is SemanticType.NUMBER]
    fractions = F.array(*(F.lit(i / NUM_BINS) for i in range(1, NUM_BINS)))

    def quantiles(name: str) -> Column:
        return F.percentile(F.when(F.col(name) != 0, F.col(name)), fractions).alias(name)

    row = seen.agg(*map(quantiles, names)).first()
    found = row.asDict() if row else {}
    return {name: tuple(sorted(set(found.get(name) or ()))) for name in names}


def _catalogue_items(catalogue: DataFrame | None) -> dict[str, str | None]:
    if catalogue is None:
        return {}
    table = catalogue.select(ITEM_ID, CATEGORY).toArrow()
    return dict(
        zip(table.column(ITEM_ID).to_pylist(), table.column(CATEGORY).to_pylist(), strict=True)
    )


def _token_fields(contract: TableContract, counts: Counts, edges: Edges) -> tuple[TokenField, ...]:
    extras = [column for column in contract.columns if column.name not in _CANONICAL]
    canonical = {column.name: column for column in contract.columns}
    types = [name for name in _most_frequent(counts[EVENT_TYPE]) if name != PROBE_TYPE]
    fields = [
        _categorical(EVENT_TYPE, (PROBE_TYPE, *types)),
        TokenField(name=ITEM_FIELD, kind=TokenKind.ITEM, column=ITEM_ID),
    ]
    for name, column in canonical.items():
        if column.semantic is SemanticType.NUMBER and name in _CANONICAL:
            fields.append(_number(name, edges[name]))
    fields += [
        _categorical(name, _most_frequent(counts[name])) for name in _ONLY_WHEN_SEEN if counts[name]
    ]
    for column in extras:
        fields += _extra(column, counts, edges)
    if counts[QUERY]:
        fields += _words(QUERY)
    fields += [TokenField(name=kind.value, kind=kind) for kind in TIME_KINDS]
    return tuple(fields)


def _extra(column: ContractColumn, counts: Counts, edges: Edges) -> list[TokenField]:
    if column.semantic is SemanticType.CATEGORICAL:
        return [_categorical(column.name, _most_frequent(counts[column.name]))]
    if column.semantic is SemanticType.NUMBER:
        return [_number(column.name, edges[column.name])]
    return _words(column.name) if column.semantic is SemanticType.TEXT else []


def _categorical(name: str, values: tuple[str, ...]) -> TokenField:
    return TokenField(name=name, kind=TokenKind.CATEGORICAL, column=name, values=values)


def _number(name: str, edges: tuple[float, ...]) -> TokenField:
    return TokenField(name=name, kind=TokenKind.NUMBER, column=name, edges=edges)


def _words(name: str) -> list[TokenField]:
    return [
        TokenField(name=f"{name}_{slot}", kind=TokenKind.WORD, column=name, slot=slot)
        for slot in range(NUM_WORD_SLOTS)
    ]


def _most_frequent(counts: Counter[str]) -> tuple[str, ...]:
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return tuple(names[:MAX_VALUES])
