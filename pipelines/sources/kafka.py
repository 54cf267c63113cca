"""Reader of a Kafka topic as a table: every message from the earliest to the latest.

The value of a message is one JSON object; its time at the broker stands beside in
`_kafka_timestamp`. What arrives while a topic is read belongs to the next run.

A broker that asks who reads is told by `security`, `mechanism`, `user` and `password_variable`,
which names the environment variable that holds the password. `certificates` is a file of PEM
certificates to trust; without it Java's own are.
"""

from __future__ import annotations

from typing import Final

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.company import resolve_path
from pipelines.errors import CompanyConfigError, SourceError
from pipelines.sources.json_rows import VALUE, json_rows
from pipelines.sources.request import Reader, SourceRequest, reason_of, stamp_of_now

KAFKA_TIMESTAMP: Final = "_kafka_timestamp"
_TIMEOUT_MS: Final = "20000"
_PLAINTEXT: Final = "plaintext"
_PROTOCOLS: Final = (_PLAINTEXT, "ssl", "sasl_plaintext", "sasl_ssl")
_PACKAGE: Final = "org.apache.kafka.common.security"
_LOGIN_MODULES: Final = {
    "PLAIN": f"{_PACKAGE}.plain.PlainLoginModule",
    "SCRAM-SHA-256": f"{_PACKAGE}.scram.ScramLoginModule",
    "SCRAM-SHA-512": f"{_PACKAGE}.scram.ScramLoginModule",
}
_PASSWORD: Final = "password_variable"
_LOGIN: Final = ("mechanism", "user", _PASSWORD)
_CERTIFICATES: Final = "certificates"


def kafka_options(request: SourceRequest) -> dict[str, str]:
    """Spark's options for the topic that a table names.

    Raises:
        CompanyConfigError: `servers`, `topic` or the user is missing, or an option has a value
            that is not allowed.
        SourceError: there is no file of certificates.
    """
    return {
        "kafka.bootstrap.servers": request.needed("servers"),
        "subscribe": request.needed("topic"),
        "startingOffsets": str(request.source.options.get("starting", "earliest")),
        "kafka.request.timeout.ms": _TIMEOUT_MS,
        "kafka.default.api.timeout.ms": _TIMEOUT_MS,
        **_security(request),
    }


def _security(request: SourceRequest) -> dict[str, str]:
    protocol = _choice(request, "security", _PROTOCOLS, _PLAINTEXT)
    encrypted, asks_who = protocol.endswith("ssl"), protocol.startswith("sasl")
    for option, is_used in {**dict.fromkeys(_LOGIN, asks_who), _CERTIFICATES: encrypted}.items():
        if option in request.source.options and not is_used:
            raise CompanyConfigError(
                f"{request.place}.source.options.{option}: 'security' is {protocol}, which makes "
                f"no use of it. Give another 'security' ({', '.join(_PROTOCOLS)}), or take it out."
            )
    if protocol == _PLAINTEXT:
        return {}
    options = {"kafka.security.protocol": protocol.upper()}
    if _CERTIFICATES in request.source.options:
        path = resolve_path(request.needed(_CERTIFICATES), request.company_path)
        if not path.is_file():
            raise SourceError(
                f"{request.place}.source.options.certificates: no file {path}. Give a file of PEM "
                "certificates, relative to the folder of company.yaml."
            )
        options["kafka.ssl.truststore.type"] = "PEM"
        options["kafka.ssl.truststore.location"] = str(path)
    return options | (_login(request) if asks_who else {})


def _login(request: SourceRequest) -> dict[str, str]:
    mechanism = _choice(request, "mechanism", tuple(_LOGIN_MODULES), "PLAIN")
    request.needed(_PASSWORD)
    names = {"username": request.needed("user"), "password": _password(request)}
    given = " ".join(f'{name}="{_escaped(value)}"' for name, value in names.items())
    return {
        "kafka.sasl.mechanism": mechanism,
        "kafka.sasl.jaas.config": f"{_LOGIN_MODULES[mechanism]} required {given};",
    }


def _choice(request: SourceRequest, option: str, allowed: tuple[str, ...], default: str) -> str:
    value = str(request.source.options.get(option, default))
    if value not in allowed:
        raise CompanyConfigError(
            f"{request.place}.source.options.{option}: '{value}' came; allowed are "
            f"{', '.join(allowed)}."
        )
    return value


def _password(request: SourceRequest) -> str:
    return request.secret(_PASSWORD, "the password of the broker's user")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


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
        raise unreadable_topic(request, error) from error


def unreadable_topic(request: SourceRequest, error: Exception) -> SourceError:
    """What to tell of a topic that Spark could not read, without the password."""
    reason, password = reason_of(error), _password(request)
    return SourceError(
        f"{request.place}: topic '{request.needed('topic')}' at {request.needed('servers')} "
        f"cannot be read: {reason.replace(password, '***') if password else reason}. Check that "
        "the servers can be reached, that the topic exists, and 'security' if they ask who reads."
    )


KAFKA: Final = Reader(
    read=_read,
    stamp=stamp_of_now,
    options=("servers", "topic", "starting", "security", *_LOGIN, _CERTIFICATES),
    jars=lambda request: ("kafka",),
)
