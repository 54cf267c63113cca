"""Which model's rows the shelf holds, written down as the last step of a publish."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from feature_store.settings import Shelf
from pipelines.workspace import Workspace, write_json_atomically

_FILE: Final = "published.json"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the last publish left.

    Args:
        model_version: The model whose rows of users the shelf holds, as it was trained; empty while
            they take the place of another model's.
        online_store: Identity of the online store that they were written to; empty where it is not
            known.
    """

    model_version: str
    online_store: str = ""

    @classmethod
    def load(cls, workspace: Workspace) -> Published | None:
        """What `save` wrote; None where nothing was published, or before this was written down."""
        path = published_path(workspace)
        if not path.is_file():
            return None
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, workspace: Workspace) -> None:
        """Write whole or not at all."""
        write_json_atomically(published_path(workspace), asdict(self))

    @property
    def is_under_way(self) -> bool:
        """Whether rows of two models may lie on the shelf."""
        return not self.model_version


def is_same_store(shelf: Shelf) -> bool:
    """Whether the last publish wrote to the online store that is set now; true where it is not
    known."""
    published = Published.load(shelf.workspace)
    known = "" if published is None else published.online_store
    return known in ("", shelf.settings.identity)


def seconds_since_publish(workspace: Workspace) -> float:
    """How long ago `save` wrote; 0 where it has not."""
    path = published_path(workspace)
    return max(time.time() - path.stat().st_mtime, 0.0) if path.is_file() else 0.0


def published_path(workspace: Workspace) -> Path:
    """Where it is written down."""
    return workspace.features / _FILE
