"""Staff and bots: by rule, and by habits against the truth of a simulated shop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from behavior_model.training.ray_trainer import keep_shard, shard_of
from pipelines import lake
from pipelines.company import load_company
from pipelines.erasure import user_hash
from pipelines.flags import BotsConfig, FlagsConfig
from pipelines.quality.user_flags import habits_of, user_flags
from pipelines.simulation.plan import SimulationOptions
from pipelines.simulation.run import simulate
from pipelines.tokens.generations import Generations
from pipelines.workspace import Workspace

DAY_US = 86_400_000_000
FAR = 10**18


def sequences(**times: list[int]) -> pa.Table:
    return pa.table(
        {
            "user_id": list(times),
            "times_us": pa.array(list(times.values()), type=pa.list_(pa.int64())),
        }
    )


def test_habits_count_days_hours_minutes_and_gaps() -> None:
    second, hour = 1_000_000, 3_600_000_000
    times = [0, 10 * second, 20 * second, 2 * hour, DAY_US, DAY_US + 10 * second]
    habits = habits_of(sequences(a=times, none=[], late=[3 * DAY_US], one=[5]), 3 * DAY_US)
    assert habits.column("user_id").to_pylist() == ["a", "one"]
    assert habits.slice(0, 1).to_pylist() == [
        {
            "user_id": "a",
            "num_events": 6,
            "num_days": 2,
            "busiest_day": 4,
            "events per active day": 3.0,
            "hours per active day": 1.5,
            "events per active minute": 2.0,
            "share of the most frequent gap": pytest.approx(3 / 5),
        }
    ]
    assert habits.column("share of the most frequent gap").to_pylist()[1] == 0.0


def test_nobody_does_more_a_day_than_the_company_says() -> None:
    habits = habits_of(sequences(busy=list(range(9)), calm=[0, DAY_US]), FAR)
    rules = FlagsConfig(bots=BotsConfig(max_events_per_day=6))
    assert user_flags(habits, rules).to_pylist() == [
        {
            "user_id": "busy",
            "flag": "bot",
            "reason": "9 events on one day, more than 6",
            "score": 1.5,
        }
    ]
    assert user_flags(habits, FlagsConfig()).num_rows == 0


def test_a_clockwork_user_is_a_bot() -> None:
    rng = np.random.default_rng(0)
    people = {f"u{i}": np.sort(rng.integers(60 * DAY_US, size=80)).tolist() for i in range(40)}
    clockwork = [i * DAY_US // 2 for i in range(80)]
    rows = user_flags(habits_of(sequences(**people, bot=clockwork), FAR), FlagsConfig()).to_pylist()
    assert [(row["user_id"], row["flag"]) for row in rows] == [("bot", "bot")]
    assert rows[0]["reason"].startswith("share of the most frequent gap 1, usual 0.0")


def histories(shop: Path) -> pa.Table:
    """User and times of all raw events, as token sequences hold them."""
    parts = []
    for table in load_company(shop).tables:
        if table.into == "events":
            user, at = (table.columns[name].column for name in ("user_id", "event_time"))
            raw = pq.read_table(shop.parent / str(table.source.path), columns=[user, at])
            us = raw.column(at)
            us = us if pa.types.is_integer(us.type) else us.cast(pa.timestamp("us", "UTC"))
            parts.append(pa.table({"user_id": raw.column(user), "times_us": us.cast(pa.int64())}))
    events = pa.concat_tables(parts).sort_by([("user_id", "ascending"), ("times_us", "ascending")])
    grouped = events.group_by("user_id", use_threads=False).aggregate([("times_us", "list")])
    return grouped.rename_columns({"times_us_list": "times_us"})


@pytest.mark.parametrize("num_users", [200, 1_000])
def test_bots_of_a_simulated_shop_are_found(tmp_path: Path, num_users: int) -> None:
    options = SimulationOptions(out=tmp_path / "shop", num_events=30_000, num_users=num_users)
    shop = simulate(options, say=lambda line: None)
    rows = histories(shop.company)
    truth = pq.read_table(options.out / "truth" / "users.parquet", columns=["user_id", "is_bot"])
    seen = set(rows.column("user_id").to_pylist())
    bots = {row["user_id"] for row in truth.to_pylist() if row["is_bot"]} & seen
    found = set(user_flags(habits_of(rows, FAR), FlagsConfig()).column("user_id").to_pylist())
    assert len(bots) >= 2
    assert len(found & bots) >= 0.8 * len(bots)
    assert len(found & bots) >= 0.8 * len(found)


def test_training_leaves_out_who_is_flagged_or_to_be_forgotten(workspace: Workspace) -> None:
    assert lake.flagged_users(workspace) == frozenset()
    rows = pa.table({"user_id": [f"u{i}" for i in range(20)]})
    erased = frozenset({user_hash("u3")})
    keep = keep_shard(0, 2, frozenset({"u1", "u2"}), erased, Generations.of(rows))
    kept = keep(rows).column(0).to_pylist()
    users = ["u0", *(f"u{i}" for i in range(4, 20))]
    assert kept == [user for user in users if shard_of(user, 2) == 0]


def test_training_reads_the_newest_row_of_a_user() -> None:
    rows = pa.table(
        {"user_id": ["u1", "u2", "u1"], "generation": [None, None, 4], "row": [0, 1, 2]}
    )
    keep = keep_shard(0, 1, frozenset(), frozenset(), Generations.of(rows))
    assert keep(rows).to_pylist() == [{"user_id": "u2", "row": 1}, {"user_id": "u1", "row": 2}]
