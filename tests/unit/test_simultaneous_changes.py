"""Changes of one file at the same time wait for one another; none is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from feature_store.offline import append, published_ids, remove_user
from feature_store.settings import Shelf
from feature_store.tables import USER_STATE
from pipelines.erasure import (
    is_suppressed,
    suppress,
    suppressed_digests,
    suppression_path,
    user_hash,
)
from pipelines.workspace import Workspace

USERS = [f"user-{i}" for i in range(20)]
SUPPRESS = """\
import sys
from pathlib import Path
from pipelines.erasure import suppress, user_hash
from pipelines.workspace import Workspace
for user in sys.argv[2:]:
    suppress(Workspace(Path(sys.argv[1])), user_hash(user))
"""


def at_once(change: Callable[[str], object], users: list[str]) -> None:
    with ThreadPoolExecutor(max_workers=len(users)) as pool:
        list(pool.map(change, users))


def publish(shelf: Shelf, users: list[str], as_of_us: int) -> None:
    rows = pa.table(
        {
            "user_id": users,
            "state": pa.array([b"state"] * len(users), type=pa.binary()),
            "as_of_us": pa.array([as_of_us] * len(users), type=pa.int64()),
        }
    )
    append(shelf, USER_STATE, rows, as_of_us, None)


def test_erased_users_of_many_threads_are_all_kept_out(workspace: Workspace) -> None:
    at_once(lambda user: suppress(workspace, user_hash(user)), USERS)
    assert suppressed_digests(workspace) == sorted(user_hash(user) for user in USERS)


def test_erased_users_of_several_processes_are_all_kept_out(workspace: Workspace) -> None:
    root = Path(__file__).parents[2]
    parts = [USERS[:10], USERS[10:]]
    running = [
        subprocess.Popen([sys.executable, "-c", SUPPRESS, str(workspace.root), *part], cwd=root)
        for part in parts
    ]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert len(suppressed_digests(workspace)) == len(USERS)


def test_users_that_many_threads_take_out_are_all_gone(workspace: Workspace) -> None:
    shelf = Shelf(workspace)
    publish(shelf, USERS, 1)
    at_once(lambda user: remove_user(shelf, USER_STATE, user), USERS[:10])
    assert published_ids(shelf, USER_STATE) == set(USERS[10:])


def test_a_publish_brings_nobody_back_who_leaves_meanwhile(workspace: Workspace) -> None:
    shelf = Shelf(workspace)
    publish(shelf, USERS, 1)

    def change(user: str) -> None:
        number = USERS.index(user)
        if number % 2:
            publish(shelf, [f"new-{number}"], 2 + number)
        else:
            remove_user(shelf, USER_STATE, user)

    at_once(change, USERS)
    stay = {user for i, user in enumerate(USERS) if i % 2}
    assert published_ids(shelf, USER_STATE) == stay | {f"new-{i}" for i in range(1, 20, 2)}


def test_a_lock_file_of_another_account_is_enough(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    suppress(workspace, user_hash("ada"))
    real = os.open

    def open_as_another(path: Path, flags: int, *rest: int) -> int:
        if str(path).endswith(".lock") and flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr("os.open", open_as_another)
    suppress(workspace, user_hash("bob"))
    assert is_suppressed(workspace, "bob")


def test_the_list_of_erased_users_is_parsed_once_for_every_change(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    suppress(workspace, user_hash("ada"))
    assert is_suppressed(workspace, "ada")
    with monkeypatch.context() as unreadable:
        unreadable.delattr(Path, "read_text")
        assert is_suppressed(workspace, "ada")
        assert not is_suppressed(workspace, "bob")
    suppress(workspace, user_hash("bob"))
    assert is_suppressed(workspace, "bob")
    suppression_path(workspace).unlink()
    assert not is_suppressed(workspace, "ada")
