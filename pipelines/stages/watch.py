"""What an intake added, profiled and held against the profile of all intakes before it."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.contracts import EVENT_TIME, EVENTS, TableContract
from pipelines.quality.alarm import Alarm, Sample
from pipelines.quality.drift import drift
from pipelines.quality.profile import Profile, hour_of, profile_of
from pipelines.quality.rhythm import rhythm
from pipelines.workspace import Workspace

MAX_SAMPLE: Final = 200_000
PROFILE_FILE: Final = "intake_profile.json"
_HOUR: Final = "hour"
_COUNT: Final = "count"


def profile_path(workspace: Workspace) -> Path:
    """The profile of all events that were taken in; it outlives the page of any one intake."""
    return workspace.root / PROFILE_FILE


def watch_new_events(
    spark: SparkSession,
    workspace: Workspace,
    contract: TableContract,
    *,
    after_version: int,
    num_rows: int,
    now: datetime,
) -> list[Alarm]:
    """Compare the events that an intake added with those before, and remember them as usual.

    The first intake has nothing to be compared with.

    Args:
        spark: Session with Delta.
        workspace: Holds the events and the profile.
        contract: Contract of the stored events.
        after_version: Version of the events table before the intake; -1 without one.
        num_rows: How many events it added.
        now: Later events cannot have happened.
    """
    if not num_rows:
        return []
    weight = math.ceil(num_rows / MAX_SAMPLE)
    try:
        rows = _inserted(spark, workspace.table(EVENTS.name), after_version)
        taken, hours = _sample(rows, contract, weight), _hours(rows)
    except (PySparkException, Py4JJavaError) as error:  # the rows are stored: the line goes on
        return [_unseen(error)]
    new = profile_of(taken, contract, hours, weight)
    usual = Profile.load(profile_path(workspace))
    happened = replace(new, hours={h: n for h, n in new.hours.items() if h <= hour_of(now)})
    (usual.faded_into(happened) if usual else happened).save(profile_path(workspace))
    if usual is None:
        return []
    sample = Sample.of(taken, contract)
    return [
        *drift(sample, new, usual, EVENTS.name),
        *rhythm(sample, new, usual, EVENTS.name, now),
    ]


def _unseen(error: Exception) -> Alarm:
    return Alarm(
        table=EVENTS.name,
        field=EVENT_TIME,
        kind="not compared",
        seen=f"the new rows could not be read back ({str(error).splitlines()[0]:.200})",
        usual="Delta keeps the changes of this table",
        cause="Was its change data feed switched off by hand?",
    )


def _inserted(spark: SparkSession, path: Path, after_version: int) -> DataFrame:
    changes = spark.read.format("delta").option("readChangeFeed", "true")
    rows = changes.option("startingVersion", str(after_version + 1)).load(str(path))
    return rows.where("_change_type = 'insert'")


def _sample(rows: DataFrame, contract: TableContract, weight: int) -> pa.Table:
    """One of `weight` rows, chosen by the hash of the key; others than its own columns stay out."""
    chosen = F.pmod(F.xxhash64(*contract.key), F.lit(weight)) == 0
    return rows.where(chosen).select(*contract.column_names).toArrow()


def _hours(rows: DataFrame) -> dict[int, int]:
    hour = F.floor(F.unix_seconds(EVENT_TIME) / F.lit(3_600)).alias(_HOUR)
    counts = rows.groupBy(hour).count().toArrow().to_pydict()
    return dict(sorted(zip(counts[_HOUR], counts[_COUNT], strict=True)))
