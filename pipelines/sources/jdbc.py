"""Reader of a table or a query of a database, over JDBC.

The password stands in an environment variable that `password_variable` names. PostgreSQL's driver
is fetched when it is needed; the jar of any other is named in BFM_SPARK_EXTRA_JARS. JSON, UUIDs and
lists come as text, times without a zone stay without. A `partition_column` with `num_partitions`
reads with several connections; it holds numbers, dates or times with a zone.
"""

from __future__ import annotations

from typing import Final

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DecimalType

from pipelines.errors import CompanyConfigError, SourceError
from pipelines.sources.request import Reader, SourceRequest, quoted, reason_of, stamp_of_now

_POSTGRESQL: Final = "jdbc:postgresql:"
_POSTGRESQL_DRIVER: Final = "org.postgresql.Driver"
_FETCH_SIZE: Final = "10000"  # PostgreSQL's driver would hold the whole table in memory


def _read(spark: SparkSession, request: SourceRequest) -> DataFrame:
    password = request.secret("password_variable", "the password of the database's user")
    options = _connection(request) | ({"password": password} if password else {})
    reader = spark.read.format("jdbc").options(**options)
    rows = _rows_asked_for(request)
    try:
        frame = reader.options(dbtable=rows, **_partitions(reader, request, rows)).load()
    except (PySparkException, Py4JError) as error:
        reason = reason_of(error)
        raise SourceError(
            f"{request.place}: {options['url']} cannot be read: "
            f"{reason.replace(password, '***') if password else reason}. Check the server, the "
            "user, the table or query, and that BFM_SPARK_EXTRA_JARS names the jar of a driver "
            "other than PostgreSQL's."
        ) from error
    return frame.select(*(_as_text_if_list(frame, name) for name in frame.columns))


def _connection(request: SourceRequest) -> dict[str, str]:
    given = request.source.options
    url = request.needed("url")
    driver = _POSTGRESQL_DRIVER if url.startswith(_POSTGRESQL) else request.needed("driver")
    options = {
        "url": url,
        "driver": str(given.get("driver", driver)),
        "fetchsize": str(given.get("fetch_size", _FETCH_SIZE)),
        "preferTimestampNTZ": "true",
    }
    return options | ({"user": str(given["user"])} if "user" in given else {})


def _rows_asked_for(request: SourceRequest) -> str:
    given = {name: request.source.options.get(name) for name in ("table", "query")}
    if (given["table"] is None) == (given["query"] is None):
        raise CompanyConfigError(
            f"{request.place}.source.options: give one of 'table' (a name) and 'query' (a SELECT)."
        )
    return str(given["table"] or f"({given['query']}) asked_for")


def _partitions(reader: DataFrameReader, request: SourceRequest, rows: str) -> dict[str, str]:
    """Spark's options for reading with several connections; their bounds are asked for."""
    column, num = (
        request.source.options.get(name) for name in ("partition_column", "num_partitions")
    )
    if (column is None) != (num is None):
        raise CompanyConfigError(
            f"{request.place}.source.options: 'partition_column' and 'num_partitions' go together; "
            "give both or neither."
        )
    if column is None:
        return {}
    ends = f"(SELECT MIN({column}) AS low, MAX({column}) AS high FROM {rows}) ends"
    asked = reader.options(dbtable=ends).load()
    kind = "bigint" if isinstance(asked.schema[0].dataType, DecimalType) else "string"
    low, high = asked.select(*(F.col(name).cast(kind) for name in asked.columns)).collect()[0]
    if low is None:
        return {}
    return {
        "partitionColumn": str(column),
        "lowerBound": str(low),
        "upperBound": str(high),
        "numPartitions": str(num),
    }


def _as_text_if_list(frame: DataFrame, name: str) -> Column:
    is_list = isinstance(frame.schema[name].dataType, ArrayType)
    return F.to_json(quoted(name)).alias(name) if is_list else quoted(name)


def _jars(request: SourceRequest) -> tuple[str, ...]:
    return ("postgresql",) if request.needed("url").startswith(_POSTGRESQL) else ()


JDBC: Final = Reader(
    read=_read,
    stamp=stamp_of_now,
    options=(
        "url",
        "table",
        "query",
        "user",
        "password_variable",
        "driver",
        "fetch_size",
        "partition_column",
        "num_partitions",
    ),
    jars=_jars,
)
