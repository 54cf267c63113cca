"""Live events: idempotent by id, all or nothing, encoded like the batch."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest

from pipelines.contracts import ColumnType
from pipelines.tokens.binning import DAY_US, FIRST_IDX, MISSING_IDX, UNKNOWN_IDX
from pipelines.workspace import Workspace
from serving import live_events
from serving.delivered import remove_delivered
from serving.live_events import (
    Accepted,
    EventConflictError,
    LiveEvents,
    encode_events,
    extra_fields,
)
from tests import small_shop
from tests.small_shop import purchase


def suppress_busy(store: LiveEvents, event: live_events.Event) -> None:
    """Write, also where the file stays busy."""
    with suppress(sqlite3.OperationalError):
        store.add([event])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LiveEvents]:
    opened = LiveEvents(tmp_path / "deep" / "live.db")
    yield opened
    opened.close()


def test_the_same_event_is_stored_once(store: LiveEvents) -> None:
    event = purchase("ada", 1, 3)
    assert store.add([event, event]) == Accepted(stored=1, known=1)
    assert store.add([dict(reversed(event.items()))]) == Accepted(stored=0, known=1)
    assert store.of_user("ada") == [event]


def test_a_question_does_not_wait_for_writes_that_wait(store: LiveEvents, tmp_path: Path) -> None:
    store.add([purchase("ada", 1, 3)])
    with closing(sqlite3.connect(tmp_path / "deep" / "live.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write = threading.Thread(target=lambda: suppress_busy(store, purchase("ada", 2, 3)))
        write.start()
        time.sleep(0.2)
        begun = time.perf_counter()
        assert len(store.of_user("ada")) == 1
        waited = time.perf_counter() - begun
        still_waits = write.is_alive()
        other.execute("ROLLBACK")
        write.join()
    assert still_waits
    assert waited < 1.0
    assert len(store.of_user("ada")) == 2


def test_of_very_many_events_the_newest_are_read(
    store: LiveEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_events, "MAX_OF_USER", 2)
    store.add([purchase("ada", number, 3, days_before=9 - number) for number in range(4)])
    assert [event["event_id"] for event in store.of_user("ada")] == ["ada-2", "ada-3"]


def test_what_is_too_old_goes_in_batches(
    store: LiveEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_events, "_BATCH", 2)
    events = [purchase("ada", number, 3, days_before=number) for number in range(7)]
    store.add(events)
    assert store.remove_before(int(events[1]["event_time"])) == 5
    assert len(store.of_user("ada")) == 2
    assert store.remove_received_before(time.time_ns() // 1_000 + 1) == 2


def test_another_content_is_a_conflict_and_nothing_is_stored(store: LiveEvents) -> None:
    store.add([purchase("ada", 1, 3)])
    with pytest.raises(EventConflictError) as raised:
        store.add([purchase("ada", 2, 4), purchase("ada", 1, 5)])
    assert raised.value.positions == [1]
    assert [event["event_id"] for event in store.of_user("ada")] == ["ada-1"]


def test_events_come_back_in_the_order_of_the_batch(store: LiveEvents) -> None:
    late = purchase("ada", 1, 1, days_before=1)
    b = {**purchase("ada", 3, 2, days_before=2), "session_id": "b"}
    a = {**purchase("ada", 4, 3, days_before=2), "session_id": "a"}
    none = purchase("ada", 5, 4, days_before=2)
    store.add([late, b, a, none])
    assert [event["event_id"] for event in store.of_user("ada")] == [
        "ada-5",
        "ada-4",
        "ada-3",
        "ada-1",
    ]


def test_a_removed_user_is_gone(store: LiveEvents, tmp_path: Path) -> None:
    store.add([purchase("ada", 1, 1), purchase("bob", 1, 1)])
    assert store.remove_user("ada") == 1
    assert store.remove_user("ada") == 0
    assert store.of_user("ada") == []
    assert len(store.of_user("bob")) == 1


def test_delivered_events_go_and_late_ones_stay(workspace: Workspace) -> None:
    small_shop.write_lake(workspace, small_shop.histories())
    said: list[str] = []
    with closing(LiveEvents(workspace.live_events_path)) as store:
        delivered = [purchase("ada", i, i, days_before=4 - i) for i in range(4)]
        late = purchase("ada", 77, 1, days_before=60)
        of_another = {**purchase("bob", 5, 1), "event_id": "ada-2x"}
        unknown = purchase("zoe", 1, 1)
        store.add([*delivered, late, of_another, unknown])
        remove_delivered(workspace, small_shop.AS_OF_US - DAY_US, said.append)
        left = [event["event_id"] for event in store.of_user("ada")]
        assert left == ["ada-77", "ada-3"], "the last one is not on a shelf of that time"
        remove_delivered(workspace, small_shop.AS_OF_US, said.append)
        remove_delivered(workspace, small_shop.AS_OF_US, said.append)
        assert store.ids_by_user() == {"ada": ["ada-77"], "bob": ["ada-2x"], "zoe": ["zoe-1"]}
        remove_delivered(workspace, time.time_ns() // 1_000 + 89 * DAY_US, said.append)
        assert len(store.users()) == 3
        remove_delivered(workspace, time.time_ns() // 1_000 + 91 * DAY_US, said.append)
        assert store.users() == []
    assert said == [
        "  live events: 3 are on the shelf now, 0 came in no table within 90 days; both removed",
        "  live events: 1 are on the shelf now, 0 came in no table within 90 days; both removed",
        "  live events: 0 are on the shelf now, 3 came in no table within 90 days; both removed",
    ]


def test_events_outlive_the_process(store: LiveEvents, tmp_path: Path) -> None:
    store.add([purchase("ada", 1, 1)])
    again = LiveEvents(tmp_path / "deep" / "live.db")
    assert len(again.of_user("ada")) == 1
    again.close()


def test_many_writers_store_each_event_once(store: LiveEvents) -> None:
    events = [purchase("ada", i, i % 20, days_before=i + 1) for i in range(50)]
    stored: list[int] = []
    threads = [
        threading.Thread(target=lambda: stored.append(sum(store.add([e]).stored for e in events)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(stored) == 50
    assert len(store.of_user("ada")) == 50


def test_live_events_are_encoded_like_stored_ones() -> None:
    known = small_shop.vocabulary()
    event = {
        **purchase("ada", 1, 3),
        "discount": 2.0,
        "store": "elsewhere",
    }
    encoded = encode_events(known, "ada", [event])
    tokens = {name: int(column[0]) for name, column in encoded.tokens.items()}
    assert tokens["item"] == known.item_idx_of["item-03"]
    assert tokens["event_type"] == FIRST_IDX + 1
    assert tokens["store"] == UNKNOWN_IDX
    assert tokens["discount"] == FIRST_IDX + 2
    assert tokens["gap"] == MISSING_IDX
    assert encoded.amounts[0] == np.float32(2.5)
    assert np.isnan(encoded.quantities[0])


def test_no_events_are_an_empty_history() -> None:
    encoded = encode_events(small_shop.vocabulary(), "ada", [])
    assert (len(encoded), encoded.num_events) == (1, 0)
    assert set(encoded.tokens) == {field.name for field in small_shop.vocabulary().fields}


def test_the_companys_own_fields_are_read_off_the_vocabulary() -> None:
    assert extra_fields(small_shop.vocabulary()) == {
        "discount": ColumnType.DOUBLE,
        "store": ColumnType.STRING,
    }
