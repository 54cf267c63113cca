"""The clickstream's way to token sequences, by hand in DuckDB: what the rooms are compared with.

It knows this one table: no description, no quarantine, no merge, no history of versions. Rows are
checked, made distinct and written in order of user and time; values are counted before the training
cut; every user's events become lists of integers.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import duckdb

NUM_BINS = 32
EVENTS = """
COPY (
    SELECT DISTINCT md5(concat_ws('|', "user", item, kind, epoch_us(time), paid, channel)) AS id,
        "user"::VARCHAR AS user_id, time, kind, item::VARCHAR AS item, paid, channel
    FROM read_parquet('{raw}/*.parquet')
    WHERE "user" IS NOT NULL AND time IS NOT NULL AND kind IS NOT NULL
        AND (paid IS NULL OR (paid >= 0 AND isfinite(paid)))
    ORDER BY user_id, time, id
) TO '{out}/events.parquet' (COMPRESSION zstd)
"""
POSITIONS = """
CREATE OR REPLACE TABLE {name}_of AS
SELECT {name}, 2 + row_number() OVER (ORDER BY count(*) DESC, {name}) AS idx
FROM '{out}/events.parquet' WHERE time < '{cut}' AND {name} IS NOT NULL GROUP BY {name}
"""
SEQUENCES = """
COPY (
    WITH timed AS (
        SELECT *, epoch_us(time) - lag(epoch_us(time))
            OVER (PARTITION BY user_id ORDER BY time, id) AS gap
        FROM '{out}/events.parquet'
    )
    SELECT user_id, list(epoch_us(time) ORDER BY time, timed.id) AS times_us,
        list(hash(timed.id) ORDER BY time, timed.id) AS event_hashes,
        list(coalesce(kind_of.idx, 2) ORDER BY time, timed.id) AS token_kind,
        list(coalesce(item_of.idx, 2) ORDER BY time, timed.id) AS token_item,
        list(coalesce(channel_of.idx, 2) ORDER BY time, timed.id) AS token_channel,
        list({amount} ORDER BY time, timed.id) AS token_amount,
        list(paid::FLOAT ORDER BY time, timed.id) AS amounts,
        list(3 + least(41, floor(2 * log2(1 + gap / 60e6)))::INTEGER ORDER BY time, timed.id)
            AS token_gap,
        list(3 + hour(time) ORDER BY time, timed.id) AS token_hour,
        list(3 + isodow(time) ORDER BY time, timed.id) AS token_weekday,
        list(3 + coalesce((gap > 1800e6)::INTEGER, 1) ORDER BY time, timed.id) AS token_session
    FROM timed LEFT JOIN kind_of USING (kind) LEFT JOIN item_of USING (item)
        LEFT JOIN channel_of USING (channel)
    GROUP BY user_id
) TO '{out}/sequences.parquet' (COMPRESSION zstd)
"""


def run_duckdb(raw: Path, out: Path, as_of: datetime, *, threads: int | None) -> int:
    """Do the job; gives the number of events."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    cut = (as_of - timedelta(days=28)).isoformat()
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {threads}")
        connection.execute("SET memory_limit = '4GB'")
        connection.execute(f"SET temp_directory = '{out}/spill'")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(EVENTS.format(raw=raw, out=out))
        for name in ("kind", "item", "channel"):
            connection.execute(POSITIONS.format(name=name, out=out, cut=cut))
        edges = connection.execute(_edges(out, cut)).fetchone()
        amount = _bins(sorted(set(edges[0])) if edges else [])
        connection.execute(SEQUENCES.format(out=out, amount=amount))
        found = connection.execute(f"SELECT count(*) FROM '{out}/events.parquet'").fetchone()
    return int(found[0]) if found else 0


def _edges(out: Path, cut: str) -> str:
    shares = [i / NUM_BINS for i in range(1, NUM_BINS)]
    wanted = f"time < '{cut}' AND paid <> 0"
    return f"SELECT quantile_cont(paid, {shares}) FROM '{out}/events.parquet' WHERE {wanted}"


def _bins(edges: list[float]) -> str:
    """A tree of comparisons, so that 31 edges cost five."""

    def tree(low: int, high: int) -> str:
        if low == high:
            return str(4 + low)
        middle = (low + high) // 2
        below, above = tree(low, middle), tree(middle + 1, high)
        return f"CASE WHEN paid < {edges[middle]!r} THEN {below} ELSE {above} END"

    return f"CASE WHEN paid IS NULL THEN 1 WHEN paid = 0 THEN 3 ELSE {tree(0, len(edges))} END"
