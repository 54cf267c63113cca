"""Room 4: one row per user, encoded by the encoder that serving uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql.types import ArrayType, IntegerType, StructField, StructType

from pipelines.contracts import (
    AMOUNT,
    EVENT_ID,
    EVENT_TIME,
    QUANTITY,
    SESSION_ID,
    TOKEN_PREFIX,
    TOKEN_SEQUENCES,
    USER_ID,
)
from pipelines.stages.schemas import spark_schema
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary

EVENTS_PER_PARTITION: Final = 250_000
EVENT_ORDER: Final = (EVENT_TIME, SESSION_ID, EVENT_ID)
"""Order of events inside a user; a missing session stands first."""


def token_sequences(events: DataFrame, vocabulary: Vocabulary) -> DataFrame:
    """Encode every user's whole history: rows of `token_sequences`.

    Args:
        events: The `events` table.
        vocabulary: The frozen vocabulary.
    """
    columns = dict.fromkeys([USER_ID, *EVENT_ORDER, *_read_columns(vocabulary, events)])
    partitions = max(
        math.ceil(events.count() / EVENTS_PER_PARTITION),
        events.sparkSession.sparkContext.defaultParallelism,
    )
    ordered = (
        events.select(*columns)
        .repartition(partitions, USER_ID)
        .sortWithinPartitions(USER_ID, *EVENT_ORDER)
    )
    schema = sequence_schema(vocabulary)
    return ordered.mapInArrow(_encoder(vocabulary), schema).select(*schema.names)


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


def _read_columns(vocabulary: Vocabulary, events: DataFrame) -> list[str]:
    wanted = [AMOUNT, QUANTITY, *(field.column for field in vocabulary.fields if field.column)]
    return [name for name in wanted if name in events.columns]


def _encoder(
    vocabulary: Vocabulary,
) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    def encode_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        held = list(batches)
        if not held:
            return
        histories = encode_sorted(pa.Table.from_batches(held), vocabulary)
        yield from histories.to_arrow(vocabulary.vocabulary_id).to_batches()

    return encode_partition
