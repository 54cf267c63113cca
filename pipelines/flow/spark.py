"""One Spark session at a time, with Delta, quiet, and gone with its memory when it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil
import pyspark
from py4j.protocol import Py4JError
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.errors.exceptions.captured import CapturedException
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from pipelines.environment import from_environment
from pipelines.errors import BfmError, EnvironmentProblemError
from pipelines.flow.jars import find_jars, jar_set
from pipelines.flow.java import find_java

_ENV_PREFIX: Final = "BFM_SPARK_"
_JVM_EXIT_TIMEOUT_S: Final = 20
_MAX_LOG_BYTES: Final = 50_000_000
_PARTITIONS_PER_CORE: Final = 2
_JAVA_OPTIONS: Final = "-Duser.timezone=UTC -XX:+UseParallelGC"
"""Batches want throughput: the collector that stops all threads costs least of it."""


class SparkJobError(BfmError):
    """An error of the JVM that ended a session; unlike PySpark's own, it outlives the JVM."""


class SparkSettings(BaseSettings):
    """How sessions are started; each field is read from `BFM_SPARK_<FIELD>`.

    Args:
        master: Spark master: `local[*]`, `local[N]`, or the address of a cluster.
        driver_host: Address at which executors reach this process; loopback unless on a cluster.
        driver_memory: Heap of the driver's JVM, in Java's notation.
        shuffle_partitions: Partitions after a shuffle; two per core when not set.
        extra_jars: Further jar files, comma-separated (a JDBC driver, a Kafka connector).
        conf: Further Spark settings as a JSON object; they win over everything else.
    """

    model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, frozen=True, extra="forbid")

    master: str = Field(default="local[*]", min_length=1)
    driver_host: str = Field(default="127.0.0.1", min_length=1)
    driver_memory: str = Field(default="2g", pattern=r"^[1-9][0-9]*[kmgtKMGT]$")
    shuffle_partitions: int | None = Field(default=None, ge=1)
    extra_jars: str = ""
    conf: dict[str, str] = Field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return self.master.startswith("local")


def read_settings() -> SparkSettings:
    """The settings of the environment.

    Raises:
        EnvironmentProblemError: A `BFM_SPARK_*` variable has a value that is not allowed.
    """
    return from_environment(SparkSettings, "Spark's")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def spark_session(
    app_name: str,
    *,
    jar_sets: Sequence[str] = (),
    scratch: Path | None = None,
    log_path: Path | None = None,
    settings: SparkSettings | None = None,
) -> Iterator[SparkSession]:
    """A Spark session with Delta; at the end its JVM has exited and returned its memory.

    When this process has a session already, that one is given and left running, so that a stage
    called inside another's session shares it; jars that it lacks are added.

    Args:
        app_name: Name shown in logs and on a cluster.
        jar_sets: Names of sets of Java libraries beside Delta's.
        scratch: Folder for shuffle files; a temporary one by default.
        log_path: File that takes everything the JVM prints; a temporary one by default.
        settings: Read from the environment by default.

    Raises:
        EnvironmentProblemError: No usable Java, no jars, wrong settings, or Spark did not
            start.
        SparkJobError: The body let an error of the JVM escape.
    """
    running = SparkSession.getActiveSession()
    if running is not None:
        _add_jars(running, jar_sets)
        yield running
        return
    settings = settings or read_settings()
    find_java()
    check_spark_home()
    jars = (*_jars(("delta", *jar_sets)), *_extra_jars(settings))
    with tempfile.TemporaryDirectory(prefix="bfm-spark-") as temporary:
        folder = scratch or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        log = log_path or Path(temporary) / "spark.log"
        session = _start(spark_conf(app_name, settings, jars=jars, scratch=folder), log, settings)
        try:
            yield session
        except (CapturedException, Py4JError) as error:
            raise SparkJobError(str(error)).with_traceback(error.__traceback__) from None
        finally:
            _stop(session)


def spark_conf(
    app_name: str, settings: SparkSettings, *, jars: tuple[Path, ...], scratch: Path
) -> Mapping[str, str]:
    """Everything a session is started with, by Spark's own setting names."""
    partitions = settings.shuffle_partitions or _PARTITIONS_PER_CORE * num_cores()
    fixed = {
        "spark.app.name": app_name,
        "spark.master": settings.master,
        "spark.driver.host": settings.driver_host,
        "spark.driver.memory": settings.driver_memory,
        "spark.jars": ",".join(path.resolve().as_uri() for path in jars),
        "spark.local.dir": str(scratch.resolve()),
        "spark.sql.warehouse.dir": (scratch.resolve() / "warehouse").as_uri(),
        "spark.log.level": "WARN",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.extraJavaOptions": _JAVA_OPTIONS,
        "spark.executor.extraJavaOptions": _JAVA_OPTIONS,
        # Java's zstd at its fastest: files grow by little.
        "spark.hadoop.parquet.compression.codec.zstd.level": "1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        # Any encoding that Java knows, windows-1252 among them; Spark's own list is eight long.
        "spark.sql.legacy.javaCharsets": "true",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.shuffle.partitions": str(partitions),
        # Delta's VACUUM lists files in this many tasks; Spark's default is 10,000.
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(partitions),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",
        # delta-rs and Ray read these tables too, and neither reads deletion vectors.
        "spark.databricks.delta.properties.defaults.enableDeletionVectors": "false",
    }
    if settings.is_local:
        fixed["spark.driver.bindAddress"] = settings.driver_host
    return fixed | settings.conf


def jvm_peak_bytes() -> int:
    """Largest resident memory of the running session's JVM, else of the last one; 0 before any.

    Read from the kernel's high-water mark, so that no peak falls between two samples. Python
    workers are not in it.
    """
    gateway = SparkContext._gateway
    if gateway is not None:
        _record_peak(getattr(gateway, "proc", None))
    return _peak_bytes


def check_spark_home() -> None:
    """Refuse a SPARK_HOME of another Spark: PySpark would start that one.

    Raises:
        EnvironmentProblemError: SPARK_HOME lacks the jars of the installed version.
    """
    home = os.environ.get("SPARK_HOME")
    expected = f"spark-core_2.13-{pyspark.__version__}.jar"
    if home and not (Path(home) / "jars" / expected).is_file():
        raise EnvironmentProblemError(
            f"SPARK_HOME is '{home}', which is not Spark {pyspark.__version__} (no jars/{expected} "
            "there). Unset SPARK_HOME: the Python package brings its own Spark."
        )


def _jars(names: Sequence[str]) -> tuple[Path, ...]:
    return tuple(path for name in names for path in find_jars(jar_set(name)))


def _add_jars(session: SparkSession, names: Sequence[str]) -> None:
    present = {Path(row[0]).name for row in session.sql("LIST JARS").collect()} if names else set()
    for path in _jars(names):
        if path.name not in present:
            session.sql(f"ADD JAR '{path.resolve().as_uri()}'")


def _extra_jars(settings: SparkSettings) -> tuple[Path, ...]:
    paths = tuple(Path(part.strip()) for part in settings.extra_jars.split(",") if part.strip())
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise EnvironmentProblemError(
            f"{_ENV_PREFIX}EXTRA_JARS names files that do not exist: {', '.join(missing)}. "
            "Give paths of jar files, separated by commas."
        )
    return paths


def _start(conf: Mapping[str, str], log_path: Path, settings: SparkSettings) -> SparkSession:
    if settings.is_local:
        os.environ["PYSPARK_PYTHON"] = sys.executable
    else:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    SparkContext._jvm = None
    spark_settings = SparkConf(loadDefaults=False).setAll(list(conf.items()))
    log_path.parent.mkdir(parents=True, exist_ok=True)
    _put_away_when_large(log_path)
    try:
        with log_path.open("ab") as log:
            gateway = launch_gateway(spark_settings, popen_kwargs={"stdout": log, "stderr": log})
        SparkContext(conf=spark_settings, gateway=gateway)
        return SparkSession.builder.config(conf=spark_settings).getOrCreate()
    except Exception as error:
        _end_jvm()
        raise EnvironmentProblemError(_start_failure(conf, log_path, error)) from error


def _put_away_when_large(log_path: Path) -> None:
    """A large log makes way for a new one; of those before, the last is kept."""
    if log_path.is_file() and log_path.stat().st_size > _MAX_LOG_BYTES:
        log_path.replace(log_path.with_name(f"{log_path.name}.1"))


def _start_failure(conf: Mapping[str, str], log_path: Path, error: Exception) -> str:
    reason = "its JVM ended at once" if isinstance(error, PySparkRuntimeError) else str(error)
    lines = log_path.read_text(errors="replace").strip().splitlines() if log_path.exists() else []
    tail = "\n".join(lines[-5:])
    return (
        f"Spark did not start (master {conf['spark.master']}, driver memory "
        f"{conf['spark.driver.memory']}): {reason[:500]}\nIts last words:\n{tail}\n"
        "Run 'bfm doctor', and check the variables BFM_SPARK_MASTER, BFM_SPARK_DRIVER_MEMORY and "
        "BFM_SPARK_CONF."
    )


def _stop(session: SparkSession) -> None:
    try:
        jvm_peak_bytes()
        _expect_the_end(session)
        with contextlib.suppress(OSError, Py4JError):  # the JVM may be gone already
            session.stop()
    finally:
        _end_jvm()


def _expect_the_end(session: SparkSession) -> None:
    """Let PySpark's server of accumulators be silent when the JVM leaves it, which it does first.

    On a busy machine its thread wakes in between and prints a traceback of the closed connection.
    """
    server: Any = session.sparkContext._accumulatorServer
    if server is not None:
        server.handle_error = lambda request, client_address: None


def _end_jvm() -> None:
    """Shut the gateway down and wait for its process; the next session starts a fresh one."""
    gateway = SparkContext._gateway
    if gateway is None:
        return
    # `_jvm` stays until the next start: PySpark's exceptions do not print without one, even dead.
    SparkContext._gateway = None
    with contextlib.suppress(Exception):  # the JVM may be gone already
        gateway.shutdown()
    process: subprocess.Popen[bytes] | None = getattr(gateway, "proc", None)
    if process is None:  # this program itself was started by spark-submit
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=_JVM_EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_peak_bytes = 0


def _record_peak(process: Any) -> None:
    global _peak_bytes
    if process is None:
        return
    with contextlib.suppress(OSError, psutil.Error, StopIteration, ValueError):
        _peak_bytes = _peak_of(process.pid)


def _peak_of(pid: int) -> int:
    """High-water mark in bytes; the present size where the kernel does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return int(psutil.Process(pid).memory_info().rss)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
