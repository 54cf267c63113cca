"""What is in quarantine, why, and how it gets out again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipelines import lake
from pipelines.contracts import QUARANTINE, RAW_ROW, ROW_HASH, RULE, SOURCE_TABLE
from pipelines.workspace import Workspace, write_bytes_atomically

HASH_KEY: Final = "_row_hash"
TABLE_KEY: Final = "_table"
RULE_KEY: Final = "_rule"
RESERVED_KEYS: Final = (HASH_KEY, TABLE_KEY, RULE_KEY)
"""Keys of an exported row that are no columns of its source."""
_WAYS_OUT: Final = {
    "malformed_row": "check the source's options (delimiter, quote, encoding), and that all lines "
    "of a file end alike",
    "_not_a_time": "give its format: {parse: {column, format}}, or the table's time_unit",
    "_without_time_zone": "give the table's time_zone",
    "_not_a_number": "map a column of numbers like 12.5, or give the table's decimal_mark: ','",
    "_not_in_encoding": "give the source's options.encoding, like ISO-8859-1; JSON lines are UTF-8",
    "_missing": "map another column, or several with 'coalesce'",
    "_below_0": "negative_quantity: return_event makes returns of them",
    "_not_above_0": "negative_quantity: return_event makes returns of negative ones",
}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Rows of one source table that one rule refused.

    Args:
        table: The source table.
        rule: What is wrong about them.
        num_rows: How many there are.
        example: One of them as JSON.
    """

    table: str
    rule: str
    num_rows: int
    example: str

    @property
    def way_out(self) -> str:
        """What to change in `company.yaml`; each row can also be repaired and replayed."""
        for ending, advice in _WAYS_OUT.items():
            if self.rule.endswith(ending):
                return advice
        return "correct the source"


def reasons(
    workspace: Workspace, table: str | None = None, rule: str | None = None
) -> list[Reason]:
    """Why rows are in quarantine, the most frequent reason first.

    Args:
        workspace: Where the lake is.
        table: Only rows of this source table.
        rule: Only rows that this rule refused.

    Raises:
        WorkspaceError: nothing was taken in yet.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for row in _rows(workspace, table, rule):
        found.setdefault((row[SOURCE_TABLE], row[RULE]), []).append(row[RAW_ROW])
    listed = [
        Reason(table=one, rule=broken, num_rows=len(rows), example=min(rows))
        for (one, broken), rows in found.items()
    ]
    return sorted(listed, key=lambda one: (-one.num_rows, one.table, one.rule))


def export(
    workspace: Workspace, path: Path, table: str | None = None, rule: str | None = None
) -> int:
    """Write raw rows as JSON lines to repair; the number of rows.

    Each also tells its hash, table and rule (`RESERVED_KEYS`).

    Raises:
        WorkspaceError: nothing was taken in yet.
    """
    lines = [
        json.dumps(_exported(row), ensure_ascii=False)
        for row in sorted(_rows(workspace, table, rule), key=lambda one: one[ROW_HASH])
    ]
    write_bytes_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def _exported(row: dict[str, Any]) -> dict[str, Any]:
    reserved = {HASH_KEY: row[ROW_HASH], TABLE_KEY: row[SOURCE_TABLE], RULE_KEY: row[RULE]}
    return {**json.loads(row[RAW_ROW]), **reserved}


def _rows(workspace: Workspace, table: str | None, rule: str | None) -> Iterator[dict[str, Any]]:
    wanted = {SOURCE_TABLE: table, RULE: rule}
    for row in lake.read(workspace, QUARANTINE.name).to_pylist():
        if all(value in (None, row[name]) for name, value in wanted.items()):
            yield row
