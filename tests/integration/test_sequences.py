"""Rooms 3 and 4 on small tables: vocabulary, sequences and labels against hand-made truth."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipelines.company import CompanyConfig, load_company
from pipelines.errors import WorkspaceError
from pipelines.stages.labels import NUM_PREDICTION_TIMES, future_labels
from pipelines.stages.schemas import spark_schema, stored
from pipelines.stages.sequences import encode_sorted, sequence_schema, token_sequences
from pipelines.stages.user_ranges import user_ranges
from pipelines.stages.vocabulary import fit_vocabulary
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import PROBE_TYPE, Vocabulary
from tests.tiny_company import events_table, write_company
from tests.tiny_histories import same

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.integration

CUT = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> CompanyConfig:
    return load_company(write_company(tmp_path_factory.mktemp("raw"), events_table(), files={}))


def frame(spark: SparkSession, company: CompanyConfig, rows: list[dict[str, Any]]) -> DataFrame:
    schema = spark_schema(stored(company.contract("events")))
    return spark.createDataFrame([tuple(row.get(n) for n in schema.names) for row in rows], schema)


def event(number: int, when: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number:03d}",
        "user_id": "ada",
        "event_time": when,
        "event_type": "purchase",
        "item_id": "i1",
        "amount": 2.0,
        "store": "north",
        **changes,
    }


def many(num: int = 200) -> list[dict[str, Any]]:
    """Events of five users with ties in time, missing sessions and shuffled ids."""
    return [
        event(
            (7 * i) % num,
            CUT - timedelta(hours=(5 * i) % 37),
            user_id=f"u{i % 5}",
            item_id=[None, "i1", "i2", "i3", "i1"][i % 5 if i % 7 else 0],
            session_id=None if i % 3 else f"s{i % 4}",
            amount=float(i % 9) or None,
            store=["north", "south", None][i % 3],
            discount=[None, 0.0, 0.5][i % 3],
        )
        for i in range(num)
    ]


def catalogue(spark: SparkSession, **categories: str | None) -> DataFrame:
    return spark.createDataFrame(list(categories.items()), "item_id string, category string")


def fit(
    spark: SparkSession, company: CompanyConfig, rows: list[dict[str, Any]], cut: datetime = CUT
) -> Vocabulary:
    items = catalogue(spark, i1="food", i2="tools", i3=None, i9="art")
    return fit_vocabulary(
        company.name, frame(spark, company, rows), items, company.contract("events"), cut
    )


def test_nothing_at_or_after_the_cut_is_looked_at(
    spark: SparkSession, company: CompanyConfig
) -> None:
    before = [event(i, CUT - i * DAY) for i in range(1, 6)]
    later = [
        event(50, CUT, item_id="new", event_type="search", query="q", store="moon", amount=999.0),
        event(51, CUT + DAY, item_id="new", market="de"),
    ]
    assert fit(spark, company, before) == fit(spark, company, before + later)


def test_the_id_does_not_depend_on_order_or_partitions(
    spark: SparkSession, company: CompanyConfig
) -> None:
    rows = many()
    cut = CUT + DAY
    expected = fit(spark, company, rows, cut).vocabulary_id
    shuffled = frame(spark, company, rows[::-1]).repartition(7)
    items = catalogue(spark, i9="art", i3=None, i2="tools", i1="food").repartition(3)
    again = fit_vocabulary(company.name, shuffled, items, company.contract("events"), cut)
    assert again.vocabulary_id == expected


def test_values_items_and_edges_are_in_order(spark: SparkSession, company: CompanyConfig) -> None:
    rows = [
        event(1, CUT - DAY, store="south", item_id="i2", amount=1.0),
        event(2, CUT - DAY, store="south", item_id="i2", amount=3.0),
        event(3, CUT - DAY, store="north", item_id="sold-once", amount=0.0),
        event(4, CUT - DAY, store="east", item_id=None, event_type="search", query="milk"),
        event(5, CUT - DAY, store="south", item_id=None, event_type=PROBE_TYPE, amount=None),
    ]
    vocabulary = fit(spark, company, rows)
    assert vocabulary.field("store").values == ("south", "east", "north")
    assert vocabulary.field("event_type").values == (PROBE_TYPE, "purchase", "search")
    assert vocabulary.items == ("i2", "sold-once", "i1", "i3", "i9")
    assert vocabulary.item_counts == (2, 1, 0, 0, 0)
    assert vocabulary.categories == ("art", "food", "tools")
    assert vocabulary.item_categories == (2, -1, 1, -1, 0)
    edges = vocabulary.field("amount").edges
    assert edges == tuple(sorted(set(edges)))
    assert min(edges) >= 1.0
    assert max(edges) <= 3.0
    assert [field.name for field in vocabulary.fields] == [
        "event_type",
        "item",
        "quantity",
        "amount",
        "discount",
        "store",
        *(f"query_{slot}" for slot in range(6)),
        "gap",
        "hour",
        "weekday",
        "session_start",
    ]


def test_a_cut_before_all_events_is_refused(spark: SparkSession, company: CompanyConfig) -> None:
    with pytest.raises(WorkspaceError, match=r"No event lies before .* from 2024-02-29T00:00:00"):
        fit(spark, company, [event(1, CUT - DAY)], cut=CUT - 9 * DAY)


def test_spark_and_the_encoder_alone_give_the_same_bits(
    spark: SparkSession, company: CompanyConfig, tmp_path: Path
) -> None:
    rows = many()
    vocabulary = fit(spark, company, rows, CUT + DAY)
    events = frame(spark, company, rows).repartition(5)
    events.write.format("delta").save(str(tmp_path / "events"))
    sequences = token_sequences(spark, user_ranges(tmp_path / "events"), vocabulary)
    assert sequences.schema == sequence_schema(vocabulary)
    by_spark = Histories.from_arrow(sequences.orderBy("user_id").toArrow())
    keys = ["user_id", "event_time", "session_id", "event_id"]
    ordered = events.toArrow().sort_by([(key, "ascending") for key in keys])
    missing_first = sorted(
        range(ordered.num_rows),
        key=lambda i: tuple(
            (value is not None, value) for value in (ordered.column(k)[i].as_py() for k in keys)
        ),
    )
    direct = encode_sorted(ordered.take(missing_first), vocabulary)
    assert same(by_spark, direct)
    assert by_spark.num_events == len(rows)


def labels_of(
    spark: SparkSession, company: CompanyConfig, rows: list[dict[str, Any]]
) -> dict[tuple[str, datetime], dict[str, Any]]:
    events = frame(spark, company, rows)
    items = catalogue(spark, i1="food", i2="tools", i3=None)
    kept = spark.sparkContext._jsc.getPersistentRDDs().size()
    with future_labels(events, items, CUT, 28) as labels:
        table = labels.toArrow()
    assert spark.sparkContext._jsc.getPersistentRDDs().size() == kept
    return {(row["user_id"], row["prediction_time"]): row for row in table.to_pylist()}


def test_labels_keep_a_cut_within_a_second(spark: SparkSession, company: CompanyConfig) -> None:
    cut = CUT + timedelta(microseconds=500_000)
    rows = [event(1, CUT - DAY), event(2, CUT)]
    with future_labels(frame(spark, company, rows), catalogue(spark, i1="food"), cut, 28) as labels:
        found = {row["prediction_time"]: row["num_events"] for row in labels.toArrow().to_pylist()}
    assert max(found) == cut
    assert found[cut] == 0


def test_labels_count_what_happened_in_the_window(
    spark: SparkSession, company: CompanyConfig
) -> None:
    rows = [
        event(1, CUT - DAY),
        event(2, CUT, item_id="i2", amount=1.25),  # the window's first instant
        event(3, CUT + 28 * DAY - timedelta(microseconds=1), item_id="i2", amount=None),
        event(4, CUT + 28 * DAY, item_id="i1"),  # one instant too late
        event(5, CUT + DAY, event_type="search", item_id="i3", amount=50.0, query="milk"),
        event(6, CUT + DAY, item_id="i1", amount=0.5),
        event(7, CUT + DAY, item_id=None, amount=0.25),
        event(8, CUT + DAY, item_id="i3", amount=0.0),
        event(9, CUT + DAY, item_id="uncatalogued", amount=0.0),
    ]
    row = labels_of(spark, company, rows)["ada", CUT]
    assert row["window_days"] == 28
    assert row["num_events"] == 7
    assert row["num_purchases"] == 6
    assert row["amount"] == 2.0
    assert row["item_ids"] == ["i1", "i2", "i3", "uncatalogued"]
    assert row["item_counts"] == [1, 2, 1, 1]
    assert row["categories"] == ["food", "tools"]


def test_users_have_labels_once_they_have_a_past(
    spark: SparkSession, company: CompanyConfig
) -> None:
    rows = [
        event(1, CUT - 500 * DAY, user_id="old"),
        event(2, CUT - 28 * DAY, user_id="young"),  # at a prediction time, so not before it
        event(3, CUT, user_id="future"),
    ]
    labels = labels_of(spark, company, rows)
    times = {time for user, time in labels if user == "old"}
    assert times == {CUT - 28 * k * DAY for k in range(NUM_PREDICTION_TIMES)}
    assert {time for user, time in labels if user == "young"} == {CUT}
    assert "future" not in {user for user, _ in labels}
    quiet = labels["old", CUT]
    assert (quiet["num_events"], quiet["num_purchases"], quiet["amount"]) == (0, 0, 0.0)
    assert quiet["item_ids"] == quiet["item_counts"] == quiet["categories"] == []


def test_labels_need_no_catalogue(spark: SparkSession, company: CompanyConfig) -> None:
    events = frame(spark, company, [event(1, CUT - DAY), event(2, CUT + DAY)])
    with future_labels(events, None, CUT, 28) as labels:
        rows = labels.toArrow().to_pylist()
    assert [(row["item_ids"], row["categories"]) for row in rows] == [(["i1"], [])]
