"""Removing rows from the lake for good: from the tables, their old files and their logs."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable, WriterProperties, write_deltalake

from pipelines import lake
from pipelines.company import ColumnExpression, load_company
from pipelines.contracts import (
    EVENT_TIME,
    EVENTS,
    LABELS,
    PROFILES,
    QUARANTINE,
    RAW_ROW,
    ROW_HASH,
    SOURCE_TABLE,
    TOKEN_SEQUENCES,
    USER_FLAGS,
    USER_ID,
)
from pipelines.erasure import names_user, user_hash
from pipelines.flow.tokenized import changes_kept
from pipelines.workspace import Workspace

USER_TABLES: Final = (
    USER_FLAGS.name,
    LABELS.name,
    TOKEN_SEQUENCES.name,
    PROFILES.name,
    EVENTS.name,
)
"""Tables with a row's user in a column; what others are made of comes last."""
_LARGEST_EXACT: Final = 1e15


def users_of(workspace: Workspace) -> Iterator[str]:
    """Ids of all users with a row in the lake; a user may come more than once."""
    for name in USER_TABLES:
        if _exists(workspace, name):
            yield from lake.read(workspace, name, [USER_ID]).column(0).unique().to_pylist()


def erase_from(workspace: Workspace, name: str, user_id: str | None) -> int:
    """Erase a user from a table of `USER_TABLES` and forget its past; the number of rows.

    Args:
        workspace: Where the lake is.
        name: Name of the table; one that does not exist holds nobody.
        user_id: None when no table names the user any more: the past may still.
    """
    predicate = None if user_id is None else f"{USER_ID} = {_quoted(user_id)}"
    return remove_rows(workspace, name, predicate)


def erase_from_quarantine(workspace: Workspace, digest: str) -> int:
    """Erase the raw rows of a user from quarantine and forget its past; the number of rows."""
    if not _exists(workspace, QUARANTINE.name):
        return 0
    owner = owners(workspace)
    rows = lake.read(workspace, QUARANTINE.name, [SOURCE_TABLE, RAW_ROW, ROW_HASH]).to_pylist()
    hashes = {row[ROW_HASH] for row in rows if owner(row[SOURCE_TABLE], row[RAW_ROW], digest)}
    listed = ", ".join(_quoted(one) for one in sorted(hashes))
    predicate = f"{ROW_HASH} IN ({listed})" if hashes else None
    return remove_rows(workspace, QUARANTINE.name, predicate)


def expire(workspace: Workspace, oldest: datetime) -> int:
    """Remove events before a moment for good, and the past of what intake writes.

    Returns:
        Number of events removed.
    """
    old = lake.read(workspace, EVENTS.name, [EVENT_TIME], [(EVENT_TIME, "<", oldest)])
    if old.num_rows:
        remove_rows(workspace, EVENTS.name, f"{EVENT_TIME} < '{oldest.isoformat()}'")
    forget_past_of(workspace, EVENTS.name, QUARANTINE.name)
    return int(old.num_rows)


def forget_past_of(workspace: Workspace, *names: str) -> None:
    """Leave nothing of tables but their current rows."""
    for name in names:
        if _has_past(workspace, name):
            _forget(workspace, name, lake.open_table(workspace, name))


def _forget(workspace: Workspace, name: str, table: DeltaTable) -> None:
    """Whose events changed is not forgotten, or all sequences would have to be made again."""
    kept = changes_kept(workspace) if name == EVENTS.name else contextlib.nullcontext()
    with kept:
        forget_past(table, workspace.table(name))


def _has_past(workspace: Workspace, name: str) -> bool:
    commits = list((workspace.table(name) / "_delta_log").glob("*.json"))
    return len(commits) > 1


def remove_rows(workspace: Workspace, name: str, predicate: str | None) -> int:
    """Remove rows from a table, then its old files and the log that tells of them.

    Doing it again after a kill at any moment finishes it.

    Args:
        workspace: Where the lake is.
        name: Name of the table; one that does not exist has no rows.
        predicate: Which rows, in SQL; None: only the past is forgotten.

    Returns:
        Number of rows removed.
    """
    if not _exists(workspace, name):
        return 0
    table = lake.open_table(workspace, name)
    rows = table.count()
    if predicate is not None:
        _replace_by_nothing(table, predicate)
    removed = rows - table.count()
    _forget(workspace, name, table)
    return removed


def _replace_by_nothing(table: DeltaTable, predicate: str) -> None:
    """Delete rows. `DeltaTable.delete` writes texts as a type that Arrow cannot compare
    (delta-rs issue 4579)."""
    write_deltalake(
        table,
        pa.schema(table.schema().to_arrow()).empty_table(),
        mode="overwrite",
        predicate=predicate,
        writer_properties=WriterProperties(compression="ZSTD"),
    )


def forget_past(table: DeltaTable, path: Path) -> None:
    """Remove all but the current files of a table, and all of its log before now.

    Commits hold the smallest and largest ids of files and the predicates of deletions; so the log
    is folded into a checkpoint at a commit that holds neither.
    """
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    shutil.rmtree(path / "_change_data", ignore_errors=True)  # a vacuum leaves it
    table.alter.set_table_properties({"delta.enableDeletionVectors": "false"})
    table.create_checkpoint()
    version = f"{table.version():020d}"
    kept = (f"{version}.json", f"{version}.checkpoint", "_last_checkpoint")
    for file in (path / "_delta_log").iterdir():
        if file.is_file() and not file.name.startswith(kept):
            file.unlink()
    for checksum in path.rglob(".*.parquet.crc"):
        if not checksum.with_name(checksum.name[1 : -len(".crc")]).exists():
            checksum.unlink()


def _exists(workspace: Workspace, name: str) -> bool:
    return DeltaTable.is_deltatable(str(workspace.table(name)))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


Owner = Callable[[str, str, str], bool]
"""Whether a raw row (source table, JSON) is the user's with this digest."""


def owners(workspace: Workspace) -> Owner:
    """Decides by the column that the company's description names, else by the row's words."""
    company = load_company(workspace.company_path) if workspace.company_path.is_file() else None
    tables = {table.name: table.columns for table in company.tables} if company else {}

    def owns(table: str, raw_row: str, digest: str) -> bool:
        if table in tables and USER_ID not in tables[table]:
            return False
        expression = tables[table][USER_ID] if table in tables else None
        user = expression and _evaluate(expression, json.loads(raw_row))
        return user_hash(user) == digest if user else names_user(raw_row, digest)

    return owns


def _evaluate(expression: ColumnExpression, row: dict[str, Any]) -> str | None:
    """What intake makes of a raw row's columns (`stages.evaluation`), of the row's JSON.

    None for what the row alone does not tell, like a value of another table.
    """
    if expression.column is not None:
        value = _text(row.get(expression.column))
    elif expression.constant is not None:
        value = str(expression.constant)
    else:
        texts = [text for part in expression.parts if (text := _evaluate(part, row))]
        if expression.concat is None:
            texts = texts[:1] if expression.coalesce else []
        value = expression.separator.join(texts) or None
    return expression.values.get(value, value) if value else None


def _text(value: Any) -> str | None:
    """A scalar as `stages.casts.to_text` writes it."""
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < _LARGEST_EXACT:
        return str(int(value))
    text = str(value)
    return text if text.strip() else None
