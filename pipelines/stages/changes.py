"""Which users an intake touched: read from the changes that Delta keeps of the events table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipelines.contracts import EVENT_TIME, USER_ID


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What became of events between two versions of their table.

    Args:
        user_ids: Users with an event that was added, corrected or deleted, sorted.
        num_before: How many of these events lie before each of the times asked about.
    """

    user_ids: list[str]
    num_before: tuple[int, ...]


def changes_since(
    spark: SparkSession, events: Path, version: int, times: Sequence[datetime]
) -> Changes | None:
    """Changes after a version; None when Delta no longer holds them (after a vacuum, say).

    Args:
        spark: Session with Delta.
        events: Folder of the events table.
        version: The last version whose events are known.
        times: Changes before each of them are counted.
    """
    counts = [
        F.count_if(F.col(EVENT_TIME) < F.lit(time)).alias(f"before_{number}")
        for number, time in enumerate(times)
    ]
    rows = spark.read.format("delta").option("readChangeFeed", "true")
    try:
        found = (
            rows.option("startingVersion", str(version + 1))
            .load(str(events))
            .groupBy(USER_ID)
            .agg(*counts)
            .toArrow()
        )
    except (PySparkException, Py4JJavaError):  # Delta throws some of its own unwrapped
        return None
    return Changes(
        user_ids=sorted(found.column(USER_ID).to_pylist()),
        num_before=tuple(sum(found.column(1 + k).to_pylist()) for k in range(len(times))),
    )
