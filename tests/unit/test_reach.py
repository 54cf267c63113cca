"""Calls to the online store that wait for one another."""

from __future__ import annotations

import pytest

from feature_store import reach
from feature_store.reach import StoreError, reached
from feature_store.settings import Shelf, ShelfSettings
from pipelines.workspace import Workspace


def test_who_waits_for_a_call_that_hangs_is_told_so_after_a_while(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "_WAIT_S", 0.05)
    shelf = Shelf(workspace, ShelfSettings())
    with reached(shelf):
        with pytest.raises(StoreError, match=r"an earlier call .*\. Start it"), reached(shelf):
            raise AssertionError("two calls at once")
        with reached(Shelf(workspace, ShelfSettings(online_store="redis", connection="r:1"))):
            pass  # its client has connections for all
    with reached(shelf):
        pass
