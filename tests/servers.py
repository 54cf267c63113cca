"""Real servers for tests, on loopback, each gone when its block ends; a test skips without them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyspark
import pytest

from pipelines.flow.jars import cache_root, run_ivy
from pipelines.flow.java import find_java

BROKER_PACKAGE: Final = "org.apache.kafka:kafka_2.13:4.1.0"
_CLUSTER_ID: Final = "AAAAAAAAAAAAAAAAAAAAAQ"
_START_TIMEOUT_S: Final = 60
_STOP_TIMEOUT_S: Final = 30
_SETTINGS: Final = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{guarded},\
CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_shop="open \\\\"sesame\\\\"";
ssl.keystore.type=PKCS12
ssl.keystore.location={folder}/broker.p12
ssl.keystore.password=of-no-worth
log.dirs={folder}/logs
num.partitions=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


@dataclass(frozen=True, kw_only=True)
class PostgresqlServer:
    """A running server with one user, who owns the database of the same name."""

    url: str
    user: str
    password: str
    port: int
    programs: Path

    def run(self, sql: str) -> None:
        """Execute statements."""
        address = f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/postgres"
        _run([self.programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, address])


@contextlib.contextmanager
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server with an empty database; its own programs must be on this machine."""
    programs = _postgresql_programs()
    port, user, password = free_port(), "shop", "sesame"
    with tempfile.TemporaryDirectory(prefix="bfm-postgresql-") as name:
        folder = Path(name)
        # The server refuses to run as root; Debian's package brings a user for it.
        as_user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
        if as_user:
            shutil.chown(folder, "postgres")
        secret = folder / "secret"
        secret.write_text(password)
        secret.chmod(0o644)
        rights = ["--auth=scram-sha-256", f"--pwfile={secret}", f"--username={user}"]
        data = folder / "data"
        _run([programs / "initdb", "--no-sync", *rights, "-D", data], cwd=folder, **as_user)
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-k", folder]
        command = [programs / "postgres", "-D", data, "-p", port, *settings]
        # SIGINT does not wait for clients to leave.
        log = folder / "server.log"
        with _running(command, port, log, signal.SIGINT, cwd=folder, **as_user):
            url = f"jdbc:postgresql://127.0.0.1:{port}/postgres"
            yield PostgresqlServer(
                url=url, user=user, password=password, port=port, programs=programs
            )


@contextlib.contextmanager
def redis_server(*options: object) -> Iterator[int]:
    """The port of an empty Redis server; its program must be on this machine."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no Redis server here (on Debian and Ubuntu: apt-get install redis-server)")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bfm-redis-") as name:
        command = [program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", name]
        command += options
        with _running(command, port, Path(name) / "server.log"):
            yield port


@dataclass(frozen=True, kw_only=True)
class KafkaBroker:
    """A running broker: an open address, and one behind TLS that asks for the password.

    Args:
        servers: The open bootstrap address.
        guarded: The other one.
        certificates: File of the certificate that the other one shows.
        user: Who may read there.
        password: The user's password, with quotes in it.
    """

    servers: str
    guarded: str
    certificates: Path
    user: str = "shop"
    password: str = 'open "sesame"'


@contextlib.contextmanager
def kafka_broker() -> Iterator[KafkaBroker]:
    """A Kafka broker without topics, which writing makes."""
    java = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", _broker_classpath()]
    port, guarded, controller = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="bfm-kafka-") as name:
        folder = Path(name)
        certificates = _certificate(folder / "broker.p12")
        settings = folder / "server.properties"
        settings.write_text(
            _SETTINGS.format(port=port, guarded=guarded, controller=controller, folder=folder),
            encoding="utf-8",
        )
        tool = [_java(), *java, "kafka.tools.StorageTool", "format"]
        _run([*tool, "-t", _CLUSTER_ID, "-c", settings])
        command = [_java(), *java, "kafka.Kafka", settings]
        with _running(command, port, folder / "broker.log"):
            yield KafkaBroker(
                servers=f"127.0.0.1:{port}",
                guarded=f"127.0.0.1:{guarded}",
                certificates=certificates,
            )


def _certificate(store: Path) -> Path:
    """Make a key for the loopback address, and give the file of its certificate."""
    keytool, certificates = _java().with_name("keytool"), store.with_suffix(".pem")
    common = ["-alias", "broker", "-storetype", "PKCS12", "-keystore", store]
    common += ["-storepass", "of-no-worth"]
    name = ["-dname", "CN=127.0.0.1", "-ext", "SAN=ip:127.0.0.1"]
    _run([keytool, "-genkeypair", "-keyalg", "RSA", "-validity", "2", *name, *common])
    _run([keytool, "-exportcert", "-rfc", "-file", certificates, *common])
    return certificates


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _postgresql_programs() -> Path:
    places = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if on_path:
        places.append(Path(on_path).resolve().parent)
    if not places:
        pytest.skip("no PostgreSQL server here (on Debian and Ubuntu: apt-get install postgresql)")
    return max(places)


def _broker_classpath() -> str:
    """The broker's jars, fetched once; Scala's own library is Spark's."""
    folder = cache_root() / f"broker-{BROKER_PACKAGE.replace(':', '-')}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
            log = Path(scratch) / "ivy.log"
            jars = run_ivy(BROKER_PACKAGE, Path(scratch) / "ivy", log)
            if not list(jars.glob("org.apache.kafka_kafka_*.jar")):
                pytest.skip(f"{BROKER_PACKAGE} cannot be fetched: {log.read_text()[-300:]}")
            jars.rename(folder)
    scala = next((Path(pyspark.__file__).parent / "jars").glob("scala-library-*.jar"))
    return f"{folder}/*:{scala}"


def _java() -> Path:
    return find_java().path


def _run(command: Sequence[object], **options: Any) -> None:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr + done.stdout


@contextlib.contextmanager
def _running(
    command: Sequence[object],
    port: int,
    log_path: Path,
    stop: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[None]:
    """A server from the moment it answers until the block ends."""
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            **options,
        )
        try:
            _wait_for(process, port, log_path)
            yield
        finally:
            process.send_signal(stop)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log_path.read_text()[-2000:]}")
