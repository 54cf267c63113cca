"""Rooms 1 to 4 as stages: `ingest` (intake, gate), `tokenize` (vocabulary, sequences, labels)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pipelines.contracts import LABELS, QUARANTINE, TOKEN_SEQUENCES, USER_FLAGS
from pipelines.erasure import suppressed_digests
from pipelines.flow.lake_erasure import expire, forget_past_of
from pipelines.flow.lock import lake_lock
from pipelines.flow.runner import Parts, Stage, StageContext, file_stamp, table_stamp
from pipelines.flow.stream import streamed_tables
from pipelines.flow.tokenize import tokenize
from pipelines.flow.tokenized import tokenized_stamp


def _table_names(context: StageContext) -> list[str]:
    return sorted({table.into for table in context.company.tables} | {QUARANTINE.name})


def _ingest_inputs(context: StageContext) -> Parts:
    from pipelines.sources.registry import source_fingerprint
    from pipelines.sources.request import SourceRequest

    path = context.settings.company_path
    oldest = context.retained_from
    streamed = streamed_tables(context.workspace)
    return {
        "retained_from": oldest.isoformat() if oldest else None,
        "company": context.company.model_dump(mode="json", exclude={"tasks"}),
        "sources": {
            table.name: source_fingerprint(SourceRequest.of(table, path))
            for table in context.company.sources
            if table.name not in streamed
        },
        "suppressed": suppressed_digests(context.workspace),
    }


def _ingest_outputs(context: StageContext) -> Parts:
    return table_stamp(context.workspace, *_table_names(context))


def _ingest(context: StageContext) -> None:
    from pipelines.quality.suites import import_gx
    from pipelines.stages.ingest import ingest

    streamed = streamed_tables(context.workspace)
    for name in streamed:
        context.say(f"{name}: taken in by bfm stream")
    with lake_lock(context.workspace), ThreadPoolExecutor(max_workers=1) as beside:
        beside.submit(import_gx)  # takes longer than all that is done with it: while Spark starts
        ingested = ingest(
            context.spark(),
            context.workspace,
            context.company,
            context.settings.company_path,
            context.say,
            context.retained_from,
            streamed,
        )
        if context.retained_from is not None:
            expired = expire(context.workspace, context.retained_from)
            context.say(f"  events: {expired:,} expired (retention_days)")
    for name, written in sorted(ingested.written.items()):
        released = f", {written.deleted:,} released" if written.deleted else ""
        context.say(
            f"  {name}: {written.inserted:,} inserted, {written.updated:,} updated{released}"
        )


def _tokenize_inputs(context: StageContext) -> Parts:
    kept = {"keeps_vocabulary": True} if context.keeps_vocabulary else {}
    return {
        "as_of": context.as_of.isoformat(),
        "window_days": context.settings.window_days,
        "flags": context.company.flags.model_dump(mode="json"),
        **kept,
    }


def _tokenize_outputs(context: StageContext) -> Parts:
    tables = table_stamp(context.workspace, TOKEN_SEQUENCES.name, LABELS.name, USER_FLAGS.name)
    stamp = tokenized_stamp(context.workspace)
    return {**file_stamp(context.workspace.vocabulary_path), **tables, **stamp}


def _tokenize(context: StageContext) -> None:
    from pipelines.flow.flagging import flag_users

    tokenize(context)
    flag_users(context)
    if context.retained_from is not None:
        made = (TOKEN_SEQUENCES.name, LABELS.name, USER_FLAGS.name)
        forget_past_of(context.workspace, *made)


INGEST: Final = Stage(
    name="ingest",
    version=2,
    needs=(),
    inputs=_ingest_inputs,
    outputs=_ingest_outputs,
    run=_ingest,
    uses_spark=True,
)

TOKENIZE: Final = Stage(
    name="tokenize",
    version=4,
    needs=("ingest",),
    inputs=_tokenize_inputs,
    outputs=_tokenize_outputs,
    run=_tokenize,
    uses_spark=True,
)

ROOMS: Final[tuple[Stage, ...]] = (INGEST, TOKENIZE)
"""Rooms 1 to 4 in order."""
