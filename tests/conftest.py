"""Fixtures shared by all rooms: one Spark session for the whole run, and an empty workspace."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# No test may look for something to download, or report to anyone.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("FEAST_USAGE", "False")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")
# Ray lets its workers wait behind everything else; beside another process of tests they starve.
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with two threads each on two cores would wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# The quick compiler alone: tests end before the thorough one pays. Without the thorough one Java
# keeps 48 MB for compiled code, and one session for all tests needs more.
QUICK_JAVA: Final = {
    "spark.driver.extraJavaOptions": (
        "-Duser.timezone=UTC -XX:+UseSerialGC -XX:TieredStopAtLevel=1 "
        "-XX:ReservedCodeCacheSize=240m"
    )
}
os.environ.setdefault("BFM_SPARK_CONF", json.dumps(QUICK_JAVA))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A small session with Delta. Code that opens its own in this process is given this one."""
    from pipelines.flow.spark import SparkSettings, spark_session

    settings = SparkSettings(
        master="local[2]",
        driver_memory="1g",
        shuffle_partitions=2,
        conf=QUICK_JAVA,
    )
    folder = tmp_path_factory.mktemp("spark")
    with spark_session(
        "bfm-tests", scratch=folder / "scratch", log_path=folder / "spark.log", settings=settings
    ) as session:
        yield session


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def logger(request: pytest.FixtureRequest) -> logging.Logger:
    """A new one. import-linter, which a test runs in this process, silences those that it finds."""
    return logging.getLogger(f"bfm.{request.node.nodeid}")


@pytest.fixture(scope="session")
def rhythm_shop(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A small shop with a bundle and a shelf; whoever changes it takes a copy."""
    from tests.rhythm_bundle import make

    shop = Workspace(tmp_path_factory.mktemp("rhythm"))
    make(shop)
    return shop
