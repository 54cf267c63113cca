"""Which raw rows were repaired and replayed: their source still holds them as they were.

The list holds hashes of rows, so that it tells nothing of what stood in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from pipelines.workspace import Workspace, write_json_atomically

REPAIRED_FILE: Final = "repaired.json"
_ROW_HASHES: Final = "row_hashes"


def repaired_hashes(workspace: Workspace) -> list[str]:
    """Hashes of rows that stay out of quarantine, sorted."""
    path = workspace.root / REPAIRED_FILE
    if not path.is_file():
        return []
    return sorted(json.loads(path.read_text(encoding="utf-8"))[_ROW_HASHES])


def remember_repaired(workspace: Workspace, row_hashes: Iterable[str]) -> None:
    """Keep rows out of quarantine from now on."""
    hashes = sorted({*repaired_hashes(workspace), *row_hashes})
    write_json_atomically(workspace.root / REPAIRED_FILE, {_ROW_HASHES: hashes})
