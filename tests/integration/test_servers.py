"""Tables behind real servers: PostgreSQL and Kafka, started here on loopback and stopped again."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipelines.company import SourceConfig, TableConfig
from pipelines.contracts import EVENTS
from pipelines.errors import EnvironmentProblemError, SourceError
from pipelines.flow.jars import JARS_DIR_VARIABLE
from pipelines.flow.runner import RunSettings, StageContext
from pipelines.flow.spark import spark_session
from pipelines.flow.stream import Progress, run_streams
from pipelines.sources import kafka
from pipelines.sources.registry import needed_jars, read_source
from pipelines.sources.request import SourceRequest
from pipelines.stages.canonical import canonical_rows
from pipelines.workspace import Workspace
from tests.servers import KafkaBroker, kafka_broker, postgresql_server

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.integration

COMPANY = Path("company.yaml")
SHOP = """
CREATE TYPE kind AS ENUM ('purchase', 'cart');
CREATE TABLE orders (
    id uuid, customer bigint, at timestamptz, local timestamp, kind kind,
    price numeric(10, 2), tags text[], more jsonb
);
INSERT INTO orders VALUES
    ('6f1c1f60-0000-4000-8000-000000000001', 7, '2024-07-01 12:00+02', '2024-07-01 12:00',
     'purchase', 19.90, '{red,"a b"}', '{"size": 3}'),
    ('6f1c1f60-0000-4000-8000-000000000002', 8, '2024-01-01 00:00Z', NULL, 'cart', NULL, NULL, NULL)
"""
NOON = datetime(2024, 7, 1, 10, tzinfo=UTC)
NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)


def described(format_: str, options: dict[str, Any], **more: Any) -> TableConfig:
    columns = {"user_id": "customer", "event_time": "at", "event_type": "kind"} | more.pop(
        "columns", {}
    )
    source = SourceConfig(format=format_, options=options)
    parts = {"name": "orders", "into": "events", "source": source, "columns": columns, **more}
    return TableConfig.model_validate(parts)


def with_jars(request: SourceRequest) -> SparkSession:
    """The shared session with what the source needs; skips where Maven's files cannot be had."""
    try:
        with spark_session("servers", jar_sets=needed_jars([request])) as session:
            return session
    except EnvironmentProblemError as error:
        if "could not be fetched" not in str(error) and JARS_DIR_VARIABLE not in os.environ:
            raise
        pytest.skip(str(error))


def read(table: TableConfig) -> DataFrame:
    request = SourceRequest.of(table, COMPANY)
    return read_source(with_jars(request), request)


def canonical(table: TableConfig, *names: str) -> list[list[Any]]:
    contract = EVENTS.with_fields(())
    frame = canonical_rows(read(table), table, contract, COMPANY)
    rows = frame.orderBy("user_id").select(*names, "rule").toArrow().to_pylist()
    return [list(row.values()) for row in rows]


@pytest.mark.usefixtures("spark")
def test_a_table_of_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    with postgresql_server() as server:
        server.run(SHOP)
        access = {"url": server.url, "user": server.user, "password_variable": "SHOP_PASSWORD"}
        table = described(
            "jdbc",
            {**access, "table": "orders", "partition_column": "customer", "num_partitions": 2},
            columns={"event_id": "id", "amount": "price", "query": "tags", "item_id": "more"},
        )
        monkeypatch.setenv("SHOP_PASSWORD", "wrong-one")
        with pytest.raises(SourceError, match=r"authentication failed for user .shop.") as caught:
            read(table)
        assert "wrong-one" not in str(caught.value)
        monkeypatch.setenv("SHOP_PASSWORD", server.password)
        ids = [f"6f1c1f60-0000-4000-8000-00000000000{n}" for n in (1, 2)]
        names = ("event_id", "user_id", "event_time", "event_type", "amount", "query", "item_id")
        assert canonical(table, *names) == [
            [ids[0], "7", NOON, "purchase", 19.9, '["red","a b"]', '{"size": 3}', None],
            [ids[1], "8", NEW_YEAR, "cart", None, None, None, None],
        ]
        query = {"query": "SELECT *, 'cart' AS also FROM orders WHERE local IS NOT NULL"}
        times = {"event_time": "local", "event_type": "also"}
        local = described("jdbc", access | query, columns=times, time_zone="Europe/Berlin")
        assert canonical(local, "event_time", "event_type") == [[NOON, "cart", None]]


MESSAGES = [
    '{"customer": 1, "at": "2024-07-01T12:00:00+02:00", "kind": "purchase", "paid": 2.5}',
    '{"customer": "2", "at": "2024-01-01T00:00:00Z", "kind": "cart", "extra": {"a": [1]}}',
    '{"customer": 3, "at": ',
    None,
]


def streamed(spark: SparkSession, workspace: Workspace, table: TableConfig) -> Progress:
    """What a company's stream of the topic has done after all that is there."""
    path = workspace.root.with_name("company.yaml")
    one = table.model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump({"name": "shop", "tables": [one]}))
    context = StageContext(workspace, RunSettings(company_path=path), say=lambda line: None)
    return run_streams(context, once=True)["orders"]


def behind_tls(broker: KafkaBroker) -> dict[str, str]:
    """Options of the same topic at the address that asks who reads."""
    return {
        "servers": broker.guarded,
        "topic": "clicks",
        "security": "sasl_ssl",
        "user": broker.user,
        "password_variable": "BROKER_PASSWORD",
        "certificates": str(broker.certificates),
    }


def test_a_topic_of_kafka(
    spark: SparkSession, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_TIMEOUT_MS", "5000")
    with kafka_broker() as broker:
        servers = broker.servers
        table = described("kafka", {"servers": servers, "topic": "clicks"})
        with_jars(SourceRequest.of(table, COMPANY))
        with pytest.raises(SourceError, match=rf"topic 'clicks' at {servers} cannot be read: .*"):
            read(table)
        texts = spark.createDataFrame([(text,) for text in MESSAGES], "value string")
        sent = {"kafka.bootstrap.servers": servers, "topic": "clicks"}
        texts.write.format("kafka").options(**sent).save()
        broken = [None, None, None, "malformed_row"]
        assert canonical(table, "user_id", "event_time", "event_type") == [
            broken,
            broken,
            ["1", NOON, "purchase", None],
            ["2", NEW_YEAR, "cart", None],
        ]
        by_broker = described(
            "kafka", table.source.options, columns={"event_time": "_kafka_timestamp"}
        )
        times = [row[0] for row in canonical(by_broker, "event_time")]
        assert all(abs((datetime.now(UTC) - time).total_seconds()) < 600 for time in times)
        guarded = described("kafka", behind_tls(broker))
        monkeypatch.setenv("BROKER_PASSWORD", broker.password)
        assert read(guarded).count() == len(MESSAGES)
        monkeypatch.setenv("BROKER_PASSWORD", "wrong")
        with pytest.raises(SourceError, match=r"cannot be read: .*'security'") as refused:
            read(guarded)
        assert "wrong" not in str(refused.value)
        monkeypatch.setenv("BROKER_PASSWORD", broker.password)
        done = streamed(spark, workspace, guarded)
        assert (done.input_rows, done.accepted, done.quarantined, done.inserted) == (4, 2, 2, 2)
        texts.limit(1).write.format("kafka").options(**sent).save()
        done = streamed(spark, workspace, table)
        assert (done.input_rows, done.accepted, done.inserted) == (5, 3, 2)
    monkeypatch.setattr(kafka, "_TIMEOUT_MS", "500")
    unreachable = r"cannot be read: .*Timed out.*servers can be reached"
    with pytest.raises(SourceError, match=unreachable):
        read(table)
    with pytest.raises(SourceError, match=unreachable):
        streamed(spark, workspace, table)
