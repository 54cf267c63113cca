"""Who of the staff leaves: a question of a company that sells nothing, against the truth."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from behavior_model.context import Futures
from behavior_model.tasks import Past, get_user_task, load_tasks, make_labels
from pipelines.clock import from_micros, to_micros
from pipelines.company import load_company
from pipelines.simulation.plan import SimulationOptions
from pipelines.simulation.run import Simulated, simulate
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import PROBE_TYPE, TokenField, TokenKind, Vocabulary

WINDOW_US = 28 * DAY_US
HALF = timedelta(days=14)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """A shop with two hundred people."""
    out = tmp_path_factory.mktemp("simulated") / "shop"
    options = SimulationOptions(out=out, num_events=12_000, num_users=10_000, num_items=200, seed=5)
    return simulate(options, lambda line: None)


@pytest.fixture(autouse=True)
def questions(shop: Simulated) -> Iterator[None]:
    """The questions that the description of the staff names."""
    load_tasks(load_company(shop.staff).tasks_path(shop.staff))
    yield
    load_tasks(None)


def vocabulary() -> Vocabulary:
    return Vocabulary(
        company="staff",
        fitted_before="",
        fields=(
            TokenField(
                name="event_type",
                kind=TokenKind.CATEGORICAL,
                column="event_type",
                values=(PROBE_TYPE, "shift", "sick_day", "training"),
            ),
            TokenField(name="item", kind=TokenKind.ITEM, column="item_id"),
        ),
        items=(),
        item_counts=(),
        categories=(),
        item_categories=(),
    )


def read(shop: Simulated) -> Histories:
    rows = pq.read_table(shop.staff.parent / "raw" / "staff" / "events.parquet")
    rows = rows.rename_columns(
        {"entry": "event_id", "person": "user_id", "at": "event_time", "what": "event_type"}
    ).sort_by([("user_id", "ascending"), ("event_time", "ascending")])
    rows = rows.append_column("item_id", pa.nulls(len(rows), pa.string()))
    users = rows["user_id"].value_counts()
    counts = pc.struct_field(users, "counts").to_numpy()
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return encode(vocabulary(), rows, pc.struct_field(users, "values").to_pylist(), offsets)


def middle(histories: Histories) -> datetime:
    """When half of everything has happened."""
    return from_micros(int(np.median(histories.times_us)))


def labels(histories: Histories, cut: datetime, task: str) -> dict[str, float]:
    cut_us = to_micros(cut)
    known = histories.before(cut_us).non_empty()
    ahead = histories.only(known.user_ids).since(cut_us).before(cut_us + WINDOW_US)
    nothing = [np.zeros(0, dtype=np.int64)] * len(known)
    past = Past(
        histories=known,
        prediction_times_us=np.full(len(known), cut_us),
        window_us=WINDOW_US,
        vocabulary=vocabulary(),
    )
    future = Futures(
        user_ids=known.user_ids,
        num_events=ahead.lengths,
        num_purchases=np.zeros(len(known), dtype=np.int64),
        amounts=np.zeros(len(known)),
        items=nothing,
        item_counts=nothing,
        categories=nothing,
        prediction_time_us=cut_us,
        vocabulary=vocabulary(),
        read_events=lambda: ahead,
    )
    found = make_labels(get_user_task(task), past, future)
    return dict(zip(known.user_ids, found.tolist(), strict=True))


def test_who_leaves_within_two_weeks_is_who_the_truth_says(shop: Simulated) -> None:
    histories = read(shop)
    rows = pq.read_table(shop.staff.parent / "truth" / "staff.parquet").to_pylist()
    leaves = {row["user_id"]: row["leave_time"] for row in rows}
    cut = middle(histories)
    asked = {u: one for u, one in labels(histories, cut, "leaving").items() if not np.isnan(one)}
    gone_long_ago = [u for u in leaves if leaves[u] is not None and leaves[u] < cut - HALF]
    assert gone_long_ago
    assert not set(gone_long_ago) & set(asked)
    leavers = {u for u in asked if leaves[u] is not None and leaves[u] <= cut + HALF}
    assert 1 <= len(leavers) < len(asked) / 2
    assert {u for u, one in asked.items() if one == 1.0} == leavers


def test_where_nothing_is_sold_churn_is_an_empty_window(shop: Simulated) -> None:
    histories = read(shop)
    cut = middle(histories)
    found = labels(histories, cut, "churn")
    ahead = histories.since(to_micros(cut)).before(to_micros(cut) + WINDOW_US)
    there = {u for u, n in zip(ahead.user_ids, ahead.lengths, strict=True) if n}
    assert {u for u, one in found.items() if one == 0.0} == there & set(found)
    assert 0 < sum(found.values()) < len(found)
