"""Room 4: what every known user did in the windows that follow the prediction times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.clock import to_micros
from pipelines.contracts import (
    AMOUNT,
    CATEGORIES,
    CATEGORY,
    EVENT_TIME,
    EVENT_TYPE,
    ITEM_COUNTS,
    ITEM_ID,
    ITEM_IDS,
    LABELS,
    NUM_EVENTS,
    NUM_PURCHASES,
    PREDICTION_TIME,
    PURCHASE,
    USER_ID,
    WINDOW_DAYS,
)
from pipelines.stages.schemas import SPARK_TYPES

NUM_PREDICTION_TIMES: Final = 7
_KEY: Final = [USER_ID, PREDICTION_TIME]


def prediction_times(as_of: datetime, window_days: int) -> list[datetime]:
    """The test cut and the cuts one to six windows before it, latest first."""
    return [as_of - timedelta(days=k * window_days) for k in range(NUM_PREDICTION_TIMES)]


@contextmanager
def future_labels(
    events: DataFrame,
    catalogue: DataFrame | None,
    as_of: datetime,
    window_days: int,
    users: DataFrame | None = None,
) -> Iterator[DataFrame]:
    """Rows of `labels`, for the time of a block: one per prediction time and user with any history
    before it. What they are counted from is kept in the session for so long.

    Items, categories, purchases and the amount are of purchases; `num_events` counts all events.

    Args:
        events: The `events` table.
        catalogue: The `catalogue` table, if the company has one.
        as_of: The test cut.
        window_days: Length of a window; windows meet without a gap.
        users: Labels of these users alone, few beside all; all by default.
    """
    if users is not None:
        events = events.join(F.broadcast(users), USER_ID, "left_semi")
    times = _times_frame(events.sparkSession, as_of, window_days)
    known = _known_users(events, times)
    window = _in_window(events, times, window_days).persist()
    try:
        yield _counted(known, window, catalogue, window_days)
    finally:
        window.unpersist()


def _counted(
    known: DataFrame, window: DataFrame, catalogue: DataFrame | None, window_days: int
) -> DataFrame:
    bought = window.where(F.col(EVENT_TYPE) == PURCHASE)
    joined = (
        known.join(_totals(window), _KEY, "left")
        .join(_items(bought), _KEY, "left")
        .join(_categories(bought, catalogue), _KEY, "left")
        .withColumn(WINDOW_DAYS, F.lit(window_days))
        .fillna(0, [NUM_EVENTS, NUM_PURCHASES])
        .fillna(0.0, [AMOUNT])
    )
    for column in LABELS.columns:
        if column.name in (ITEM_IDS, ITEM_COUNTS, CATEGORIES):
            empty = F.array().cast(SPARK_TYPES[column.type])
            joined = joined.withColumn(column.name, F.coalesce(column.name, empty))
    return joined.select(*(F.col(c.name).cast(SPARK_TYPES[c.type]) for c in LABELS.columns))


def _times_frame(spark: SparkSession, as_of: datetime, window_days: int) -> DataFrame:
    micros = [(to_micros(t),) for t in prediction_times(as_of, window_days)]
    frame = spark.createDataFrame(micros, ["micros"])
    return F.broadcast(frame.select(F.timestamp_micros("micros").alias(PREDICTION_TIME)))


def _known_users(events: DataFrame, times: DataFrame) -> DataFrame:
    first = events.groupBy(USER_ID).agg(F.min(EVENT_TIME).alias(EVENT_TIME))
    return first.join(times, F.col(EVENT_TIME) < F.col(PREDICTION_TIME)).select(*_KEY)


def _in_window(events: DataFrame, times: DataFrame, window_days: int) -> DataFrame:
    since = F.unix_micros(EVENT_TIME) - F.unix_micros(PREDICTION_TIME)
    inside = (since >= 0) & (since < timedelta(days=window_days) // timedelta(microseconds=1))
    columns = (USER_ID, PREDICTION_TIME, EVENT_TYPE, ITEM_ID, AMOUNT)
    return events.join(times, inside).select(*columns)


def _totals(window: DataFrame) -> DataFrame:
    """Sums run over sorted amounts, so that the same events always give the same bits."""
    is_purchase = F.col(EVENT_TYPE) == PURCHASE
    amounts = F.array_sort(F.collect_list(F.when(is_purchase, F.col(AMOUNT))))
    return window.groupBy(*_KEY).agg(
        F.count("*").alias(NUM_EVENTS),
        F.count_if(is_purchase).alias(NUM_PURCHASES),
        F.aggregate(amounts, F.lit(0.0), lambda total, one: total + one).alias(AMOUNT),
    )


def _items(bought: DataFrame) -> DataFrame:
    counted = bought.where(F.col(ITEM_ID).isNotNull()).groupBy(*_KEY, ITEM_ID).count()
    pairs = F.array_sort(F.collect_list(F.struct(ITEM_ID, "count")))
    return (
        counted.groupBy(*_KEY)
        .agg(pairs.alias("pairs"))
        .select(
            *_KEY,
            F.col(f"pairs.{ITEM_ID}").alias(ITEM_IDS),
            F.col("pairs.count").alias(ITEM_COUNTS),
        )
    )


def _categories(bought: DataFrame, catalogue: DataFrame | None) -> DataFrame:
    names = F.array_sort(F.collect_set(CATEGORY)).alias(CATEGORIES)
    if catalogue is None:
        return bought.withColumn(CATEGORY, F.lit(None).cast("string")).groupBy(*_KEY).agg(names)
    return bought.join(catalogue.select(ITEM_ID, CATEGORY), ITEM_ID).groupBy(*_KEY).agg(names)
