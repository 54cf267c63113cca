"""Reader of a Kafka topic as a table: every message from the earliest to the latest.

The value of a message is one JSON object; its time at the broker stands beside in
`_kafka_timestamp`. What arrives while a topic is read belongs to the next run.
"""

from __future__ import annotations

from typing import Final

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.errors import SourceError
from pipelines.sources.json_rows import VALUE, json_rows
from pipelines.sources.request import Reader, SourceRequest, reason_of, stamp_of_now

KAFKA_TIMESTAMP: Final = "_kafka_timestamp"
_TIMEOUT_MS: Final = "20000"


def kafka_options(request: SourceRequest) -> dict[str, str]:
    """Spark's options for the topic that a table names.

    Raises:
        CompanyConfigError: `servers` or `topic` is missing.
    """
    return {
        "kafka.bootstrap.servers": request.needed("servers"),
        "subscribe": request.needed("topic"),
        "startingOffsets": str(request.source.options.get("starting", "earliest")),
        "kafka.request.timeout.ms": _TIMEOUT_MS,
        "kafka.default.api.timeout.ms": _TIMEOUT_MS,
    }


def message_texts(messages: DataFrame) -> DataFrame:
    """Values of Kafka's messages as text, with the broker's time."""
    return messages.select(
        F.col("value").cast("string").alias(VALUE), F.col("timestamp").alias(KAFKA_TIMESTAMP)
    )


def _read(spark: SparkSession, request: SourceRequest) -> DataFrame:
    options = kafka_options(request)
    try:
        return json_rows(
            message_texts(spark.read.format("kafka").options(**options).load()), request
        )
    except (PySparkException, Py4JError) as error:
        raise SourceError(
            f"{request.place}: topic '{options['subscribe']}' at "
            f"{options['kafka.bootstrap.servers']} cannot be read: {reason_of(error)}. "
            "Check that the servers can be reached and that the topic exists."
        ) from error


KAFKA: Final = Reader(
    read=_read,
    stamp=stamp_of_now,
    options=("servers", "topic", "starting"),
    jars=lambda request: ("kafka",),
)
