"""Raw values to canonical ones, on Spark, without the lake."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.company import load_company
from pipelines.errors import CompanyConfigError, SourceError, UserError
from pipelines.sources.registry import read_lookups, read_source
from pipelines.sources.request import SourceRequest
from pipelines.stages.canonical import canonical_rows
from tests.tiny_company import events_table, order, write_company

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration


def read_rows(spark: SparkSession, path: Path) -> list[dict[str, Any]]:
    company = load_company(path)
    table = company.tables[0]
    raw = read_source(spark, SourceRequest.of(table, path))
    lookups = read_lookups(spark, company, path)
    frame = canonical_rows(raw, table, company.contract(table.into), path, lookups)
    return frame.orderBy("event_id").toArrow().to_pylist()


def canonical(
    spark: SparkSession, folder: Path, rows: list[dict[str, Any]], **changes: Any
) -> list[dict[str, Any]]:
    table = events_table(**changes)
    return read_rows(spark, write_company(folder, table, files={table["source"]["path"]: rows}))


BERLIN = {"time_zone": "Europe/Berlin"}


@pytest.mark.parametrize(
    ("changes", "cases"),
    [
        (
            {"time_zone": "Asia/Tokyo"},
            {
                "2024-03-31T01:30:00Z": "2024-03-31T01:30:00",
                "2024-07-01T12:00:00+02:00": "2024-07-01T10:00:00",
                "2024-07-01T12:00:00+02": "2024-07-01T10:00:00",
                "2024-07-01 12:00:00.5 -0730": "2024-07-01T19:30:00.500000",
                " 2024-07-01T09:00:00 ": "2024-07-01T00:00:00",
            },
        ),
        (
            BERLIN,
            {
                "2024-07-01 12:00": "2024-07-01T10:00:00",
                "2024-01-01 12:00": "2024-01-01T11:00:00",
                "2024-07-01T12:00:00,123456789": "2024-07-01T10:00:00.123456",
                "2024-07-01": "2024-06-30T22:00:00",
                # Skipped by the change of clocks: moves forward by it.
                "2024-03-31 02:30:00": "2024-03-31T01:30:00",
                # Occurs twice: the earlier instant.
                "2024-10-27 02:30:00": "2024-10-27T00:30:00",
                "2024-10-27 02:30:00+01:00": "2024-10-27T01:30:00",
            },
        ),
        ({"time_unit": "s"}, {1_704_067_200: "2024-01-01T00:00:00", -1: "1969-12-31T23:59:59"}),
        ({"time_unit": "s"}, {1_704_067_200.25: "2024-01-01T00:00:00.250000"}),
        ({"time_unit": "s"}, {"1704067200.25": "2024-01-01T00:00:00.250000"}),
        ({"time_unit": "ms"}, {1_704_067_200_123: "2024-01-01T00:00:00.123000"}),
        ({"time_unit": "us"}, {1_704_067_200_123_456: "2024-01-01T00:00:00.123456"}),
        (
            {"time_unit": "ns"},
            {
                1_704_067_200_123_456_789: "2024-01-01T00:00:00.123456",
                -1: "1969-12-31T23:59:59.999999",
            },
        ),
    ],
)
def test_times_become_utc(
    spark: SparkSession, tmp_path: Path, changes: dict[str, Any], cases: dict[Any, str]
) -> None:
    rows = [order(0, id=f"o{i}", time=value) for i, value in enumerate(cases)]
    found = [row["event_time"] for row in canonical(spark, tmp_path, rows, **changes)]
    assert found == [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in cases.values()]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "int96"])
@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_parquet_times_of_every_unit_keep_their_scale(
    spark: SparkSession, tmp_path: Path, unit: str, zone: str | None
) -> None:
    if unit == "int96" and zone:
        pytest.skip("INT96 holds no zone")
    path = write_company(tmp_path, events_table(**BERLIN), files={"orders.parquet": [order(1)]})
    table = pq.read_table(path.with_name("orders.parquet"))
    wall_clock = datetime(2024, 7, 1, 12, tzinfo=UTC)
    arrow_unit = "ns" if unit == "int96" else unit
    times = pa.array([wall_clock], type=pa.timestamp(arrow_unit, tz=zone))
    table = table.set_column(table.column_names.index("time"), "time", times)
    pq.write_table(
        table, path.with_name("orders.parquet"), use_deprecated_int96_timestamps=unit == "int96"
    )
    expected = wall_clock if zone else wall_clock.replace(hour=10)
    assert read_rows(spark, path)[0]["event_time"] == expected


def test_dates_begin_at_midnight_of_the_zone(spark: SparkSession, tmp_path: Path) -> None:
    day = datetime(2024, 7, 1).date()
    row = canonical(spark, tmp_path, [order(1, time=day)], **BERLIN)[0]
    assert row["event_time"] == datetime(2024, 6, 30, 22, tzinfo=UTC)


def test_unreadable_times_name_their_rule(spark: SparkSession, tmp_path: Path) -> None:
    values = ["yesterday", "2024-13-01", "12:30", "2024", "2024-01-01T25:00", "+1", ""]
    rows = [order(0, id=f"o{i}", time=value) for i, value in enumerate(values)]
    found = canonical(spark, tmp_path, rows)
    assert [row["rule"] for row in found] == ["event_time_not_a_time"] * 6 + [None]
    assert {row["event_time"] for row in found} == {None}


def test_whole_numbers_that_pandas_made_floats_lose_their_decimals(
    spark: SparkSession, tmp_path: Path
) -> None:
    items = [7.0, None, 1.5, float("nan"), 12_345_678_901_234.0]
    rows = [order(0, id=f"o{i}", item=item) for i, item in enumerate(items)]
    found = canonical(spark, tmp_path, rows)
    assert [row["item_id"] for row in found] == ["7", None, "1.5", None, "12345678901234"]


def test_blanks_around_a_value_are_no_part_of_it(spark: SparkSession, tmp_path: Path) -> None:
    """As line ends of another system leave them, and columns of a fixed width."""
    kinds = ["purchase\r", "  purchase", "purchase \t", " gift card "]
    rows = [order(0, id=f"o{i}", kind=kind, store=" \r") for i, kind in enumerate(kinds)]
    found = canonical(spark, tmp_path, rows)
    assert [row["event_type"] for row in found] == ["purchase"] * 3 + ["gift card"]
    assert {row["store"] for row in found} == {None}


def test_numbers_as_text(spark: SparkSession, tmp_path: Path) -> None:
    values = [" 1.50 ", "1e3", "", "abc", "1,5", "Infinity", "NaN"]
    rows = [order(0, id=f"o{i}", paid=value) for i, value in enumerate(values)]
    found = canonical(spark, tmp_path, rows)
    assert [row["amount"] for row in found[:5]] == [1.5, 1000.0, None, None, None]
    rules = [row["rule"] for row in found]
    assert rules[:3] == [None, None, None]
    assert rules[3:6] == ["amount_not_a_number"] * 3


def test_numbers_with_a_decimal_comma(spark: SparkSession, tmp_path: Path) -> None:
    values = ["1,5", "-1.234.567,25", "1 234,5", "1'234", "12", "12.5", "1.23,4", "1,2,3", "1.234"]
    rows = [order(0, id=f"o{i}", paid=value) for i, value in enumerate(values)]
    columns = {**events_table()["columns"], "quantity": {"product": ["paid", {"constant": 2}]}}
    found = canonical(spark, tmp_path, rows, columns=columns, decimal_mark=",")
    amounts = [1.5, -1_234_567.25, 1_234.5, 1_234.0, 12.0, None, None, None, 1_234.0]
    assert [row["amount"] for row in found] == amounts
    assert [row["quantity"] for row in found] == [x and 2 * x for x in amounts]
    broken = [i for i, row in enumerate(found) if row["rule"]]
    assert broken == [5, 6, 7]


def test_a_quote_that_is_not_closed_hides_no_rows(spark: SparkSession, tmp_path: Path) -> None:
    table = events_table(source={"format": "csv", "path": "orders.csv"})
    path = write_company(
        tmp_path, table, files={"orders.csv": [order(i, store="north") for i in range(6)]}
    )
    lines = (tmp_path / "orders.csv").read_text().replace('"', "").splitlines()
    place = lines[0].split(",").index("store")
    told = lines[1].split(",")
    told[place] = '"one\ntwo, three\n""four"""'
    broken = lines[2].split(",")
    broken[place] = '"south'
    content = [lines[0], ",".join(told), ",".join(broken), *lines[3:]]
    (tmp_path / "orders.csv").write_text("\n".join(content) + "\n")
    found = read_rows(spark, path)
    assert [row["rule"] for row in found] == [None, "malformed_row"]
    assert found[0]["store"] == 'one\ntwo, three\n"four"'
    assert all(line.split(",")[0] in found[1]["raw_row"] for line in lines[3:])


def test_expressions(spark: SparkSession, tmp_path: Path) -> None:
    columns = {
        **events_table()["columns"],
        "event_id": {"concat": ["basket", "store", "id"], "separator": "/"},
        "event_type": {"column": "kind", "values": {"buy": "purchase", "pv": "page_view"}},
        "channel": {"constant": "web"},
        "query": {"coalesce": ["store", "basket"]},
    }
    rows = [order(1, kind="buy"), order(2, kind="pv", store=None), order(3, kind="cart")]
    found = canonical(spark, tmp_path, rows, columns=columns)
    assert [row["event_id"] for row in found] == ["b0/south/o1", "b1/o2", "b1/south/o3"]
    assert [row["event_type"] for row in found] == ["purchase", "page_view", "cart"]
    assert [row["query"] for row in found] == ["south", "b1", "south"]
    assert {row["channel"] for row in found} == {"web"}


def test_columns_with_dots_and_spaces_are_read_by_their_exact_names(
    spark: SparkSession, tmp_path: Path
) -> None:
    columns = {**events_table()["columns"], "amount": "paid (EUR, v1.2)"}
    row = canonical(spark, tmp_path, [{**order(1), "paid (EUR, v1.2)": 3.5}], columns=columns)[0]
    assert row["amount"] == 3.5
    assert '"paid (EUR, v1.2)":3.5' in row["raw_row"]


def test_times_in_a_format_of_their_own(spark: SparkSession, tmp_path: Path) -> None:
    parse = {"column": {"concat": ["day", "clock"]}, "format": "dd.MM.yyyy HH:mm"}
    shop_time = {**parse, "time_zone": "Europe/Berlin"}
    zoned = {"parse": {"column": "stamp", "format": "yyyyMMdd'T'HHmmssxx"}}
    columns = {**events_table()["columns"], "event_time": {"parse": shop_time}}
    fields = {"sent": {"type": "timestamp", "from": zoned}}
    rows = [
        order(1, day="01.07.2024", clock="12:00 ", stamp="20240701T120000+0200"),
        order(2, day="31.03.2024", clock="02:30", stamp=None),  # skipped by the change of clocks
        order(3, day="2024-07-01", clock="12:00", stamp=None),
        order(4, day="32.07.2024", clock="12:00", stamp=None),
        order(5, day="01.07.2024", clock="12:00", stamp="20240701T120000"),
        order(6, day=None, clock=None, stamp=None),
    ]
    found = canonical(spark, tmp_path, rows, columns=columns, fields=fields, time_zone=None)
    noon = datetime(2024, 7, 1, 10, tzinfo=UTC)
    skipped = datetime(2024, 3, 31, 1, 30, tzinfo=UTC)
    assert [row["event_time"] for row in found] == [noon, skipped, None, None, noon, None]
    assert [row["sent"] for row in found] == [noon, *[None] * 5]
    rules = ["event_time_not_a_time"] * 2 + ["sent_not_a_time"]
    assert [row["rule"] for row in found] == [None, None, *rules, None]


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        ({"format": "dd.MM.YYYY"}, r"columns\.event_time: 'dd\.MM\.YYYY' is not a datetime patt"),
        ({"format": "dd.MM.yyyy"}, r"tables\.orders\.time_zone is missing, and 'event_time'"),
    ],
)
def test_a_wrong_format_names_its_key(
    spark: SparkSession, tmp_path: Path, parse: dict[str, str], message: str
) -> None:
    columns = {**events_table()["columns"], "event_time": {"parse": {"column": "time", **parse}}}
    with pytest.raises(CompanyConfigError, match=message):
        canonical(spark, tmp_path, [order(1)], columns=columns, time_zone=None)


STORES = [
    {"no": 1, "city": "Berlin", "money": "EUR"},
    {"no": 2, "city": "Zürich", "money": "CHF"},
    {"no": 3, "city": None, "money": "XXX"},
]
RATES = [{"code": "EUR", "rate": "1"}, {"code": "CHF", "rate": "1.05"}, {"code": None, "rate": "9"}]


def looking_up(
    spark: SparkSession, folder: Path, columns: dict[str, Any], stores: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    files = {"stores.csv": stores, "rates.parquet": RATES}
    lookups = [
        {"name": "stores", "source": {"format": "csv", "path": "stores.csv"}},
        {"name": "rates", "source": {"format": "parquet", "path": "rates.parquet"}},
    ]
    rows = [order(i, shop=shop, paid=paid) for i, (shop, paid) in enumerate(SALES)]
    table = events_table(columns={**events_table()["columns"], **columns})
    path = write_company(folder, table, files={**files, "orders.parquet": rows}, lookups=lookups)
    return read_rows(spark, path)


SALES = [(1.0, 10.0), (2.0, 10.0), (3.0, 10.0), (4.0, 10.0), (None, None)]
MONEY = {"lookup": {"table": "stores", "key": "shop", "equals": "no", "column": "money"}}
CITY = {
    "lookup": {"table": "stores", "key": "shop", "equals": "no", "column": "city", "default": "?"}
}
RATE = {"lookup": {"table": "rates", "key": MONEY, "equals": "code", "column": "rate"}}


def test_values_of_other_tables(spark: SparkSession, tmp_path: Path) -> None:
    columns = {
        "market": {**MONEY, "values": {"EUR": "euro area"}},
        "channel": CITY,
        "amount": {"product": ["paid", RATE, {"constant": 2}]},
        "quantity": {"column": "shop", "values": {"3": "30"}},
    }
    rows = looking_up(spark, tmp_path, columns, STORES)
    assert [row["market"] for row in rows] == ["euro area", "CHF", "XXX", None, None]
    assert [row["channel"] for row in rows] == ["Berlin", "Zürich", "?", "?", "?"]
    assert [row["amount"] for row in rows] == [20.0, 21.0, None, None, None]
    assert [row["quantity"] for row in rows] == [1.0, 2.0, 30.0, 4.0, None]
    unpriced = "amount_without_factor"
    assert [row["rule"] for row in rows] == [None, None, unpriced, unpriced, None]
    assert set(json.loads(rows[0]["raw_row"])) == {*order(0), "shop"}


@pytest.mark.parametrize(
    ("change", "stores", "message"),
    [
        ({}, [*STORES, STORES[1]], r"lookups\.stores: the key '2' stands more than once"),
        (
            {"equals": "nr"},
            STORES,
            r"lookups\.stores.*columns\.market: the source has no column 'nr'",
        ),
        ({"column": "citty"}, STORES, r"no column 'citty'.*Did you mean 'city'\?"),
        (
            {"key": {"parse": {"column": "kind", "format": "HH:b"}}},
            STORES,
            r"tables\.orders\.columns\.market: 'HH:b' is not a datetime pattern",
        ),
        ({"key": "shopp"}, STORES, r"tables\.orders\.columns\.market: .*Did you mean 'shop'\?"),
    ],
)
def test_a_lookup_that_cannot_be_answered(
    spark: SparkSession,
    tmp_path: Path,
    change: dict[str, str],
    stores: list[dict[str, Any]],
    message: str,
) -> None:
    columns = {"market": {"lookup": {**MONEY["lookup"], **change}}}
    with pytest.raises(UserError, match=message):
        looking_up(spark, tmp_path, columns, stores)


def test_a_lookup_table_with_a_broken_row_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    stores = [{**STORES[0], "city": "Berlin"}]
    looking_up(spark, tmp_path, {"market": MONEY}, stores)
    with (tmp_path / "stores.csv").open("a") as file:
        file.write("2,Zürich,CHF,too many\n")
    with pytest.raises(SourceError, match=r"lookups\.stores: a row cannot be taken apart: 2,Zür"):
        read_rows(spark, tmp_path / "company.yaml")
