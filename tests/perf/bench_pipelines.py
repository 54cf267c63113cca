"""Rooms 1 to 4 on a clickstream of any length, beside the same job written by hand in DuckDB.

Run: `python tests/perf/bench_pipelines.py --events 10000000 [--rounds 2] [--no-reference]`. Raw
Parquet files in, token sequences out: the gate, the merge, the vocabulary and the encoding, with
Great Expectations. Spark runs in one warm session (a small first round is not counted), DuckDB on
as many threads. Then days of one per cent more events each, of an eighth of the users, are taken in
and tokenized; their median stands against intake and `bfm tokenize` of everything, labels included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2]))

from pipelines import lake
from pipelines.contracts import EVENTS, TOKEN_SEQUENCES, USER_ID
from pipelines.flow.memory import MemorySampler
from pipelines.flow.runner import RunSettings, StageContext
from pipelines.flow.spark import num_cores, spark_session
from pipelines.flow.tokenize import tokenize
from pipelines.stages.delta import replace
from pipelines.stages.ingest import ingest
from pipelines.stages.sequences import token_sequences
from pipelines.stages.user_ranges import user_ranges
from pipelines.stages.vocabulary import fit_vocabulary
from pipelines.workspace import Workspace
from tests.perf.duckdb_pipeline import run_duckdb

EVENTS_PER_USER = 100
EVENTS_PER_FILE = 1_000_000
NUM_ITEMS = 20_000
FIRST_US = 1_672_531_200_000_000
DAYS = 300
NUM_INCREMENTS = 3
AS_OF = datetime(2023, 9, 1, tzinfo=UTC)
COMPANY = """
name: clickstream
tables:
  - name: clicks
    into: events
    source: {format: parquet, path: raw}
    columns: {user_id: user, event_time: time, event_type: kind, item_id: item, amount: paid,
              channel: channel}
"""


def write_raw(folder: Path, num_events: int, *, first_day: int, days: int, users: int) -> None:
    """Part files of at most a million events, in order of time."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, begin in enumerate(range(0, num_events, EVENTS_PER_FILE)):
        rng = np.random.default_rng([first_day, number])
        num = min(EVENTS_PER_FILE, num_events - begin)
        kinds = np.asarray(["page_view", "cart", "purchase"])[
            rng.choice(3, num, p=[0.85, 0.08, 0.07])
        ]
        paid = np.where(kinds == "purchase", np.round(rng.lognormal(2, 1, num), 2), np.nan)
        times = FIRST_US + first_day * 86_400_000_000 + rng.integers(0, days * 86_400_000_000, num)
        table = pa.table(
            {
                "user": rng.integers(0, users, num),
                "item": (rng.pareto(1.1, num) * 50).astype(np.int64) % NUM_ITEMS,
                "kind": kinds,
                "time": pa.array(np.sort(times), type=pa.timestamp("us", tz="UTC")),
                "paid": pa.array(paid, from_pandas=True),
                "channel": np.asarray(["web", "app"])[rng.integers(0, 2, num)],
            }
        )
        pq.write_table(table, folder / f"day-{first_day:03d}-part-{number:05d}.parquet")


def context_of(workspace: Workspace, company: Path) -> StageContext:
    """Its session is the one that runs already."""
    settings = RunSettings(company_path=company, as_of=AS_OF)
    return StageContext(workspace, settings, say=lambda line: None)


def take_in(context: StageContext) -> float:
    """Seconds of intake with its gate."""
    begun = time.monotonic()
    company_path = context.settings.company_path
    ingest(context.spark(), context.workspace, context.company, company_path, context.say)
    return time.monotonic() - begun


def make_sequences(context: StageContext) -> float:
    """Seconds of vocabulary and sequences."""
    begun = time.monotonic()
    path = context.workspace.table(EVENTS.name)
    events = context.spark().read.format("delta").load(str(path))
    contract = context.company.contract("events")
    vocabulary = fit_vocabulary("bench", events, None, contract, context.training_cut)
    sequences = token_sequences(context.spark(), user_ranges(path), vocabulary)
    replace(sequences, context.workspace.table(TOKEN_SEQUENCES.name), [USER_ID])
    return time.monotonic() - begun


def tokenize_all(context: StageContext) -> float:
    """Seconds of rooms 3 and 4 as `bfm tokenize` runs them, labels included."""
    begun = time.monotonic()
    tokenize(context)
    return time.monotonic() - begun


def take_in_day(context: StageContext, raw: Path, number: int, events: int, users: int) -> float:
    """Seconds of a day of new events, alone in the source's folder, from raw file to sequences."""
    shutil.rmtree(raw)
    write_raw(raw, events, first_day=DAYS + number, days=1, users=users)
    return take_in(context) + tokenize_all(context)


def duckdb_seconds(raw: Path, out: Path, num_events: int) -> float | None:
    """Seconds of the same job by hand; None where it ends for want of memory or of disk."""
    begun = time.monotonic()
    try:
        found = run_duckdb(raw, out, AS_OF, threads=num_cores())
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        print(f"DuckDB: {str(error).splitlines()[0]}", flush=True)
        return None
    assert found == num_events
    return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--no-reference", action="store_true", help="leave DuckDB out")
    options = parser.parse_args()
    users = max(options.events // EVENTS_PER_USER, 10)
    with tempfile.TemporaryDirectory() as temporary, spark_session("bench"):
        folder = Path(temporary)
        company = folder / "company.yaml"
        company.write_text(COMPANY)
        write_raw(folder / "raw", 100_000, first_day=0, days=DAYS, users=1_000)
        warm = context_of(Workspace(folder / "warm"), company)
        take_in(warm)
        make_sequences(warm)
        tokenize_all(warm)
        shutil.rmtree(folder / "raw")
        write_raw(folder / "raw", options.events, first_day=0, days=DAYS, users=users)
        rooms, reference, peaks = [], [], []
        for number in range(options.rounds):
            context = context_of(Workspace(folder / f"workspace-{number}"), company)
            with MemorySampler() as sampler:
                rooms.append((take_in(context), make_sequences(context)))
            peaks.append(sampler.peak.total)
            intake, sequences = rooms[-1]
            print(
                f"intake {intake:.1f} s, vocabulary and sequences {sequences:.1f} s, "
                f"{sampler.peak.total / 2**30:.2f} GiB",
                flush=True,
            )
            num_events = lake.num_rows(context.workspace, EVENTS.name)
            if options.no_reference:
                continue
            by_hand = duckdb_seconds(folder / "raw", folder / "duckdb", num_events)
            reference += [] if by_hand is None else [by_hand]
        full = statistics.median(sum(one) for one in rooms)
        rebuild = statistics.median(one[0] for one in rooms) + tokenize_all(context)
        increments = [
            take_in_day(context, folder / "raw", number, options.events // 100, max(users // 8, 1))
            for number in range(NUM_INCREMENTS)
        ]
        increment = statistics.median(increments)
    ratio = round(full / statistics.median(reference), 2) if reference else None
    print(
        json.dumps(
            {
                "events": options.events,
                "users": users,
                "seconds": [[round(part, 1) for part in one] for one in rooms],
                "events_per_second": round(options.events / full),
                "peak_gib": round(max(peaks) / 2**30, 2),
                "duckdb_seconds": [round(one, 1) for one in reference],
                "ratio_to_duckdb": ratio,
                "increment_seconds": [round(one, 1) for one in increments],
                "rebuild_seconds": round(rebuild, 1),
                "increment_share": round(increment / rebuild, 3),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
