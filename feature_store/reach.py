"""Calls to the online store: a store that is down is told by its name, and asked anew next time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

from feature_store.settings import Shelf
from pipelines.errors import EnvironmentProblemError

_CLIENTS: Final = ("redis", "psycopg", "psycopg_pool", "sqlite3")
_lock: Final = threading.Lock()


class StoreError(EnvironmentProblemError):
    """The online store does not answer, or lacks the tables of this shelf."""


@contextmanager
def reached(shelf: Shelf) -> Iterator[None]:
    """Ask the online store through Feast for the length of a `with` block.

    Feast keeps one connection to SQLite and to Postgres, which one thread at a time may use, and
    keeps it when it is dead: after an error it is forgotten. Blocks do not nest.

    Raises:
        StoreError: the store's client failed.
    """
    shared = shelf.settings.online_store != "redis"
    with named(shelf), _lock if shared else nullcontext():
        yield


@contextmanager
def named(shelf: Shelf) -> Iterator[None]:
    """Name the store in what its client raises; for calls beside Feast's own connection.

    Raises:
        StoreError: the store's client failed.
    """
    from feast.errors import FeastObjectNotFoundException

    try:
        yield
    except Exception as error:
        client = type(error).__module__.partition(".")[0]
        if client not in _CLIENTS and not isinstance(error, FeastObjectNotFoundException):
            raise
        shelf.forget_store()
        raise StoreError(_message(shelf, error)) from error


def _message(shelf: Shelf, error: Exception) -> str:
    settings = shelf.settings
    reason = next(iter(str(error).splitlines()), "").rstrip(".")
    return (
        f"The online store ({settings.online_store}, project '{settings.project}') does not answer "
        f"or lacks this shelf's tables: {type(error).__name__} {reason:.200}. Start it and check "
        "BFM_SHELF_...; if it was lost or is another one, fill it: "
        f"bfm publish --again --workspace {shelf.workspace.root}"
    )
