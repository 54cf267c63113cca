"""Retention by age on the shelf: what was made of expired events goes with them."""

from __future__ import annotations

from feature_store.erasure import USER_TABLES, wipe_online
from feature_store.offline import drop_publishes_before, published_ids, versions
from feature_store.online import remove_online
from feature_store.settings import Shelf
from feature_store.tables import FEATURE_TABLES, USER_STATE


def expire(shelf: Shelf, oldest_us: int) -> int:
    """Drop old publishes, and users online whom the newest publish does not hold any more.

    The newest publish stays whatever its age. Of whole histories it alone stays, because those of
    earlier publishes reach further back.

    Args:
        shelf: Published from a lake without expired events.
        oldest_us: Earlier publishes go, UTC microseconds.

    Returns:
        Number of rows removed.
    """
    newest_us = max(one.as_of_us for one in versions(shelf, USER_STATE))
    for table in USER_TABLES:
        gone = published_ids(shelf, table) - published_ids(shelf, table, since_us=newest_us)
        for user in sorted(gone):
            remove_online(shelf, table, user)
    wipe_online(shelf)
    removed = 0
    for table in FEATURE_TABLES:
        limit_us = newest_us if table is USER_STATE else min(oldest_us, newest_us)
        removed += drop_publishes_before(shelf, table, limit_us)
    return removed
