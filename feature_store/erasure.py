"""Erasing one person from the shelf, and keeping the person out of later publishes."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from feature_store.offline import remove_user
from feature_store.online import remove_online
from feature_store.settings import Shelf
from feature_store.tables import FEATURE_TABLES
from pipelines.contracts import USER_ID
from pipelines.erasure import suppressed_digests, suppression_path
from pipelines.workspace import Workspace, write_json_atomically


def suppressed_hashes(workspace: Workspace) -> frozenset[str]:
    """Hashes of the erased users."""
    return frozenset(suppressed_digests(workspace))


def user_hash(user_id: str) -> str:
    """SHA-256 of a user id: enough to recognise an erased user, without keeping the id."""
    return hashlib.sha256(user_id.encode()).hexdigest()


def is_suppressed(workspace: Workspace, user_id: str) -> bool:
    """Whether this user was erased."""
    return user_hash(user_id) in suppressed_hashes(workspace)


def without_suppressed(workspace: Workspace, rows: pa.Table) -> pa.Table:
    """Rows of users that were not erased."""
    hashes = suppressed_hashes(workspace)
    if not hashes or USER_ID not in rows.column_names:
        return rows
    keep = [user_hash(user) not in hashes for user in rows.column(USER_ID).to_pylist()]
    return rows.filter(pa.array(keep, type=pa.bool_()))


def suppress(workspace: Workspace, user_id: str) -> None:
    """Keep a user out of every later publish."""
    users = sorted(suppressed_hashes(workspace) | {user_hash(user_id)})
    write_json_atomically(suppression_path(workspace), {"users": users})


def erase_user(shelf: Shelf, user_id: str) -> None:
    """Erase a user's rows from the online and the offline store, after suppressing the user.

    The lake (events, profiles, token sequences, labels) is not touched.
    """
    suppress(shelf.workspace, user_id)
    for table in FEATURE_TABLES:
        if table.key == (USER_ID,):
            remove_online(shelf, table, user_id)
            remove_user(shelf, table, user_id)
