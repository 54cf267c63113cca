"""The shelf: point-in-time correct, idempotent, never older over newer."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from feature_store.offline import historical_features, published_ids, sample_ids, versions
from feature_store.online import (
    held_online,
    online_features,
    online_state,
    remove_online,
    require_filled,
    require_same_store,
    write_online,
)
from feature_store.publish import begin_again, publish, renew
from feature_store.published import Published
from feature_store.reach import StoreError
from feature_store.refreshed import Refreshed
from feature_store.retention import expire
from feature_store.settings import Shelf, ShelfSettings
from feature_store.tables import FEATURE_TABLES, ITEM_EMBEDDING, TIME_TYPE, USER_STATE
from pipelines.contracts import ITEM_ID, USER_ID, TableContract
from pipelines.errors import UnknownNameError, UserError, WorkspaceError
from pipelines.tokens.binning import DAY_US, HOUR_US
from pipelines.workspace import Workspace
from tests import small_shop
from tests.small_shop import AS_OF_US, USERS, erase_user

pytestmark = pytest.mark.integration

Row = dict[str, object]

NUM_EVENTS = "user_activity:num_events"
VERSION = "user_embedding:model_version"


put = partial(small_shop.put_on_shelf, version="v1")


def ask(
    workspace: Workspace, rows: list[tuple[str, int]], *features: str
) -> list[dict[str, object]]:
    table = pa.table(
        {
            USER_ID: [user for user, _ in rows],
            "event_timestamp": pa.array([time for _, time in rows], type=TIME_TYPE),
            "note": [f"row {i}" for i in range(len(rows))],
        }
    )
    return historical_features(Shelf(workspace), table, features).to_pylist()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def model_on_shelf(workspace: Workspace) -> str | None:
    published = Published.load(workspace)
    return published.model_version if published else None


def fail(*_: object, **__: object) -> None:
    raise OSError("disk full")


def refuse(*_: object, **__: object) -> None:
    raise sqlite3.OperationalError("refused")


def files(workspace: Workspace) -> dict[str, bytes]:
    folder = workspace.features / "offline"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def test_publishing_twice_changes_nothing(workspace: Workspace) -> None:
    first = put(workspace)
    before, online = (
        files(workspace),
        online_features(Shelf(workspace), USER_ID, USERS, [NUM_EVENTS]),
    )
    second = put(workspace)
    assert first.appended == tuple(table.name for table in FEATURE_TABLES)
    assert first.written["user_state"] == len(USERS)
    assert second.appended == ()
    assert set(second.written.values()) == {0}
    assert files(workspace) == before
    assert online_features(Shelf(workspace), USER_ID, USERS, [NUM_EVENTS]) == online


def test_a_publish_cut_short_is_finished_by_the_next(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace, as_of_us=AS_OF_US - DAY_US)
    with monkeypatch.context() as broken:
        broken.setattr("feast.FeatureStore.write_to_online_store", fail)
        with pytest.raises(OSError, match="disk full"):
            put(workspace)
    done = put(workspace)
    assert done.written["user_state"] == len(USERS)
    state = online_state(Shelf(workspace), "ada")
    assert state is not None
    assert state.as_of_us == AS_OF_US


def test_history_is_read_as_it_was_known(workspace: Workspace) -> None:
    put(workspace, as_of_us=AS_OF_US - DAY_US, version="old")
    put(workspace, as_of_us=AS_OF_US, version="new")
    rows = ask(
        workspace,
        [
            ("ada", AS_OF_US + HOUR_US),
            ("nobody", AS_OF_US),
            ("ada", AS_OF_US - 1),
            ("bob", AS_OF_US - 2 * DAY_US),
            ("ada", AS_OF_US),
            ("ada", AS_OF_US + HOUR_US),
        ],
        VERSION,
        NUM_EVENTS,
    )
    assert [row["model_version"] for row in rows] == ["new", None, "old", None, "new", "new"]
    assert [row["num_events"] for row in rows] == [4, None, 3, None, 4, 4]
    assert [row["note"] for row in rows] == [f"row {i}" for i in range(6)]


def test_late_data_does_not_leak_into_the_past(workspace: Workspace) -> None:
    put(workspace, num_events=3, version="first")
    late_us = AS_OF_US + 5 * DAY_US
    put(workspace, num_events=6, version="corrected", created_us=late_us)
    rows = ask(
        workspace,
        [("ada", AS_OF_US + DAY_US), ("ada", late_us), ("ada", late_us - 1)],
        VERSION,
        NUM_EVENTS,
    )
    assert [row["model_version"] for row in rows] == ["first", "corrected", "first"]
    assert [row["num_events"] for row in rows] == [3, 6, 3]


def test_an_older_publish_never_overwrites_a_newer_one_online(workspace: Workspace) -> None:
    put(workspace, as_of_us=AS_OF_US)
    late = put(workspace, as_of_us=AS_OF_US - DAY_US)
    assert late.written["user_embedding"] == 0
    (found,) = online_features(Shelf(workspace), USER_ID, ["ada"], [NUM_EVENTS])
    assert found["num_events"] == 4
    assert ask(workspace, [("ada", AS_OF_US - 1)], NUM_EVENTS)[0]["num_events"] == 3


def test_a_correction_has_a_later_time_online(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []

    def record(_: object, name: str, df: Any) -> None:
        if name == USER_STATE.name:
            written.append(df["event_timestamp"])

    monkeypatch.setattr("feast.FeatureStore.write_to_online_store", record)
    put(workspace)
    put(workspace, num_events=2)
    assert written[1].min() > written[0].max(), "or Redis would skip it"


def test_a_model_of_an_earlier_cut_replaces_one_of_a_later_cut(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier_us = AS_OF_US - DAY_US
    put(workspace, version="later")
    with monkeypatch.context() as broken:
        broken.setattr("feast.FeatureStore.write_to_online_store", fail)
        with pytest.raises(OSError, match="disk full"):
            put(workspace, as_of_us=earlier_us, version="earlier")
    assert model_on_shelf(workspace) == ""
    put(workspace, as_of_us=earlier_us, version="earlier")
    assert model_on_shelf(workspace) == "earlier"
    for found in online_features(
        Shelf(workspace), USER_ID, list(USERS), [VERSION, "user_state:as_of_us"]
    ):
        assert (found["model_version"], found["as_of_us"]) == ("earlier", earlier_us)
    (item,) = online_features(Shelf(workspace), ITEM_ID, ["item-03"], ["item_embedding:as_of_us"])
    assert item["as_of_us"] == earlier_us


def test_features_say_what_happened(workspace: Workspace) -> None:
    put(workspace)
    features = [f"user_activity:{name}" for name in ("spend_28d", "num_sessions_28d", "num_items")]
    (ada,) = online_features(
        Shelf(workspace), USER_ID, ["ada"], [*features, "user_activity:days_since_last_event"]
    )
    assert ada["spend_28d"] == pytest.approx(4 * 2.5)
    assert (ada["num_sessions_28d"], ada["num_items"]) == (4, 4)
    assert ada["days_since_last_event"] == pytest.approx(1.0)
    items = online_features(
        Shelf(workspace), ITEM_ID, ["item-03", "item-19"], ["item_activity:num_users"]
    )
    assert [row["num_users"] for row in items] == [2, None]


def test_state_comes_back_whole_and_with_its_age(workspace: Workspace) -> None:
    put(workspace)
    shelf = Shelf(workspace)
    state = online_state(shelf, "cyd", not_before_us=AS_OF_US)
    expected = small_shop.histories().only(["cyd"])
    assert state is not None
    assert state.vocabulary_id == small_shop.vocabulary().vocabulary_id
    assert state.histories.to_bytes("") == expected.to_bytes("")
    assert online_state(shelf, "cyd", not_before_us=AS_OF_US + 1) is None
    assert online_state(shelf, "nobody") is None


def test_expired_publishes_go_and_users_without_history_go_online(workspace: Workspace) -> None:
    put(workspace, num_events=2)
    second_us, third_us = AS_OF_US + 90 * DAY_US, AS_OF_US + 100 * DAY_US
    put(workspace, as_of_us=second_us)
    small_shop.write_lake(workspace, small_shop.histories().only(["ada", "bob"]))
    publish(
        workspace,
        as_of_us=third_us,
        user_embeddings=small_shop.write_embeddings(workspace.root, ["ada", "bob"]),
        item_embeddings=small_shop.write_embeddings(workspace.root, small_shop.vocabulary().items),
        model_version="v2",
    )
    shelf = Shelf(workspace)
    assert online_state(shelf, "cyd") is not None
    assert expire(shelf, AS_OF_US + 50 * DAY_US, {"ada", "bob"}) > 0
    assert online_state(shelf, "cyd") is None
    assert online_state(shelf, "ada") is not None
    for table in FEATURE_TABLES:
        kept = [version.as_of_us for version in versions(shelf, table)]
        earlier = [] if table is USER_STATE else [second_us]
        assert kept == [*earlier, third_us], table.name
    assert published_ids(shelf, USER_STATE) == {"ada", "bob"}
    assert expire(shelf, AS_OF_US + 50 * DAY_US, {"ada", "bob"}) == 0


def test_a_renewal_moves_its_users_alone(workspace: Workspace) -> None:
    put(workspace, num_events=2)
    small_shop.write_lake(workspace, small_shop.histories(4))
    later_us = AS_OF_US + 10 * DAY_US
    embeddings = pq.read_table(small_shop.write_embeddings(workspace.root, ["ada"]))
    done = renew(workspace, as_of_us=later_us, user_embeddings=embeddings, model_version="v2")
    taken = len({*small_shop.histories(4).tokens["item"].tolist()})
    of_ada = dict.fromkeys(("user_embedding", "user_activity", "user_state"), 1)
    assert done.written == {**of_ada, "item_activity": taken}
    features = [NUM_EVENTS, VERSION, "user_embedding:as_of_us"]
    ada, bob = online_features(Shelf(workspace), USER_ID, ["ada", "bob"], features)
    assert (ada["num_events"], ada["model_version"], ada["as_of_us"]) == (4, "v2", later_us)
    assert (bob["num_events"], bob["model_version"], bob["as_of_us"]) == (2, "v1", AS_OF_US)
    asked = [("ada", AS_OF_US + DAY_US), ("ada", later_us), ("bob", later_us)]
    assert [row["num_events"] for row in ask(workspace, asked, NUM_EVENTS)] == [2, 4, 2]
    again = renew(workspace, as_of_us=later_us, user_embeddings=embeddings, model_version="v2")
    assert (again.appended, sum(again.written.values())) == ((), 0)


def test_another_model_replaces_what_was_refreshed_after_its_cut(workspace: Workspace) -> None:
    put(workspace)
    later_us, cut_us = AS_OF_US + 10 * DAY_US, AS_OF_US + 5 * DAY_US
    embeddings = pq.read_table(small_shop.write_embeddings(workspace.root, ["ada"]))
    renew(workspace, as_of_us=later_us, user_embeddings=embeddings, model_version="v1")
    shelf = Shelf(workspace)
    Refreshed(as_of_us=later_us, model_version="v1", sequences_id="", sequences_version=0).save(
        shelf
    )
    put(workspace)
    assert Refreshed.load(shelf) is not None, "the same model goes on"
    (ada,) = online_features(shelf, USER_ID, ["ada"], ["user_state:as_of_us"])
    assert ada["as_of_us"] == later_us
    put(workspace, as_of_us=cut_us, version="v2")
    assert Refreshed.load(shelf) is None
    rows = online_features(shelf, USER_ID, list(USERS), [VERSION, "user_state:as_of_us"])
    assert [row["model_version"] for row in rows] == ["v2"] * 3
    assert [row["as_of_us"] for row in rows] == [cut_us] * 3


def test_expiry_leaves_each_holder_the_newest_state(workspace: Workspace) -> None:
    put(workspace)
    later_us = AS_OF_US + 10 * DAY_US
    embeddings = pq.read_table(small_shop.write_embeddings(workspace.root, ["ada"]))
    renew(workspace, as_of_us=later_us, user_embeddings=embeddings, model_version="v1")
    shelf = Shelf(workspace)
    assert expire(shelf, AS_OF_US - DAY_US, {"ada", "bob"}) == 2, "cyd's state and ada's older one"
    kept = pq.read_table(shelf.offline_path(USER_STATE.name))
    assert sorted(kept.select([USER_ID, "as_of_us"]).to_pylist(), key=lambda row: row[USER_ID]) == [
        {USER_ID: "ada", "as_of_us": later_us},
        {USER_ID: "bob", "as_of_us": AS_OF_US},
    ]
    assert online_state(shelf, "bob") is not None
    assert online_state(shelf, "cyd") is None
    expire(shelf, later_us, {"ada", "bob"})
    assert [one.as_of_us for one in versions(shelf, ITEM_EMBEDDING)] == [AS_OF_US], "none is newer"


def test_a_new_item_joins_those_that_are_published(workspace: Workspace) -> None:
    put(workspace)
    shelf, later_us = Shelf(workspace), AS_OF_US + 10 * DAY_US
    before = published_ids(shelf, ITEM_EMBEDDING)
    users = pq.read_table(small_shop.write_embeddings(workspace.root, []))
    items = pq.read_table(small_shop.write_embeddings(workspace.root, ["brand new"]))
    done = renew(
        workspace,
        as_of_us=later_us,
        user_embeddings=users,
        item_embeddings=items,
        model_version="v1",
    )
    assert done.written[ITEM_EMBEDDING.name] == 1
    assert done.written[USER_STATE.name] == 0
    expire(shelf, later_us, {*USERS})
    assert published_ids(shelf, ITEM_EMBEDDING) == {*before, "brand new"}, "older ones stay"


def test_an_erased_user_is_gone_and_stays_gone(workspace: Workspace) -> None:
    put(workspace)
    erase_user(Shelf(workspace), "ada")
    assert online_state(Shelf(workspace), "ada") is None
    assert not any(b"ada" in content for content in files(workspace).values())
    put(workspace, as_of_us=AS_OF_US + DAY_US)
    assert online_state(Shelf(workspace), "ada") is None
    assert online_state(Shelf(workspace), "bob") is not None
    assert ask(workspace, [("ada", AS_OF_US + DAY_US)], VERSION)[0]["model_version"] is None
    assert b'"ada"' not in (workspace.features / "suppressed.json").read_bytes()


def test_who_is_erased_while_a_publish_writes_is_gone(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def erase_first(shelf: Shelf, table: TableContract, *rest: Any) -> int:
        if table is USER_STATE:
            erase_user(shelf, "ada")
        return write_online(shelf, table, *rest)

    monkeypatch.setattr("feature_store.publish.write_online", erase_first)
    put(workspace)
    assert online_state(Shelf(workspace), "ada") is None
    assert not any(b"ada" in content for content in files(workspace).values())
    assert online_state(Shelf(workspace), "bob") is not None


def test_nothing_published_is_said_with_the_way_out(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="bfm publish"):
        ask(workspace, [("ada", AS_OF_US)], VERSION)


def test_unknown_features_and_missing_keys_are_refused(workspace: Workspace) -> None:
    put(workspace)
    with pytest.raises(UnknownNameError, match="Did you mean 'user_activity:num_events'"):
        ask(workspace, [("ada", AS_OF_US)], "user_activity:num_event")
    with pytest.raises(UserError, match="item_id"):
        ask(workspace, [("ada", AS_OF_US)], "item_activity:num_users")


def test_feast_apply_works_from_its_command_line(workspace: Workspace) -> None:
    put(workspace)
    root = Path(__file__).parents[2]
    feast = Path(sys.executable).with_name("feast")
    yaml = str(workspace.features / "feature_store.yaml")
    command = [str(feast), "-c", str(root / "feature_store" / "repo"), "-f", yaml]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for arguments in (["apply", "--skip-source-validation"], ["feature-views", "list"]):
        done = subprocess.run(
            [*command, *arguments],
            env=environment,
            cwd=workspace.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    for table in FEATURE_TABLES:
        assert table.name in done.stdout


def test_a_project_has_a_part_of_the_store_of_its_own(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace)
    monkeypatch.setenv("BFM_SHELF_PROJECT", "shop_b")
    put(workspace, num_events=2, version="other")
    erase_user(Shelf(workspace), "bob")
    monkeypatch.delenv("BFM_SHELF_PROJECT")
    names = ["ada", "bob"]
    first = online_features(Shelf(workspace), USER_ID, names, [NUM_EVENTS])
    assert [row["num_events"] for row in first] == [4, 4]
    monkeypatch.setenv("BFM_SHELF_PROJECT", "shop_b")
    second = online_features(Shelf(workspace), USER_ID, names, [NUM_EVENTS])
    assert [row["num_events"] for row in second] == [2, None]


def test_a_lost_online_store_is_named_and_filled_again(workspace: Workspace) -> None:
    put(workspace)
    shelf = Shelf(workspace)
    require_filled(shelf)
    remove_online(shelf, USER_STATE, list(USERS))
    with pytest.raises(WorkspaceError, match="bfm publish --again"):
        require_filled(shelf)
    assert put(workspace).written["user_state"] == 0, "what was written is not written again"
    begin_again(shelf)
    assert put(workspace).written["user_state"] == len(USERS)
    require_filled(shelf)
    for path in shelf.root.glob("online.db*"):
        path.unlink()
    with pytest.raises(WorkspaceError, match="bfm publish --again"):
        require_filled(Shelf(workspace))
    assert put(workspace).written["user_state"] == len(USERS), "the file was lost"
    with closing(sqlite3.connect(shelf.online_path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_online_store_that_was_lost_is_known_after_a_look_into_it(workspace: Workspace) -> None:
    put(workspace)
    shelf = Shelf(workspace)
    for path in shelf.root.glob("online.db*"):
        path.unlink()
    with pytest.raises(StoreError, match="no such table"):
        online_features(shelf, USER_ID, USERS, [NUM_EVENTS])
    assert shelf.online_path.is_file(), "Feast makes an empty one"
    with pytest.raises(WorkspaceError, match="lost or emptied"):
        require_filled(Shelf(workspace))
    assert put(workspace).written["user_state"] == len(USERS)


def test_a_store_that_does_not_answer_is_named_and_asked_anew(workspace: Workspace) -> None:
    put(workspace)
    shelf = Shelf(workspace)
    kept = {path: path.read_bytes() for path in shelf.root.glob("online.db*")}
    for path in kept:
        path.write_bytes(b"no database" * 1_000)
    with pytest.raises(StoreError, match=r"\(sqlite, project 'bfm'\).*bfm publish --again"):
        online_features(shelf, USER_ID, USERS, [NUM_EVENTS])
    with pytest.raises(StoreError):
        erase_user(shelf, "bob")
    for path, content in kept.items():
        path.write_bytes(content)
    assert online_features(shelf, USER_ID, ["ada"], [NUM_EVENTS])[0]["num_events"] == 4


def test_a_shelf_whose_first_publish_met_no_store_is_not_published(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureStore, "apply", refuse)
    with pytest.raises(StoreError, match="refused"):
        put(workspace)
    (workspace.features / "registry.db").touch()
    assert not Shelf(workspace).is_published


def test_the_store_of_before_is_filled_again_when_it_is_set_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace, as_of_us=AS_OF_US + DAY_US, version="old")
    monkeypatch.setenv("BFM_SHELF_PROJECT", "shop_b")
    put(workspace, version="new")
    monkeypatch.delenv("BFM_SHELF_PROJECT")
    put(workspace, version="new")
    rows = online_features(Shelf(workspace), USER_ID, USERS, [VERSION])
    assert {row["model_version"] for row in rows} == {"new"}


def test_users_who_are_gone_do_not_make_a_store_look_lost(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace)
    shelf = Shelf(workspace)
    renew(
        workspace,
        as_of_us=AS_OF_US + DAY_US,
        user_embeddings=pq.read_table(small_shop.write_embeddings(workspace.root, ["bob"])),
        model_version="v1",
    )
    assert sample_ids(shelf, USER_STATE, 2) == ["bob", USERS[0]], "the newest, and one of all"
    monkeypatch.setattr("feature_store.online._SAMPLE", 2)
    remove_online(shelf, USER_STATE, [user for user in USERS if user != "bob"])
    assert held_online(shelf, list(USERS)) == ["bob"]
    require_filled(shelf)
    for user in USERS:
        erase_user(shelf, user)
    assert sample_ids(shelf, USER_STATE, 2) == []
    require_filled(shelf)


def test_another_online_store_is_filled_by_the_next_publish(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace)
    Refreshed(as_of_us=1, model_version="v1", sequences_id="", sequences_version=0).save(
        Shelf(workspace)
    )
    monkeypatch.setenv("BFM_SHELF_PROJECT", "shop_b")
    with pytest.raises(WorkspaceError, match="another online store"):
        require_same_store(Shelf(workspace))
    with pytest.raises(StoreError, match="project 'shop_b'"):
        require_filled(Shelf(workspace))
    assert put(workspace).written["user_state"] == len(USERS)
    assert Refreshed.load(Shelf(workspace)) is None, "the next refresh publishes everybody"
    require_filled(Shelf(workspace))


def test_production_stores_are_a_setting(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BFM_SHELF_ONLINE_STORE", "postgres")
    with pytest.raises(ValueError, match="BFM_SHELF_CONNECTION"):
        ShelfSettings()
    monkeypatch.setenv("BFM_SHELF_CONNECTION", "host=db dbname=shelf user=bfm password=x")
    shelf = Shelf(workspace)
    shelf.write_yaml()
    written = shelf.yaml_path.read_text(encoding="utf-8")
    assert "type: postgres" in written
    assert "database: shelf" in written
    assert shelf.yaml_path.stat().st_mode & 0o077 == 0, "it holds a password"
