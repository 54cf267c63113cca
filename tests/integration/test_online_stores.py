"""The shelf on the stores of production: a real PostgreSQL and a real Redis on loopback."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest
from redis import Redis

from feature_store.erasure import wipe_online
from feature_store.online import (
    held_online,
    online_features,
    online_state,
    require_filled,
    require_same_store,
)
from feature_store.publish import renew
from feature_store.published import Published
from feature_store.reach import StoreError
from feature_store.settings import Shelf, ShelfSettings
from pipelines.contracts import USER_ID
from pipelines.tokens.binning import DAY_US
from pipelines.workspace import Workspace
from tests import small_shop
from tests.servers import PostgresqlServer, free_port, postgresql_server, redis_server
from tests.small_shop import AS_OF_US, USERS, erase_user

pytestmark = [pytest.mark.slow, pytest.mark.integration]

VERSION = "user_embedding:model_version"
put = partial(small_shop.put_on_shelf, version="v1")


def on_postgres(server: PostgresqlServer, port: int | None = None) -> ShelfSettings:
    options = {"host": "127.0.0.1", "port": port or server.port, "dbname": "postgres"}
    options |= {"user": server.user, "password": server.password, "sslmode": "disable"}
    connection = " ".join(f"{name}={value}" for name, value in options.items())
    return ShelfSettings(online_store="postgres", connection=connection)


def on_redis(port: int) -> ShelfSettings:
    return ShelfSettings(online_store="redis", connection=f"127.0.0.1:{port}")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgresqlServer]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="module", params=["postgres", "redis"])
def settings(request: pytest.FixtureRequest) -> Iterator[ShelfSettings]:
    """Of a store that runs."""
    if request.param == "postgres":
        yield on_postgres(request.getfixturevalue("postgresql"))
    else:
        with redis_server() as port:
            yield on_redis(port)


def contents(settings: ShelfSettings) -> bytes:
    """Everything that a store holds, keys and values of all its tables or hashes."""
    if settings.online_store == "redis":
        host, port = settings.connection.split(":")
        with Redis(host, int(port)) as client:
            hashes = [(key, client.hgetall(key)) for key in client.scan_iter()]
        return repr(hashes).encode()
    listed = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    with psycopg.connect(settings.connection) as connection:
        tables = [name for (name,) in connection.execute(listed)]
        rows = [row for name in tables for row in connection.execute(f'SELECT * FROM "{name}"')]
    values = [value for row in rows for value in row]
    return b" ".join(one if isinstance(one, bytes) else str(one).encode() for one in values)


def models_of_users(shelf: Shelf) -> list[object]:
    rows = online_features(shelf, USER_ID, list(USERS), [VERSION])
    return [row["model_version"] for row in rows]


def test_a_publish_a_refresh_another_model_and_an_erasure(
    workspace: Workspace, settings: ShelfSettings
) -> None:
    shelf, later_us = Shelf(workspace, settings), AS_OF_US + DAY_US
    assert put(workspace, settings=settings).written["user_state"] == len(USERS)
    require_filled(shelf)
    assert put(workspace, settings=settings, as_of_us=AS_OF_US - DAY_US).written["user_state"] == 0
    bob = pq.read_table(small_shop.write_embeddings(workspace.root, ["bob"]))
    renew(workspace, as_of_us=later_us, user_embeddings=bob, model_version="v1", settings=settings)
    state = online_state(shelf, "bob")
    assert state is not None
    assert state.as_of_us == later_us
    put(workspace, settings=settings, version="v2")
    assert models_of_users(shelf) == ["v2"] * len(USERS), "newer rows of another model make way"
    erase_user(shelf, "bob")
    assert held_online(shelf, list(USERS)) == [user for user in USERS if user != "bob"]
    erase_user(shelf, "zed")
    held = contents(settings)
    assert b"ada" in held
    assert b"bob" not in held
    assert b"zed" not in held, "who was never there is not put there"


def test_a_connection_that_the_server_ends_is_opened_anew(
    workspace: Workspace, postgresql: PostgresqlServer
) -> None:
    settings = on_postgres(postgresql)
    put(workspace, settings=settings)
    shelf = Shelf(workspace, settings)
    assert held_online(shelf, list(USERS))
    postgresql.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        "AND datname = 'postgres'"
    )
    with pytest.raises(StoreError, match="postgres, project 'bfm'"):
        held_online(shelf, list(USERS))
    assert held_online(shelf, list(USERS)), "the next call"


def test_redis_keeps_nobody_erased_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.mkdir()
    with redis_server("--appendonly", "yes", "--rdbcompression", "no", "--dir", log) as port:
        workspace, settings = Workspace(tmp_path / "shop"), on_redis(port)
        put(workspace, settings=settings)
        shelf = Shelf(workspace, settings)
        assert b"bob" in logged(log)
        for user in ("ada", "bob"):  # the second while the log is written anew for the first
            erase_user(shelf, user)
            wipe_online(shelf)
        deadline = time.monotonic() + 30
        while b"bob" in logged(log) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert b"cyd" in logged(log)
        assert b"bob" not in logged(log)
        assert b"ada" not in logged(log)


def logged(folder: Path) -> bytes:
    """What Redis' append-only file holds; parts come and go."""
    found = b""
    for path in sorted(folder.rglob("appendonly.aof.*")):
        with contextlib.suppress(FileNotFoundError):
            found += path.read_bytes()
    return found


def test_a_redis_that_does_not_rewrite_its_log_or_is_busy_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuses = ("--rename-command", "BGREWRITEAOF", "")
    with redis_server("--appendonly", "yes", *refuses) as port:
        workspace, settings = Workspace(tmp_path), on_redis(port)
        put(workspace, settings=settings)
        shelf = Shelf(workspace, settings)
        wipe_online(shelf)
        assert "does not rewrite its append-only file" in caplog.text
        busy = {"aof_rewrite_in_progress": 1}
        monkeypatch.setattr(Redis, "info", lambda *_: busy)
        monkeypatch.setattr("feature_store.online._REWRITE_S", 0.05)
        with pytest.raises(StoreError, match="Run the same command again"):
            wipe_online(shelf)


@pytest.mark.parametrize("kind", ["singleton", "pool"])
def test_a_server_that_hangs_is_given_up(
    workspace: Workspace, postgresql: PostgresqlServer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("feature_store.settings._POSTGRES_STATEMENT_MS", 300)
    settings = on_postgres(postgresql)
    put(workspace, settings=settings)
    pooled = ShelfSettings(
        online_store="postgres", connection=f"{settings.connection} conn_type={kind}"
    )
    shelf = Shelf(workspace, pooled)
    assert held_online(shelf, list(USERS))
    with shelf.store._get_provider().online_store._get_conn(shelf.store.config) as connection:
        options = connection.info.get_parameters()
        assert {"tcp_user_timeout", "keepalives_idle", "keepalives_interval"} <= options.keys()
    with psycopg.connect(settings.connection) as other:
        other.execute("LOCK TABLE bfm_user_state IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreError, match="statement timeout"):
            held_online(shelf, list(USERS))
    assert held_online(shelf, list(USERS)), "the next call"
    shelf.forget_store()


@pytest.mark.parametrize("store", ["postgres", "redis"])
def test_a_store_that_is_down_is_named_and_the_one_of_before_goes_on(
    tmp_path: Path, store: str
) -> None:
    nobody = free_port()
    settings = {
        "postgres": ShelfSettings(
            online_store="postgres",
            connection=f"host=127.0.0.1 port={nobody} dbname=d user=u password=sesame",
        ),
        "redis": on_redis(nobody),
    }[store]
    workspace, embedded = Workspace(tmp_path / "shop"), ShelfSettings()
    with pytest.raises(StoreError, match=rf"{store}, project 'bfm'.*BFM_SHELF_") as failed:
        put(workspace, settings=settings)
    assert "sesame" not in str(failed.value)
    assert not Shelf(workspace, settings).is_published
    put(workspace, settings=embedded)
    before = Published.load(workspace)
    with pytest.raises(StoreError):
        put(workspace, settings=settings)
    assert Published.load(workspace) == before
    require_same_store(Shelf(workspace, embedded))
