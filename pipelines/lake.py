"""Reads of the lake that need no Spark: Delta tables through delta-rs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from pipelines.contracts import (
    CATALOGUE,
    EVENT_TIME,
    EVENTS,
    GENERATION,
    TOKEN_SEQUENCES,
    USER_FLAGS,
    USER_ID,
    VOCABULARY_ID,
    ColumnType,
)
from pipelines.errors import WorkspaceError
from pipelines.tokens.generations import Generations
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace


def open_table(workspace: Workspace, name: str) -> DeltaTable:
    """The Delta table `name`.

    Raises:
        WorkspaceError: the workspace has no such table.
    """
    path = workspace.table(name)
    try:
        return DeltaTable(str(path))
    except TableNotFoundError as error:
        raise WorkspaceError(
            f"{workspace.root}: no table '{name}' here (looked in {path}). "
            "Make it with: bfm run --company company.yaml --workspace DIR"
        ) from error


def read(
    workspace: Workspace,
    name: str,
    columns: Sequence[str] | None = None,
    filters: list[tuple[str, str, Any]] | None = None,
) -> pa.Table:
    """A Delta table's current rows as Arrow; of token sequences those that hold.

    Args:
        workspace: Where the lake is.
        name: Table name.
        columns: Columns to read; all by default.
        filters: Conjunction of (column, operator, value), pushed down to the files. Token sequences
            are filtered by their key alone.

    Raises:
        WorkspaceError: the workspace has no such table.
    """
    table = open_table(workspace, name)
    if name == TOKEN_SEQUENCES.name and _has_generations(table):
        return _read_holding(table, columns, filters)
    return table.to_pyarrow_table(columns=list(columns) if columns else None, filters=filters)


def read_catalogue(workspace: Workspace) -> pa.Table:
    """The catalogue; without rows where the company has none."""
    if version_of(workspace, CATALOGUE.name) < 0:
        types = {ColumnType.STRING: pa.string(), ColumnType.DOUBLE: pa.float64()}
        columns = [(column.name, types[column.type]) for column in CATALOGUE.columns]
        return pa.schema(columns).empty_table()
    return read(workspace, CATALOGUE.name)


def sequence_generations(workspace: Workspace) -> Generations:
    """Which rows of token sequences hold, for those who read the table's files themselves.

    Raises:
        WorkspaceError: the workspace has no token sequences.
    """
    table = open_table(workspace, TOKEN_SEQUENCES.name)
    names = [USER_ID, GENERATION] if _has_generations(table) else [USER_ID]
    return Generations.of(table.to_pyarrow_table(columns=names))


def sequence_batches(
    workspace: Workspace, columns: Sequence[str], batch_rows: int
) -> Iterator[pa.Table]:
    """Columns of the token sequences that hold, at most `batch_rows` rows at a time.

    Raises:
        WorkspaceError: the workspace has no token sequences.
    """
    generations = sequence_generations(workspace)
    table = open_table(workspace, TOKEN_SEQUENCES.name)
    marks = [USER_ID, GENERATION] if _has_generations(table) else []
    read = list(dict.fromkeys([*columns, *marks]))
    for batch in table.to_pyarrow_dataset().to_batches(columns=read, batch_size=batch_rows):
        yield generations.holding(pa.table(batch)).select(list(columns))


def renewed_since(workspace: Workspace, version: int) -> list[str]:
    """Users whose token sequences were lengthened or made again after a version of their table.

    A table that was made anew as a whole names nobody: `flow.tokenized.made_whole` tells of that.

    Raises:
        WorkspaceError: the workspace has no token sequences.
    """
    table = open_table(workspace, TOKEN_SEQUENCES.name)
    if not _has_generations(table):
        return []
    filters = [(GENERATION, ">", version)]
    users = table.to_pyarrow_table(columns=[USER_ID], filters=filters).column(0)
    return sorted(users.unique().to_pylist())


def _has_generations(table: DeltaTable) -> bool:
    return GENERATION in (field.name for field in table.schema().fields)


def _read_holding(
    table: DeltaTable,
    columns: Sequence[str] | None,
    filters: list[tuple[str, str, Any]] | None,
) -> pa.Table:
    wanted = list(columns) if columns else None
    read = list(dict.fromkeys([*wanted, USER_ID, GENERATION])) if wanted else None
    rows = table.to_pyarrow_table(columns=read, filters=filters)
    holding = Generations.of(rows).holding(rows)
    return holding.select(wanted) if wanted else holding


def version_of(workspace: Workspace, name: str) -> int:
    """Version of a Delta table; -1 when there is none."""
    path = str(workspace.table(name))
    return DeltaTable(path).version() if DeltaTable.is_deltatable(path) else -1


def num_rows(workspace: Workspace, name: str) -> int:
    """Rows of a Delta table, as its log tells; of token sequences also those that hold no more.

    Raises:
        WorkspaceError: the workspace has no such table.
    """
    files = pa.table(open_table(workspace, name).get_add_actions(flatten=True))
    return sum(files.column("num_records").to_pylist())


def last_event(workspace: Workspace) -> datetime | None:
    """When the last event of the table happened, as its log tells; None where there is none.

    Raises:
        WorkspaceError: the workspace has no such table.
    """
    files = pa.table(open_table(workspace, EVENTS.name).get_add_actions(flatten=True))
    times = [one for one in files.to_pydict().get(f"max.{EVENT_TIME}", []) if one is not None]
    return max(times).astimezone(UTC) if times else None


def flagged_users(workspace: Workspace) -> frozenset[str]:
    """Users that training leaves out; none where no flags were made yet."""
    if version_of(workspace, USER_FLAGS.name) < 0:
        return frozenset()
    return frozenset(read(workspace, USER_FLAGS.name, [USER_ID]).column(0).to_pylist())


def read_histories(
    workspace: Workspace,
    vocabulary: Vocabulary,
    before_us: int,
    user_ids: Sequence[str] | None = None,
) -> Histories:
    """Encoded histories strictly before `before_us`, users in order of id, empty ones left out.

    Args:
        workspace: Where the lake is.
        vocabulary: The vocabulary that the caller works with.
        before_us: Prediction time in UTC microseconds. There is no way to read without one.
        user_ids: Only these users.

    Raises:
        WorkspaceError: no token sequences yet.
        VocabularyMismatchError: they were encoded with another vocabulary.
    """
    filters = [(USER_ID, "in", list(user_ids))] if user_ids is not None else None
    table = read(workspace, TOKEN_SEQUENCES.name, filters=filters)
    for vocabulary_id in table.column(VOCABULARY_ID).unique().to_pylist():
        vocabulary.require(vocabulary_id, f"{workspace.table(TOKEN_SEQUENCES.name)}")
    histories = Histories.from_arrow(table.sort_by(USER_ID)).known_to(vocabulary)
    return histories.before(before_us).non_empty()
