"""JSON texts to rows: what the lines of a file and the messages of a topic have in common."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from typing import Any, Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from pipelines.errors import SourceError
from pipelines.sources.request import MALFORMED_ROW, SourceRequest, quoted

VALUE: Final = "value"
"""Column that holds one JSON object as text."""
_PARSED: Final = "_parsed"


def json_rows(
    values: DataFrame, request: SourceRequest, expected: Collection[str] = ()
) -> DataFrame:
    """Rows of JSON objects, with the text of everything that is no JSON object in MALFORMED_ROW.

    Types are inferred from all texts; a key with values of several kinds becomes text.

    Args:
        values: Texts in a column `value`; other columns are kept.
        request: Named in messages.
        expected: Keys that become null columns when no object has them. Where some are given, no
            object at all is no error: a batch of a stream may hold broken messages alone.

    Raises:
        SourceError: no JSON object is in the texts, or two keys differ in case alone.
    """
    fields = _inferred(values, request)
    if not fields and not expected:
        raise SourceError(
            f"{request.place}: {request.where} holds no JSON objects. "
            'Give one object per line or message, like {"user_id": "u1"}.'
        )
    schema = StructType([*fields, StructField(MALFORMED_ROW, StringType())])
    parsed = F.from_json(VALUE, schema, {"columnNameOfCorruptRecord": MALFORMED_ROW})
    no_text = F.when(F.col(_PARSED).isNull(), F.coalesce(VALUE, F.lit("")))
    known = [field.name for field in fields]
    return values.withColumn(_PARSED, parsed).select(
        *(quoted(name) for name in values.columns if name != VALUE),
        *(F.col(_PARSED)[name].alias(name) for name in known),
        *(F.lit(None).cast("string").alias(name) for name in expected if name not in known),
        F.coalesce(F.col(_PARSED)[MALFORMED_ROW], no_text).alias(MALFORMED_ROW),
    )


def _inferred(values: DataFrame, request: SourceRequest) -> list[StructField]:
    """Spark's own inference; PySpark offers it for files and for RDDs of Python texts alone."""
    spark = values.sparkSession
    jvm: Any = spark._jvm
    reader = spark._jsparkSession.read().option("columnNameOfCorruptRecord", MALFORMED_ROW)
    texts = getattr(values.select(VALUE)._jdf, "as")(jvm.org.apache.spark.sql.Encoders.STRING())
    with _exact_names(spark):
        schema = StructType.fromJson(json.loads(reader.json(texts).schema().json()))
    fields: dict[str, StructField] = {}
    for field in schema.fields:
        twice = field.name in fields  # in one object, with values of two kinds
        fields[field.name] = StructField(field.name, StringType()) if twice else field
    fields.pop(MALFORMED_ROW, None)
    _refuse_twins(sorted(fields), request)
    return list(fields.values())


@contextlib.contextmanager
def _exact_names(spark: SparkSession) -> Iterator[None]:
    """Keys that differ in case alone stay apart; Spark would drop one of them in silence."""
    before = spark.conf.get("spark.sql.caseSensitive", "false")
    spark.conf.set("spark.sql.caseSensitive", "true")
    try:
        yield
    finally:
        spark.conf.set("spark.sql.caseSensitive", str(before))


def _refuse_twins(names: list[str], request: SourceRequest) -> None:
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(name.lower(), []).append(name)
    twins = [same for same in spellings.values() if len(same) > 1]
    if twins:
        raise SourceError(
            f"{request.place}: JSON keys of {request.where} differ in case alone: "
            f"{', '.join(twins[0])}. Write a key in one way."
        )
