"""Where the shelf stands: settings, `feature_store.yaml`, and the opened Feast store."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.environment import from_environment
from pipelines.errors import EnvironmentProblemError, WorkspaceError
from pipelines.workspace import Workspace, write_bytes_atomically

if TYPE_CHECKING:
    from feast import FeatureStore

REGISTRY_FILE: Final = "registry.db"
ONLINE_FILE: Final = "online.db"
YAML_FILE: Final = "feature_store.yaml"
_POSTGRES_NEEDS: Final = ("host", "dbname", "user", "password")
_POSTGRES_NUMBERS: Final = ("port", "min_conn", "max_conn", "keepalives_idle")
_POSTGRES_KEYS: Final = (
    *_POSTGRES_NEEDS,
    *_POSTGRES_NUMBERS,
    "conn_type",
    "db_schema",
    "sslmode",
    "sslkey_path",
    "sslcert_path",
    "sslrootcert_path",
)


_REDIS_TIMEOUTS_S: Final = {"socket_connect_timeout": 2, "socket_timeout": 5}
_POSTGRES_TIMEOUT: Final = ("PGCONNECT_TIMEOUT", "5")
"""How long a store may take to answer, unless the connection or the environment says otherwise."""

_POSTGRES_STATEMENT_MS: Final = 10_000
_POSTGRES_LIMITS: Final = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""A machine that is gone without a word is noticed after some 25 s, not after a quarter of an
hour."""


def _project_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ValueError(
            "at most 40 small letters, digits and underscores, a letter first, make a project"
        )
    return name


class ShelfSettings(BaseSettings):
    """Which online store holds the newest values (environment: `BFM_SHELF_...`).

    Args:
        online_store: SQLite in the workspace by default; Redis or Postgres in production.
        connection: Redis: "host:6379", then options as ",key=value". Postgres: "host=... port=...
            dbname=... user=... password=...", and other options separated by spaces.
        project: Name of this company's part of the store. Companies that share a Redis or Postgres
            need one each: ids of users of one would overwrite those of another.
    """

    model_config = SettingsConfigDict(env_prefix="BFM_SHELF_", extra="ignore", frozen=True)

    online_store: Literal["sqlite", "redis", "postgres"] = "sqlite"
    connection: str = ""
    project: Annotated[str, AfterValidator(_project_name)] = "bfm"

    @model_validator(mode="after")
    def _connection_where_needed(self) -> ShelfSettings:
        if self.online_store != "sqlite" and not self.connection:
            raise ValueError(
                f"online_store={self.online_store} needs a connection; set BFM_SHELF_CONNECTION"
            )
        if self.online_store == "redis":
            _check_redis(self.connection)
        if self.online_store == "postgres":
            _check_postgres(self.connection)
        return self

    @property
    def identity(self) -> str:
        """Sixteen hex digits that tell one online store from another; no password is in them."""
        parts = re.split(r"[\s,]+", "" if self.online_store == "sqlite" else self.connection)
        open_parts = [part for part in parts if not part.lower().startswith("password=")]
        text = " ".join([self.online_store, self.project, *open_parts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ask_redis_twice_at_most(store: FeatureStore) -> None:
    """Its client would wait for seconds between several attempts, and with it who asks."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    online: Any = store._get_provider().online_store
    online._get_client(store.config.online_store).set_retry(Retry(NoBackoff(), 1))


def _connect_to_postgres(store: FeatureStore) -> None:
    """Make the connection that Feast would make, with limits that it does not pass on."""
    import psycopg
    from feast.infra.utils.postgres.connection_utils import _get_conn_kwargs, _get_conninfo
    from psycopg_pool import ConnectionPool

    online: Any = store._get_provider().online_store
    config = store.config.online_store
    address, options = _get_conninfo(config), {**_get_conn_kwargs(config), **_POSTGRES_LIMITS}
    options["options"] += f" -c statement_timeout={_POSTGRES_STATEMENT_MS}"
    if config.keepalives_idle is not None:
        options["keepalives_idle"] = config.keepalives_idle
    if config.conn_type.value == "pool":
        if online._conn_pool is None:
            sizes = {"min_size": config.min_conn, "max_size": config.max_conn}
            online._conn_pool = ConnectionPool(
                address, kwargs=options, open=True, timeout=5, **sizes
            )
    elif online._conn is None:
        online._conn = psycopg.connect(address, **options)


def _stop_pool(store: FeatureStore) -> None:
    """A pool has threads, which would go on connecting."""
    pool = getattr(store._get_provider().online_store, "_conn_pool", None)
    if pool is not None:
        pool.close(timeout=1)


def _check_redis(connection: str) -> None:
    nodes = [part for part in connection.split(",") if "=" not in part]
    if not nodes or not all(re.fullmatch(r"\S+:[0-9]{1,5}", node) for node in nodes):
        raise ValueError(
            "BFM_SHELF_CONNECTION of redis begins with host:port; options follow as ,key=value"
        )


def _check_postgres(connection: str) -> None:
    """Refuse what Feast would; values are not repeated, since one of them is a password."""
    parts = connection.split()
    for number, part in enumerate(parts, start=1):
        if "=" not in part:
            raise ValueError(f"part {number} of BFM_SHELF_CONNECTION is not of the form key=value")
    options = dict(part.split("=", 1) for part in parts)
    unknown = [name for name in options if name not in _POSTGRES_KEYS]
    missing = [name for name in _POSTGRES_NEEDS if not options.get(name)]
    if unknown or missing:
        raise ValueError(
            f"BFM_SHELF_CONNECTION of postgres lacks {missing} and has the unknown keys {unknown}; "
            f"allowed: {', '.join(_POSTGRES_KEYS)}"
        )
    for name in _POSTGRES_NUMBERS:
        if name in options and not options[name].isdigit():
            raise ValueError(f"{name} in BFM_SHELF_CONNECTION is '{options[name]}', not a number")


class Shelf:
    """One workspace's feature store.

    Args:
        workspace: Its `features` folder holds registry, offline files and online store.
        settings: From the environment by default.

    Raises:
        EnvironmentProblemError: a `BFM_SHELF_...` variable has a value that is not allowed.
    """

    def __init__(self, workspace: Workspace, settings: ShelfSettings | None = None) -> None:
        self.workspace = workspace
        self.settings = settings or from_environment(ShelfSettings, "The shelf's")

    @property
    def root(self) -> Path:
        return self.workspace.features

    @property
    def online_path(self) -> Path:
        """The SQLite file of the embedded online store."""
        return self.root / ONLINE_FILE

    def offline_path(self, table: str) -> Path:
        """File with all publishes of a table."""
        return self.root / "offline" / f"{table}.parquet"

    @property
    def yaml_path(self) -> Path:
        return self.root / YAML_FILE

    @cached_property
    def store(self) -> FeatureStore:
        """Feast on this workspace.

        Raises:
            EnvironmentProblemError: the online store's client is not installed.
        """
        from feast import FeatureStore, RepoConfig
        from feast.errors import FeastModuleImportError

        os.environ.setdefault(*_POSTGRES_TIMEOUT)
        try:
            store = FeatureStore(config=RepoConfig(repo_path=self.root, **self._config()))
            if self.settings.online_store == "redis":
                _ask_redis_twice_at_most(store)
            return store
        except FeastModuleImportError as error:
            name = self.settings.online_store
            raise EnvironmentProblemError(
                f"BFM_SHELF_ONLINE_STORE is '{name}', whose client is not installed here. In the "
                "repository's root: .venv/bin/python -m pip install --constraint constraints.txt "
                f"--editable '.[{name}]'"
            ) from error

    def write_yaml(self) -> None:
        """`feature_store.yaml` for Feast's own command line:
        `feast -c feature_store/repo -f WORKSPACE/features/feature_store.yaml apply`.

        It may hold the online store's password, so its owner alone may read it."""
        text = yaml.safe_dump(self._config(), sort_keys=True)
        write_bytes_atomically(self.yaml_path, text.encode(), mode=0o600)

    def connect(self) -> None:
        """Give Feast its connection to Postgres, if it has none; other stores connect themselves.

        Raises:
            psycopg.Error: the server does not answer.
        """
        if self.settings.online_store == "postgres":
            _connect_to_postgres(self.store)

    def forget_store(self) -> None:
        """Let the next call open Feast anew, with new connections."""
        store = self.__dict__.pop("store", None)
        if store is not None and self.settings.online_store == "postgres":
            _stop_pool(store)

    @property
    def is_published(self) -> bool:
        """Whether anything was published here."""
        is_registered = (self.root / REGISTRY_FILE).is_file()
        return is_registered and any((self.root / "offline").glob("*.parquet"))

    def require_published(self) -> None:
        """Refuse a workspace without a shelf.

        Raises:
            WorkspaceError: nothing was published yet.
        """
        if not self.is_published:
            raise WorkspaceError(
                f"{self.root}: nothing was published yet. Publish with: bfm publish --workspace DIR"
            )

    def _config(self) -> dict[str, Any]:
        return {
            "project": self.settings.project,
            "provider": "local",
            "registry": {
                "registry_type": "file",
                "path": str(self.root / REGISTRY_FILE),
                "cache_ttl_seconds": 0,
            },
            "online_store": self._online(),
            "offline_store": {"type": "dask"},
            "entity_key_serialization_version": 3,
        }

    def _online(self) -> dict[str, Any]:
        if self.settings.online_store == "sqlite":
            return {"type": "sqlite", "path": str(self.online_path)}
        if self.settings.online_store == "redis":
            connection = self.settings.connection
            for name, seconds in _REDIS_TIMEOUTS_S.items():
                if f",{name}=" not in connection:
                    connection += f",{name}={seconds}"
            return {"type": "redis", "connection_string": connection}
        options = dict(pair.split("=", 1) for pair in self.settings.connection.split())
        names = {"dbname": "database"}
        typed: dict[str, Any] = {names.get(key, key): value for key, value in options.items()}
        typed |= {name: int(typed[name]) for name in _POSTGRES_NUMBERS if name in typed}
        return {"type": "postgres", **typed}
