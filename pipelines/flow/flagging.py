"""Which users are flagged, from the sequences that rooms 3 and 4 made."""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from pipelines import lake
from pipelines.clock import to_micros
from pipelines.contracts import PROFILES, TIMES_US, USER_FLAGS, USER_ID
from pipelines.flow.runner import StageContext
from pipelines.quality.user_flags import habits_of, user_flags

_BATCH_ROWS: Final = 16_384


def flag_users(context: StageContext) -> None:
    """Write `user_flags` from what happened before the test cut."""
    from pipelines.stages.delta import replace
    from pipelines.stages.schemas import spark_schema

    before_us = to_micros(context.as_of)
    sequences = lake.sequence_batches(context.workspace, [USER_ID, TIMES_US], _BATCH_ROWS)
    habits = pa.concat_tables([habits_of(batch, before_us) for batch in sequences])
    flags = user_flags(habits, context.company.flags, _profiles(context))
    rows = context.spark().createDataFrame(flags.to_pylist(), spark_schema(USER_FLAGS))
    replace(rows.coalesce(1), context.workspace.table(USER_FLAGS.name), [USER_ID])
    context.say(f"  {USER_FLAGS.name}: {flags.num_rows:,} rows")


def _profiles(context: StageContext) -> dict[str, list[Any]] | None:
    fields = list(context.company.flags.staff.profile)
    if not fields:
        return None
    found: dict[str, list[Any]] = lake.read(
        context.workspace, PROFILES.name, [USER_ID, *fields]
    ).to_pydict()
    return found
