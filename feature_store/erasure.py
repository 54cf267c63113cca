"""Erasing one person from the shelf."""

from __future__ import annotations

from typing import Final

from feature_store.offline import published_ids, remove_user
from feature_store.online import remove_online, rewrite_redis_log
from feature_store.settings import Shelf
from feature_store.tables import FEATURE_TABLES
from pipelines.contracts import USER_ID
from pipelines.erasure import scrub_sqlite

USER_TABLES: Final = tuple(table for table in FEATURE_TABLES if table.key == (USER_ID,))


def erase_online(shelf: Shelf, user_id: str) -> int:
    """Erase a user's newest values; the number of rows removed."""
    if not shelf.is_published:
        return 0
    return sum(remove_online(shelf, table, [user_id]) for table in USER_TABLES)


def erase_offline(shelf: Shelf, user_id: str) -> int:
    """Erase a user from every publish; the number of rows removed."""
    return sum(remove_user(shelf, table, user_id) for table in USER_TABLES)


def wipe_online(shelf: Shelf) -> None:
    """Leave no trace of deleted rows in the embedded online store's file or in Redis' log."""
    if shelf.settings.online_store == "sqlite" and shelf.online_path.is_file():
        scrub_sqlite(shelf.online_path)
    if shelf.settings.online_store == "redis" and shelf.is_published:
        rewrite_redis_log(shelf)


def published_users(shelf: Shelf) -> set[str]:
    """Ids of all users in any publish."""
    return {user for table in USER_TABLES for user in published_ids(shelf, table)}
