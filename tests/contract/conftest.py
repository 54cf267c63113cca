"""The counter on the small shop, as the contract tests drive it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from pipelines.workspace import Workspace
from serving.app import create_app
from serving.settings import ServingSettings
from tests import small_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A published workspace of the small shop."""
    workspace = Workspace(tmp_path_factory.mktemp("shop"))
    small_shop.put_on_shelf(workspace)
    return workspace


@pytest.fixture
def client(shop: Workspace) -> Iterator[TestClient]:
    """A running application whose live events do not outlive the test."""
    app = create_app(
        ServingSettings(workspace=shop.root, max_body_bytes=20_000),
        small_shop.CountingPredictor.make(),
    )
    with TestClient(app, raise_server_exceptions=False) as running:
        yield running
    for path in shop.root.glob(f"{shop.live_events_path.name}*"):
        path.unlink()
