"""Where the shelf stands: settings, `feature_store.yaml`, and the opened Feast store."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from feast import FeatureStore, RepoConfig
from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import WorkspaceError
from pipelines.workspace import Workspace, write_bytes_atomically

PROJECT: Final = "bfm"
REGISTRY_FILE: Final = "registry.db"
ONLINE_FILE: Final = "online.db"
YAML_FILE: Final = "feature_store.yaml"


class ShelfSettings(BaseSettings):
    """Which online store holds the newest values (environment: `BFM_SHELF_...`).

    Args:
        online_store: SQLite in the workspace by default; Redis or Postgres in production.
        connection: Redis: "host:6379". Postgres: "host=... port=... dbname=... user=...".
            Its other options follow as "key=value" pairs separated by spaces.
    """

    model_config = SettingsConfigDict(env_prefix="BFM_SHELF_", extra="ignore", frozen=True)

    online_store: Literal["sqlite", "redis", "postgres"] = "sqlite"
    connection: str = ""

    @model_validator(mode="after")
    def _connection_where_needed(self) -> ShelfSettings:
        if self.online_store != "sqlite" and not self.connection:
            raise ValueError(
                f"online_store={self.online_store} needs a connection; set BFM_SHELF_CONNECTION"
            )
        return self


class Shelf:
    """One workspace's feature store.

    Args:
        workspace: Its `features` folder holds registry, offline files and online store.
        settings: From the environment by default.
    """

    def __init__(self, workspace: Workspace, settings: ShelfSettings | None = None) -> None:
        self.workspace = workspace
        self.settings = settings or ShelfSettings()

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
        """Feast on this workspace."""
        return FeatureStore(config=RepoConfig(repo_path=self.root, **self._config()))

    def write_yaml(self) -> None:
        """`feature_store.yaml` for Feast's own command line:
        `feast -c feature_store/repo -f WORKSPACE/features/feature_store.yaml apply`."""
        text = yaml.safe_dump(self._config(), sort_keys=True)
        write_bytes_atomically(self.yaml_path, text.encode())

    @property
    def is_published(self) -> bool:
        """Whether anything was published here."""
        return (self.root / REGISTRY_FILE).is_file()

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
            "project": PROJECT,
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
            return {"type": "redis", "connection_string": self.settings.connection}
        options = dict(pair.split("=", 1) for pair in self.settings.connection.split())
        names = {"dbname": "database"}
        typed: dict[str, Any] = {names.get(key, key): value for key, value in options.items()}
        typed["port"] = int(typed.get("port", 5432))
        return {"type": "postgres", **typed}
