"""How far the shelf has come since the model was published."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from feature_store.offline import published_ids
from feature_store.online import remove_online
from feature_store.published import Published
from feature_store.settings import Shelf
from feature_store.tables import FEATURE_TABLES
from pipelines.workspace import write_json_atomically

_FILE: Final = "refreshed.json"


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """The last refresh.

    Args:
        as_of_us: Its prediction time, UTC microseconds. Users who have no newer row on the shelf
            did nothing up to then.
        model_version: The model whose embeddings the shelf holds, as it was trained.
        sequences_id: Identity of the table of token sequences.
        sequences_version: Its version.
        catalogue_version: Version of the catalogue that the bundle was renewed with; -1: none.
        num_items: Items whose embeddings the shelf holds.
    """

    as_of_us: int
    model_version: str
    sequences_id: str
    sequences_version: int
    catalogue_version: int = -1
    num_items: int = 0

    @classmethod
    def load(cls, shelf: Shelf) -> Refreshed | None:
        """What `save` wrote; None before the first refresh."""
        path = shelf.root / _FILE
        if not path.is_file():
            return None
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, shelf: Shelf) -> None:
        """Write whole or not at all."""
        write_json_atomically(shelf.root / _FILE, asdict(self))


def make_way(shelf: Shelf, model_version: str, as_of_us: int, held: str | None) -> None:
    """Before another model is published: take rows since its cut off the online store.

    Newer rows are never overwritten, so those of a refresh or of a later cut would stay, in the
    vocabulary of the model before. Killed at any moment, the same call finishes it.

    Args:
        shelf: What it holds may be another model's.
        model_version: The model that is published.
        as_of_us: Its cut; earlier rows are overwritten anyway.
        held: The model whose rows the online store holds; None where it is not known.
    """
    if held == model_version:
        return
    Published(model_version="", online_store=shelf.settings.identity).save(shelf.workspace)
    for table in FEATURE_TABLES:
        remove_online(shelf, table, sorted(published_ids(shelf, table, since_us=as_of_us)))
    forget_refreshes(shelf)


def forget_refreshes(shelf: Shelf) -> None:
    """Let the next refresh publish everybody."""
    (shelf.root / _FILE).unlink(missing_ok=True)


def held_model(shelf: Shelf) -> str | None:
    """The model whose rows the last publish and refresh left; None where it is not known."""
    published, last = Published.load(shelf.workspace), Refreshed.load(shelf)
    if published is not None:
        return published.model_version
    return None if last is None else last.model_version
