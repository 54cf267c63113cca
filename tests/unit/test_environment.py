"""Settings of counter, shelf and Spark: a wrong variable is named with what came and what may."""

from __future__ import annotations

import sys

import pytest

from feature_store.settings import Shelf
from pipelines.errors import EnvironmentProblemError
from pipelines.flow.spark import read_settings
from pipelines.workspace import Workspace
from serving.app import create_app_from_environment

POSTGRES = "host=db dbname=shelf user=bfm password=secret"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ONLINE_STORE": "Redis"}, "BFM_SHELF_ONLINE_STORE is 'Redis': .*'redis' or 'postgres'"),
        ({"ONLINE_STORE": "redis"}, "set BFM_SHELF_CONNECTION"),
        ({"ONLINE_STORE": "redis", "CONNECTION": "cache"}, "begins with host:port"),
        ({"ONLINE_STORE": "postgres", "CONNECTION": "db shelf"}, "part 1 of BFM_SHELF_CONNECTION"),
        ({"ONLINE_STORE": "postgres", "CONNECTION": "host=db"}, "lacks .*'dbname', 'user'"),
        ({"ONLINE_STORE": "postgres", "CONNECTION": f"{POSTGRES} tls=1"}, "unknown keys .*'tls'"),
        ({"ONLINE_STORE": "postgres", "CONNECTION": f"{POSTGRES} port=x"}, "port .* is 'x'"),
        ({"PROJECT": "Shop A"}, "BFM_SHELF_PROJECT is 'Shop A': .* small letters"),
    ],
)
def test_settings_of_the_shelf(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"BFM_SHELF_{name}", value)
    with pytest.raises(EnvironmentProblemError, match=message) as raised:
        Shelf(workspace)
    assert "secret" not in str(raised.value)


def test_a_client_that_is_not_installed_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "feast.infra.online_stores.redis", raising=False)
    monkeypatch.setenv("BFM_SHELF_ONLINE_STORE", "redis")
    monkeypatch.setenv("BFM_SHELF_CONNECTION", "cache:6379")
    with pytest.raises(EnvironmentProblemError, match=r"--editable '\.\[redis\]'"):
        _ = Shelf(workspace).store


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "BFM_WORKSPACE is not set"),
        ({"WORKSPACE": "w", "ADMIN_TOKEN": "secret"}, "BFM_ADMIN_TOKEN: .*at least 16"),
        ({"WORKSPACE": "w", "TORCH_THREADS": "two"}, "BFM_TORCH_THREADS is 'two': .*integer"),
    ],
)
def test_settings_of_the_counter(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"BFM_{name}", value)
    with pytest.raises(EnvironmentProblemError, match=message) as raised:
        create_app_from_environment()
    assert "secret" not in str(raised.value)


def test_settings_of_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BFM_SPARK_CONF", "no json")
    with pytest.raises(EnvironmentProblemError, match=r"Spark's settings are wrong\. .*conf"):
        read_settings()


def test_online_stores_are_told_apart_without_their_password(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(**variables: str) -> str:
        for name, value in variables.items():
            monkeypatch.setenv(f"BFM_SHELF_{name}", value)
        return Shelf(workspace).settings.identity

    embedded = identity()
    first = identity(ONLINE_STORE="redis", CONNECTION="cache:6379,password=one")
    assert first != embedded
    assert identity(CONNECTION="cache:6379,password=two") == first
    assert identity(CONNECTION="other:6379,password=two") != first
    assert identity(CONNECTION="cache:6379", PROJECT="shop_a") != first
