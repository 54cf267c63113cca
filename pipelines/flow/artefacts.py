"""The Java libraries that the platform may need, in sets: Delta always, the others by source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DELTA_VERSION: Final = "4.4.0"
SPARK_MINOR: Final = "4.1"
UNITY_CATALOG_VERSION: Final = "0.6.0"
# The connector's token provider was not published for later patches of Spark 4.1.
KAFKA_CONNECTOR_VERSION: Final = "4.1.1"
POSTGRESQL_VERSION: Final = "42.7.8"


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One Maven artefact."""

    group: str
    name: str
    version: str

    @property
    def coordinates(self) -> str:
        return f"{self.group}:{self.name}:{self.version}"

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}.jar"


@dataclass(frozen=True, kw_only=True)
class JarSet:
    """Artefacts that are fetched, kept and used together.

    Args:
        title: What the set is called in messages.
        folder: Name of its folder in the cache; another version has another folder.
        artefacts: All jars that a session needs. The first one names the others to Maven.
        excludes: What they name beyond these, because Spark ships it already or nothing uses it;
            Ivy patterns, separated by commas.
    """

    title: str
    folder: str
    artefacts: tuple[Artefact, ...]
    excludes: str


def _delta(name: str) -> Artefact:
    return Artefact(group="io.delta", name=name, version=DELTA_VERSION)


def _unity(name: str) -> Artefact:
    return Artefact(group="io.unitycatalog", name=name, version=UNITY_CATALOG_VERSION)


def _spark(name: str) -> Artefact:
    return Artefact(group="org.apache.spark", name=f"{name}_2.13", version=KAFKA_CONNECTOR_VERSION)


DELTA: Final = JarSet(
    title="Delta",
    folder=f"delta-{DELTA_VERSION}-spark-{SPARK_MINOR}",
    artefacts=(
        _delta(f"delta-spark_{SPARK_MINOR}_2.13"),
        _delta("delta-storage"),
        _delta("delta-kernel-api"),
        _delta("delta-kernel-defaults"),
        _delta("delta-kernel-unitycatalog"),
        _unity("unitycatalog-client"),
        _unity("unitycatalog-hadoop"),
    ),
    excludes="org.*:*,com.*:*,commons-*:*,javax.*:*,io.airlift:*",
)

KAFKA: Final = JarSet(
    title="Spark's Kafka connector",
    folder=f"kafka-connector-{KAFKA_CONNECTOR_VERSION}",
    artefacts=(
        _spark("spark-sql-kafka-0-10"),
        _spark("spark-token-provider-kafka-0-10"),
        Artefact(group="org.apache.kafka", name="kafka-clients", version="3.9.1"),
        Artefact(group="org.apache.commons", name="commons-pool2", version="2.12.1"),
    ),
    excludes=(
        "org.apache.hadoop:*,com.google.*:*,org.lz4:*,org.scala-lang.*:*,org.slf4j:*,"
        "org.xerial.*:*,com.github.luben:*"
    ),
)

POSTGRESQL: Final = JarSet(
    title="PostgreSQL's driver",
    folder=f"postgresql-{POSTGRESQL_VERSION}",
    artefacts=(Artefact(group="org.postgresql", name="postgresql", version=POSTGRESQL_VERSION),),
    excludes="org.checkerframework:*",
)

JAR_SETS: Final = {"delta": DELTA, "kafka": KAFKA, "postgresql": POSTGRESQL}
"""All sets by the name that readers of sources ask for them with."""
