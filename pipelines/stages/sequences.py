"""Room 4: one row per user, encoded by the encoder that serving uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import ArrayType, IntegerType, StructField, StructType

from pipelines.contracts import (
    AMOUNT,
    QUANTITY,
    TOKEN_PREFIX,
    TOKEN_SEQUENCES,
    USER_ID,
)
from pipelines.stages.schemas import spark_schema
from pipelines.stages.user_ranges import EVENT_ORDER, UserRanges
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary


def token_sequences(
    spark: SparkSession,
    events: UserRanges,
    vocabulary: Vocabulary,
    users: Sequence[str] | None = None,
) -> DataFrame:
    """Encode users' whole histories: rows of `token_sequences`.

    Tasks read the events themselves, as Arrow, one range of users each: nothing is shuffled and no
    row passes through the JVM before it is encoded.

    Args:
        spark: Session whose workers reach the table's folder.
        events: The events table, cut into ranges of users.
        vocabulary: The frozen vocabulary.
        users: Only these users, few beside all: a task takes several ranges. All by default.
    """
    schema = sequence_schema(vocabulary)
    num = len(events.ranges)
    tasks = num if users is None else min(num, spark.sparkContext.defaultParallelism)
    positions = spark.range(num, numPartitions=tasks)
    return positions.mapInArrow(_encoder(events, vocabulary, users), schema).select(*schema.names)


def sequence_schema(vocabulary: Vocabulary) -> StructType:
    """The Spark schema of `token_sequences` under a vocabulary."""
    fixed = spark_schema(TOKEN_SEQUENCES).fields
    names = [f"{TOKEN_PREFIX}{field.name}" for field in vocabulary.fields]
    return StructType(fixed + [StructField(name, ArrayType(IntegerType())) for name in names])


def encode_sorted(events: pa.Table, vocabulary: Vocabulary) -> Histories:
    """Encode a table of events that stands sorted by user and `EVENT_ORDER`.

    Args:
        events: N canonical events of any number of users.
        vocabulary: The frozen vocabulary.
    """
    users = events.column(USER_ID).combine_chunks()
    if isinstance(users, pa.ChunkedArray):
        users = users.combine_chunks()
    runs = pc.run_end_encode(users)
    offsets = np.concatenate([[0], np.asarray(runs.run_ends)]).astype(np.int64)
    return encode(vocabulary, events, runs.values.to_pylist(), offsets)


def read_columns(vocabulary: Vocabulary) -> list[str]:
    """Columns of events that encoding reads."""
    fields = [field.column for field in vocabulary.fields if field.column]
    return list(dict.fromkeys([USER_ID, *EVENT_ORDER, AMOUNT, QUANTITY, *fields]))


def _encoder(
    events: UserRanges, vocabulary: Vocabulary, users: Sequence[str] | None
) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    columns = read_columns(vocabulary)

    def encode_ranges(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        positions = (one for batch in batches for one in batch.column(0).to_pylist())
        for rows in events.read(positions, columns, users):
            if rows.num_rows:
                histories = encode_sorted(rows, vocabulary)
                yield from histories.to_arrow(vocabulary.vocabulary_id).to_batches()

    return encode_ranges
