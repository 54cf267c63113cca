"""Retention by age on the shelf: what was made of expired events goes with them."""

from __future__ import annotations

from collections.abc import Set

from feature_store.erasure import USER_TABLES, wipe_online
from feature_store.offline import drop_publishes_before, keep_newest, published_ids, versions
from feature_store.online import remove_online
from feature_store.settings import Shelf
from feature_store.tables import FEATURE_TABLES, ITEM_EMBEDDING, USER_STATE


def expire(shelf: Shelf, oldest_us: int, holders: Set[str]) -> int:
    """Drop old publishes, and users whose newest rows were made of events that are no more.

    The newest publish of a table stays whatever its age. Of whole histories each user's newest
    alone stays, because earlier ones reach further back. Of each item the newest embedding stays:
    a refresh publishes those of new items alone.

    Args:
        shelf: Published from a lake without expired events.
        oldest_us: Earlier publishes go, UTC microseconds.
        holders: Users whose newest rows hold no expired event.

    Returns:
        Number of rows removed.
    """
    for table in USER_TABLES:
        remove_online(shelf, table, sorted(published_ids(shelf, table) - holders))
    wipe_online(shelf)
    removed = 0
    for table in FEATURE_TABLES:
        if table is USER_STATE:
            removed += keep_newest(shelf, table, holders)
        elif table is ITEM_EMBEDDING:
            items = published_ids(shelf, table)
            removed += keep_newest(shelf, table, items, since_us=oldest_us)
        else:
            newest_us = max(one.as_of_us for one in versions(shelf, table))
            removed += drop_publishes_before(shelf, table, min(oldest_us, newest_us))
    return removed
