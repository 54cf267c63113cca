"""What an intake shows that was not so before: a warning with its likely cause."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.contracts import EVENT_ID, ITEM_ID, SemanticType, TableContract

_SHOWN_IDS: Final = (EVENT_ID, ITEM_ID)
_SHOWN_MEANINGS: Final = (SemanticType.CATEGORICAL, SemanticType.NUMBER, SemanticType.TIMESTAMP)


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something unusual about the new rows of a table.

    Args:
        table: Source table that the rows came from.
        field: Column that shows it.
        kind: In a few words, what kind of thing it is.
        seen: What the new rows show.
        usual: What was so before.
        cause: The likely cause.
        example: One such row as JSON, without what names a person; empty where no row shows it.
    """

    table: str
    field: str
    kind: str
    seen: str
    usual: str
    cause: str
    example: str = ""

    def __str__(self) -> str:
        return f"{self.table}.{self.field}: {self.seen}; usual: {self.usual}. {self.cause}"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """New rows to take examples from.

    Args:
        rows: The rows.
        shown: Columns that an example shows.
    """

    rows: pa.Table
    shown: list[str]

    @classmethod
    def of(cls, rows: pa.Table, contract: TableContract) -> Sample:
        """Examples show neither persons nor free text, which may name them."""
        shown = [
            column.name
            for column in contract.columns
            if column.name in _SHOWN_IDS or column.semantic in _SHOWN_MEANINGS
        ]
        return cls(rows=rows, shown=[name for name in rows.column_names if name in shown])

    def where(self, mask: Any) -> str:
        """The first row where a mask is true, as JSON; empty without such a row."""
        found = self.rows.select(self.shown).filter(mask).slice(0, 1).to_pylist()
        if not found:
            return ""
        known = {name: value for name, value in found[0].items() if value is not None}
        return json.dumps(known, ensure_ascii=False, default=str)
