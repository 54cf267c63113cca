"""Users who asked to be forgotten: intake leaves their rows out although the source has them.

The list holds SHA-256 digests of ids, so that it names nobody. `feature_store.erasure` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path

from pipelines.workspace import Workspace


def suppression_path(workspace: Workspace) -> Path:
    """The list of erased users."""
    return workspace.features / "suppressed.json"


def suppressed_digests(workspace: Workspace) -> list[str]:
    """SHA-256 hex digests of the ids of erased users, sorted."""
    path = suppression_path(workspace)
    if not path.is_file():
        return []
    return sorted(json.loads(path.read_text(encoding="utf-8"))["users"])
