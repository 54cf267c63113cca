"""Calls to the online store: a store that is down is told by its name, and asked anew next time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from feature_store.settings import Shelf
from pipelines.errors import EnvironmentProblemError

_CLIENTS: Final = ("redis", "psycopg", "psycopg_pool", "sqlite3")
_WAIT_S: Final = 5.0
"""How long a call waits for another one's answer; a server that hangs may keep it for ever."""

_lock: Final = threading.Lock()


class StoreError(EnvironmentProblemError):
    """The online store does not answer, or lacks the tables of this shelf."""


@contextmanager
def reached(shelf: Shelf) -> Iterator[None]:
    """Ask the online store through Feast for the length of a `with` block.

    Feast keeps one connection to SQLite and to Postgres, which one thread at a time may use, and
    keeps it when it is dead: after an error it is forgotten. Blocks do not nest.

    Raises:
        StoreError: the store's client failed, or another call still waits for the store.
    """
    if shelf.settings.online_store == "redis":
        with named(shelf):
            yield
        return
    if not _lock.acquire(timeout=_WAIT_S):
        raise StoreError(_message(shelf, f"an earlier call waits for it for {_WAIT_S:g} s already"))
    try:
        with named(shelf):
            shelf.connect()
            yield
    finally:
        _lock.release()


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
        reason = next(iter(str(error).splitlines()), "").rstrip(".")
        raise StoreError(_message(shelf, f"{type(error).__name__} {reason:.200}")) from error


def _message(shelf: Shelf, reason: str) -> str:
    settings = shelf.settings
    return (
        f"The online store ({settings.online_store}, project '{settings.project}') does not answer "
        f"or lacks this shelf's tables: {reason}. Start it and check "
        "BFM_SHELF_...; if it was lost or is another one, fill it: "
        f"bfm publish --again --workspace {shelf.workspace.quoted}"
    )
