"""Rooms 1 to 4 as stages: `ingest` (intake, gate), `tokenize` (vocabulary, sequences, labels)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipelines.contracts import (
    CATALOGUE,
    EVENTS,
    LABELS,
    PREDICTION_TIME,
    QUARANTINE,
    TOKEN_SEQUENCES,
    USER_ID,
)
from pipelines.erasure import suppressed_digests
from pipelines.flow.lake_erasure import expire, forget_past_of
from pipelines.flow.runner import Parts, Stage, StageContext, file_stamp, table_stamp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from pipelines.tokens.vocabulary import Vocabulary


def _table_names(context: StageContext) -> list[str]:
    return sorted({table.into for table in context.company.tables} | {QUARANTINE.name})


def _ingest_inputs(context: StageContext) -> Parts:
    from pipelines.sources.registry import source_fingerprint
    from pipelines.sources.request import SourceRequest

    path = context.settings.company_path
    oldest = context.retained_from
    return {
        "retained_from": oldest.isoformat() if oldest else None,
        "company": context.company.model_dump(mode="json"),
        "sources": {
            table.name: source_fingerprint(SourceRequest.of(table, path))
            for table in context.company.tables
        },
        "suppressed": suppressed_digests(context.workspace),
    }


def _ingest_outputs(context: StageContext) -> Parts:
    return table_stamp(context.workspace, *_table_names(context))


def _ingest(context: StageContext) -> None:
    from pipelines.stages.ingest import ingest

    ingested = ingest(
        context.spark(),
        context.workspace,
        context.company,
        context.settings.company_path,
        context.say,
        context.retained_from,
    )
    for name, written in sorted(ingested.written.items()):
        context.say(f"  {name}: {written.inserted:,} inserted, {written.updated:,} updated")
    if context.retained_from is not None:
        expired = expire(context.workspace, context.retained_from)
        context.say(f"  events: {expired:,} expired (retention_days)")


def _tokenize_inputs(context: StageContext) -> Parts:
    return {"as_of": context.as_of.isoformat(), "window_days": context.settings.window_days}


def _tokenize_outputs(context: StageContext) -> Parts:
    tables = table_stamp(context.workspace, TOKEN_SEQUENCES.name, LABELS.name)
    return {**file_stamp(context.workspace.vocabulary_path), **tables}


def _tokenize(context: StageContext) -> None:
    from pipelines.stages.vocabulary import fit_vocabulary

    events = _load(context, EVENTS.name)
    has_catalogue = CATALOGUE.name in _table_names(context)
    catalogue = _load(context, CATALOGUE.name) if has_catalogue else None
    contract = context.company.contract("events")
    vocabulary = fit_vocabulary(
        context.company.name, events, catalogue, contract, context.training_cut
    )
    vocabulary.save(context.workspace.vocabulary_path)
    context.say(
        f"  vocabulary {vocabulary.vocabulary_id}: {len(vocabulary.fields)} fields, "
        f"{len(vocabulary.items):,} items, {len(vocabulary.categories):,} categories"
    )
    _store_sequences(context, events, vocabulary)
    _store_labels(context, events, catalogue)
    if context.retained_from is not None:
        forget_past_of(context.workspace, TOKEN_SEQUENCES.name, LABELS.name)


def _store_sequences(context: StageContext, events: DataFrame, vocabulary: Vocabulary) -> None:
    from pipelines.stages.sequences import token_sequences

    _store(context, TOKEN_SEQUENCES.name, token_sequences(events, vocabulary), [USER_ID])


def _store_labels(context: StageContext, events: DataFrame, catalogue: DataFrame | None) -> None:
    from pipelines.stages.labels import future_labels

    labels = future_labels(events, catalogue, context.as_of, context.settings.window_days)
    _store(context, LABELS.name, labels, [PREDICTION_TIME, USER_ID])


def _store(context: StageContext, name: str, frame: DataFrame, cluster: list[str]) -> None:
    from pipelines.stages.delta import replace

    rows = frame.persist()
    try:
        changed = replace(rows, context.workspace.table(name), cluster)
        context.say(f"  {name}: {rows.count():,} rows{'' if changed else ', unchanged'}")
    finally:
        rows.unpersist()


def _load(context: StageContext, name: str) -> DataFrame:
    return context.spark().read.format("delta").load(str(context.workspace.table(name)))


INGEST: Final = Stage(
    name="ingest",
    version=1,
    needs=(),
    inputs=_ingest_inputs,
    outputs=_ingest_outputs,
    run=_ingest,
    uses_spark=True,
)

TOKENIZE: Final = Stage(
    name="tokenize",
    version=1,
    needs=("ingest",),
    inputs=_tokenize_inputs,
    outputs=_tokenize_outputs,
    run=_tokenize,
    uses_spark=True,
)

ROOMS: Final[tuple[Stage, ...]] = (INGEST, TOKENIZE)
"""Rooms 1 to 4 in order."""
