"""Every registered reader gives the same canonical rows, and refuses what it cannot read."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from pipelines.company import SourceConfig, load_company
from pipelines.errors import CompanyConfigError, SourceError, UnknownNameError, UserError
from pipelines.flow.artefacts import JAR_SETS
from pipelines.sources.complete_journey import source as complete_journey
from pipelines.sources.json_rows import json_rows
from pipelines.sources.kafka import kafka_options
from pipelines.sources.registry import READERS, needed_jars, read_source, source_fingerprint
from pipelines.sources.request import MALFORMED_ROW, SourceRequest
from pipelines.stages.canonical import canonical_rows
from tests.tiny_company import events_table, order, orders, write_company, write_rows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.integration

ROWS = [
    *orders(5),
    order(5, store='Grüße, "quoted"\nsecond line', item=None),
    order(6, store="日本", basket=None),
]


def _write_delta(path: Path) -> None:
    names = list(ROWS[0])
    table = pa.table({name: [row[name] for row in ROWS] for name in names})
    write_deltalake(str(path), table)


def _write_latin_csv(path: Path) -> None:
    write_rows(path, [row for row in ROWS if row["store"] != "日本"])
    text = path.read_text(encoding="utf-8").replace(",", ";").replace("Grüße;", "Grüße,")
    path.write_bytes(text.encode("latin-1"))


def _write(path: Path) -> None:
    write_rows(path, ROWS)


FORMATS: dict[str, tuple[str, dict[str, Any], Callable[[Path], None]]] = {
    "parquet": ("orders.parquet", {}, _write),
    "csv": ("orders.csv", {}, _write),
    "jsonl": ("orders.jsonl", {}, _write),
    "delta": ("orders", {}, _write_delta),
}


# Formats whose rows are behind a server, with the options they cannot do without;
# tests/integration/test_servers.py reads from real ones.
SERVERS = {
    "jdbc": {"url": "jdbc:postgresql://127.0.0.1:1/shop", "table": "orders"},
    "kafka": {"servers": "127.0.0.1:1", "topic": "orders"},
}


def request_to(format_: str, options: dict[str, Any]) -> SourceRequest:
    source = SourceConfig(format=format_, options=options)
    return SourceRequest(table="orders", source=source, company_path=Path("company.yaml"))


def request_of(path: Path) -> SourceRequest:
    return SourceRequest.of(load_company(path).tables[0], path)


def canonical(spark: SparkSession, path: Path) -> DataFrame:
    company = load_company(path)
    raw = read_source(spark, request_of(path))
    return canonical_rows(raw, company.tables[0], company.contract("events"), path)


def described(
    folder: Path, format_: str, file: str, options: dict[str, Any] | None = None, **changes: Any
) -> Path:
    source = {"format": format_, "path": file, "options": options or {}}
    return write_company(folder, events_table(source=source, **changes), files={})


def test_every_reader_but_the_example_is_tested_here() -> None:
    assert set(FORMATS) == set(READERS) - {"complete_journey", "whitespace", *SERVERS}


def test_every_set_of_jars_that_a_reader_needs_is_known() -> None:
    needed = {
        name
        for format_, options in SERVERS.items()
        for name in needed_jars([request_to(format_, options)])
    }
    assert needed == set(JAR_SETS) - {"delta"}


GUARDED = {
    "security": "sasl_ssl",
    "mechanism": "SCRAM-SHA-512",
    "user": 'sh"op',
    "password_variable": "BROKER_PASSWORD",
}


def test_a_guarded_topic_is_asked_for_with_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "back\\slash")
    assert "kafka.security.protocol" not in kafka_options(request_to("kafka", SERVERS["kafka"]))
    options = kafka_options(request_to("kafka", {**SERVERS["kafka"], **GUARDED}))
    assert options["kafka.security.protocol"] == "SASL_SSL"
    assert options["kafka.sasl.mechanism"] == "SCRAM-SHA-512"
    assert options["kafka.sasl.jaas.config"] == (
        "org.apache.kafka.common.security.scram.ScramLoginModule required "
        'username="sh\\"op" password="back\\\\slash";'
    )
    assert "kafka.ssl.truststore.location" not in options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"security": "tls"}, "options.security: 'tls' came; allowed are plaintext, ssl, "),
        ({"mechanism": "GSSAPI"}, "options.mechanism: 'GSSAPI' came; allowed are PLAIN, "),
        ({"user": ""}, "options.user is missing"),
        ({"password_variable": ""}, "options.password_variable is missing"),
        ({"password_variable": "NOT_SET"}, "environment variable 'NOT_SET' is not set"),
        ({"certificates": "gone.pem"}, "options.certificates: no file .*gone.pem"),
        ({"security": "plaintext"}, "options.mechanism: 'security' is plaintext, which makes no"),
        (
            {"security": "sasl_plaintext", "certificates": "ca.pem"},
            "options.certificates: 'security' is sasl_plaintext",
        ),
    ],
)
def test_an_incomplete_login_is_named_with_its_key(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], message: str
) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "sesame")
    request = request_to("kafka", {**SERVERS["kafka"], **GUARDED, **change})
    with pytest.raises(UserError, match=message):
        kafka_options(request)


@pytest.mark.parametrize("format_", sorted(SERVERS))
def test_a_table_behind_a_server_always_looks_new(format_: str) -> None:
    request = request_to(format_, SERVERS[format_])
    assert source_fingerprint(request) != source_fingerprint(request)


@pytest.mark.parametrize(
    ("format_", "option"),
    [(format_, option) for format_, options in SERVERS.items() for option in options],
)
def test_a_missing_option_of_a_server_is_named(
    spark: SparkSession, format_: str, option: str
) -> None:
    options = {name: value for name, value in SERVERS[format_].items() if name != option}
    with pytest.raises(CompanyConfigError, match=rf"tables\.orders\.source\.options.*{option}"):
        read_source(spark, request_to(format_, options))


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_all_formats_give_the_same_rows(spark: SparkSession, tmp_path: Path, format_: str) -> None:
    file, options, write = FORMATS[format_]
    path = described(tmp_path, format_, file, options)
    write(tmp_path / file)
    found = canonical(spark, path).drop("raw_row").orderBy("event_id").toArrow().to_pylist()
    write_rows(tmp_path / "expected.parquet", ROWS)
    expected = canonical(spark, described(tmp_path, "parquet", "expected.parquet"))
    assert found == expected.drop("raw_row").orderBy("event_id").toArrow().to_pylist()
    assert {row["rule"] for row in found} == {None}


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_a_fingerprint_changes_with_the_files(tmp_path: Path, format_: str) -> None:
    file, options, write = FORMATS[format_]
    path = described(tmp_path, format_, file, options)
    write(tmp_path / file)
    before = source_fingerprint(request_of(path))
    assert before == source_fingerprint(request_of(path))
    if format_ == "delta":
        write_deltalake(
            str(tmp_path / file), pa.table({"id": ["o9"]}), schema_mode="merge", mode="append"
        )
    else:
        write_rows(tmp_path / file, ROWS[:2])
    assert source_fingerprint(request_of(path)) != before


@pytest.mark.parametrize("format_", sorted(FORMATS))
def test_a_missing_file_is_named(spark: SparkSession, tmp_path: Path, format_: str) -> None:
    path = described(tmp_path, format_, "gone")
    with pytest.raises(SourceError, match=r"company\.yaml: tables\.orders\.source\.path: nothing"):
        read_source(spark, request_of(path))


@pytest.mark.parametrize(
    ("format_", "content", "message"),
    [
        ("parquet", "a,b\n1,2\n", r"orders\.txt is not a Parquet file"),
        ("parquet", "", r"no files in .*orders\.txt"),
        ("csv", "", r"orders\.txt is empty\. Give a file with a header line"),
        ("jsonl", "not json\n", r"orders\.txt holds no JSON objects"),
        ("jsonl", "", r"orders\.txt holds no JSON objects"),
        ("whitespace", " \n", r"orders\.txt is empty\. Give a file with lines"),
        ("delta", "x", r"orders\.txt cannot be read as delta"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    spark: SparkSession, tmp_path: Path, format_: str, content: str, message: str
) -> None:
    path = described(tmp_path, format_, "orders.txt")
    (tmp_path / "orders.txt").write_text(content)
    with pytest.raises(SourceError, match=message):
        read_source(spark, request_of(path))


COLUMNS = {"user_id": "customer", "event_time": "time", "event_type": "kind", "event_id": "id"}


def write_one(path: Path, number: int, **changes: Any) -> None:
    """One row in a file of its own."""
    row = {"id": f"{number}", "customer": f"u{number}", "time": "2024-01-01", "kind": "buy"}
    row |= changes
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
        return
    if path.suffix == ".jsonl":
        text = json.dumps(row, ensure_ascii=False)
    else:
        between = "," if path.suffix == ".csv" else " "
        text = f"{between.join(row)}\n{between.join(row.values())}"
    path.write_text(f"{text}\n", encoding="utf-8")


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet", "whitespace"])
def test_files_in_subfolders_are_read(spark: SparkSession, tmp_path: Path, format_: str) -> None:
    path = described(tmp_path, format_, "orders", columns=COLUMNS, fields={})
    for number, file in enumerate(("a", "day1/b", "day2/deep/c", "_old/d", ".trash/e")):
        write_one(tmp_path / "orders" / f"{file}.{format_}", number)
    rows = canonical(spark, path).orderBy("event_id").toArrow().to_pylist()
    assert [(row["event_id"], row["rule"]) for row in rows] == [
        ("0", None),
        ("1", None),
        ("2", None),
    ]
    assert len(READERS[format_].stamp(request_of(path))) == 3


@pytest.mark.parametrize("format_", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("mixed", [False, True])
def test_partition_folders_are_columns(
    spark: SparkSession, tmp_path: Path, format_: str, mixed: bool
) -> None:
    """Beside other files too, which have no such column."""
    fields = {"store": {"from": "region", "type": "categorical"}}
    path = described(tmp_path, format_, "orders", columns=COLUMNS, fields=fields)
    files = ["region=eu/day=1/a", "region=us/day=2/b", *(["c", "late/d"] if mixed else [])]
    for number, file in enumerate(files):
        write_one(tmp_path / "orders" / f"{file}.{format_}", number)
    rows = canonical(spark, path).orderBy("event_id").toArrow().to_pylist()
    assert [row["store"] for row in rows] == ["eu", "us", *([None, None] if mixed else [])]


def test_a_parquet_file_may_lack_a_column_that_another_has(
    spark: SparkSession, tmp_path: Path
) -> None:
    fields = {"store": {"type": "categorical"}}
    path = described(tmp_path, "parquet", "orders", columns=COLUMNS, fields=fields)
    write_one(tmp_path / "orders" / "day1.parquet", 1)
    write_one(tmp_path / "orders" / "day2.parquet", 2, store="north")
    rows = canonical(spark, path).orderBy("event_id").toArrow().to_pylist()
    assert [row["store"] for row in rows] == [None, "north"]
    lacking = {"id": ["3"], "time": ["2024-01-01"], "kind": ["buy"]}
    pq.write_table(pa.table(lacking), tmp_path / "orders" / "day3.parquet")
    with pytest.raises(SourceError, match=r"day3\.parquet: no column 'customer', which"):
        canonical(spark, path)


def test_parquet_columns_whose_type_changes_become_text(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = described(tmp_path, "parquet", "orders", columns=COLUMNS, fields={})
    moment = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    for number, customer in enumerate(["7", 7, 7.0, None, Decimal("7.00")]):
        time = moment if number else "2024-01-01T10:00:00Z"
        file = tmp_path / "orders" / f"day{number}.parquet"
        write_one(file, number, customer=customer, time=time)
    rows = canonical(spark, path).orderBy("event_id").toArrow().to_pylist()
    assert [row["user_id"] for row in rows] == ["7", "7", "7", None, "7"]
    assert {row["event_time"] for row in rows} == {datetime(2024, 1, 1, 10, tzinfo=UTC)}
    write_one(tmp_path / "orders" / "nested.parquet", 6, customer=["7"])
    with pytest.raises(SourceError, match=r"'customer' is array<.*nested\.parquet, and .*bigint"):
        canonical(spark, path)


def test_a_file_beside_parquet_files_that_is_none_is_named(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = described(tmp_path, "parquet", "orders", columns=COLUMNS, fields={})
    write_one(tmp_path / "orders" / "day1.parquet", 1)
    (tmp_path / "orders" / "notes.txt").write_text("of the day")
    with pytest.raises(SourceError, match=r"notes\.txt is not a Parquet file"):
        canonical(spark, path)


def test_unknown_names_come_with_the_list(spark: SparkSession, tmp_path: Path) -> None:
    path = described(tmp_path, "parquett", "orders.parquet")
    with pytest.raises(UnknownNameError, match=r"Known: .*jsonl, .*parquet.*mean 'parquet'\?"):
        read_source(spark, request_of(path))
    path = described(tmp_path, "csv", "orders.csv", {"delimeter": ";"})
    with pytest.raises(UnknownNameError, match=r"Did you mean 'delimiter'\?"):
        read_source(spark, request_of(path))


def test_csv_as_a_german_spreadsheet_writes_it(spark: SparkSession, tmp_path: Path) -> None:
    path = described(tmp_path, "csv", "orders.csv", {"encoding": "windows-1252"})
    write_rows(tmp_path / "orders.csv", [order(0, store="Müller 5 €")])
    file = tmp_path / "orders.csv"
    file.write_bytes(file.read_text(encoding="utf-8").encode("windows-1252"))
    assert [row["store"] for row in canonical(spark, path).collect()] == ["Müller 5 €"]


def test_csv_columns_of_one_name_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    path = described(tmp_path, "csv", "orders.csv")
    write_rows(tmp_path / "orders.csv", orders(2))
    file = tmp_path / "orders.csv"
    sound = file.read_text()
    file.write_text(sound.replace('"pieces"', '"Item"'))
    with pytest.raises(SourceError, match=r"orders\.csv: several columns are called 'item', case"):
        canonical(spark, path)
    header, *rows = sound.splitlines()  # twins that nobody asked for do no harm
    file.write_text("\n".join([f'{header},"note","Note"', *(f"{row},1,2" for row in rows)]))
    assert canonical(spark, path).count() == 2


def test_csv_in_another_encoding_with_another_delimiter(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = described(tmp_path, "csv", "orders.csv", {"encoding": "ISO-8859-1", "delimiter": ";"})
    _write_latin_csv(tmp_path / "orders.csv")
    stores = {row["store"] for row in canonical(spark, path).select("store").collect()}
    assert stores == {"north", "south", 'Grüße, "quoted"\nsecond line'}


@pytest.mark.parametrize("format_", ["csv", "jsonl", "whitespace"])
def test_texts_in_an_encoding_that_was_not_given_are_refused(
    spark: SparkSession, tmp_path: Path, format_: str
) -> None:
    """Read as UTF-8, Müller and Möller would be one customer."""
    path = described(tmp_path, format_, "orders", columns=COLUMNS, fields={})
    for number, customer in enumerate(("Müller", "Möller", "Miller", "日本")):
        file = tmp_path / "orders" / f"{number}.{format_}"
        write_one(file, number, customer=customer)
        if number < 2:
            file.write_bytes(file.read_text(encoding="utf-8").encode("latin-1"))
    rules = {row["event_id"]: row["rule"] for row in canonical(spark, path).collect()}
    refused = "user_id_not_in_encoding"
    assert rules == {"0": refused, "1": refused, "2": None, "3": None}
    if format_ == "csv":
        for number in (2, 3):
            (tmp_path / "orders" / f"{number}.csv").unlink()
        path = described(
            tmp_path, format_, "orders", {"encoding": "ISO-8859-1"}, columns=COLUMNS, fields={}
        )
        found = canonical(spark, path).collect()
        assert {(row["user_id"], row["rule"]) for row in found} == {
            ("Müller", None),
            ("Möller", None),
        }


def test_csv_without_a_header_and_with_a_byte_order_mark(
    spark: SparkSession, tmp_path: Path
) -> None:
    columns = {"user_id": "_c0", "event_time": "_c1", "event_type": {"constant": "purchase"}}
    options = {"header": False}
    path = described(tmp_path, "csv", "orders.csv", options, columns=columns, fields={})
    (tmp_path / "orders.csv").write_bytes("\ufeffu1,2024-01-01\nu2,2024-01-02\n".encode())
    rows = canonical(spark, path).orderBy("user_id").toArrow().to_pylist()
    assert [row["user_id"] for row in rows] == ["u1", "u2"]
    assert {row["rule"] for row in rows} == {None}


@pytest.mark.parametrize(
    ("format_", "content", "num_sound"),
    [
        ("csv", "id,customer,time,kind\n1,u1,2024-01-01,buy\n2,u2,2024-01-01,buy,extra\n3,u3\n", 1),
        ("whitespace", " id customer  time  kind\n\n 1 u1 2024-01-01  buy\r\n 2 u2  buy\n", 1),
        (
            "jsonl",
            '{"id":"1","customer":"u1","time":"2024-01-01","kind":"buy"}\n{"id":"2","cust\n',
            1,
        ),
    ],
)
def test_rows_that_cannot_be_taken_apart_are_kept_for_quarantine(
    spark: SparkSession, tmp_path: Path, format_: str, content: str, num_sound: int
) -> None:
    columns = {"user_id": "customer", "event_time": "time", "event_type": "kind", "event_id": "id"}
    path = described(tmp_path, format_, "orders.txt", columns=columns, fields={})
    (tmp_path / "orders.txt").write_text(content)
    rows = canonical(spark, path).toArrow().to_pylist()
    assert [row["rule"] for row in rows].count(None) == num_sound
    assert {row["rule"] for row in rows} == {None, "malformed_row"}


def test_json_texts_of_every_kind(spark: SparkSession) -> None:
    sound = ['{"id": 1, "tags": ["a"], "v.1": "x"}', ' {"id": 2} ', '{"id": 3, "id": 4}']
    broken = ["nope", "42", "null", "[1]", '{"id": "ce', "", None]
    texts = [(text, index) for index, text in enumerate([*sound, *broken])]
    values = spark.createDataFrame(texts, "value string, place int")
    rows = json_rows(values, request_to("kafka", {}), ["id", "gone"]).orderBy("place").collect()
    assert [row["id"] for row in rows[:3]] == ["1", "2", "4"]
    assert [(row["v.1"], row["gone"]) for row in rows[:2]] == [("x", None), (None, None)]
    assert [row[MALFORMED_ROW] for row in rows] == [None] * 3 + [text or "" for text in broken]


def test_json_texts_without_an_object(spark: SparkSession) -> None:
    values = spark.createDataFrame([("nope",)], "value string")
    request = request_to("kafka", {})
    row = json_rows(values, request, expected=["id"]).first()
    assert row is not None
    assert row.asDict() == {"id": None, MALFORMED_ROW: "nope"}
    with pytest.raises(SourceError, match=r"tables\.orders: source 'kafka' holds no JSON objects"):
        json_rows(values, request)


def test_json_keys_that_differ_in_case_alone_are_refused(spark: SparkSession) -> None:
    values = spark.createDataFrame([('{"Id": 1}',), ('{"id": 1}',)], "value string")
    with pytest.raises(SourceError, match=r"differ in case alone: Id, id\. Write a key in one way"):
        json_rows(values, request_to("kafka", {}))


def test_columns_apart_by_blanks(spark: SparkSession, tmp_path: Path) -> None:
    columns = {"user_id": "_c0", "event_time": "_c2", "event_type": "_c1"}
    path = described(
        tmp_path, "whitespace", "log.txt", {"header": False}, columns=columns, fields={}
    )
    (tmp_path / "log.txt").write_text("\n 00001\tbuy   2024-01-01\n\n02  buy 2024-01-02 \n")
    rows = canonical(spark, path).orderBy("user_id").toArrow().to_pylist()
    assert [(row["user_id"], row["event_time"].day, row["rule"]) for row in rows] == [
        ("00001", 1, None),
        ("02", 2, None),
    ]
    before = source_fingerprint(request_of(path))
    (tmp_path / "log.txt").write_text("1 buy 2024-01-01")
    assert source_fingerprint(request_of(path)) != before


class TestCompleteJourney:
    """The built-in example on a folder of a few rows."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        purchases = {"product_id": [1, 1, 2], "store_id": [7, 7, 7], "week": [1, 2, 1]}
        pq.write_table(
            pa.table({**purchases, "household_id": [1, 1, 2]}), tmp_path / "transactions.parquet"
        )
        placed = {
            "product_id": [1, 1, 9],
            "store_id": [7, 7, 7],
            "week": [1, 1, 1],
            "display_location": ["0", "A", "5"],
            "mailer_location": ["D", "0", "A"],
        }
        pq.write_table(pa.table(placed), tmp_path / "promotions.parquet")
        return tmp_path

    def request(self, folder: Path, table: str) -> SourceRequest:
        source = {"format": "complete_journey", "options": {"table": table, "path": str(folder)}}
        return request_of(write_company(folder, events_table(source=source), files={}))

    def test_placements_join_once_per_product_store_and_week(
        self, spark: SparkSession, folder: Path
    ) -> None:
        rows = read_source(spark, self.request(folder, "purchases")).orderBy("product_id", "week")
        placed = [(row["display_location"], row["mailer_location"]) for row in rows.collect()]
        assert placed == [("A", "0"), ("0", "0"), ("0", "0")]

    def test_an_unknown_table_and_a_missing_file_are_named(
        self, spark: SparkSession, folder: Path
    ) -> None:
        with pytest.raises(UnknownNameError, match=r"'purchase'\. Known: campaigns, purchases"):
            read_source(spark, self.request(folder, "purchase"))
        (folder / "promotions.parquet").unlink()
        with pytest.raises(SourceError, match=r"nothing at .*promotions\.parquet"):
            source_fingerprint(self.request(folder, "purchases"))

    def test_the_installed_package_is_the_default(self) -> None:
        path = complete_journey.COMPANY_PATH
        requests = [SourceRequest.of(table, path) for table in load_company(path).tables]
        files = {Path(str(row[0])).name for one in requests for row in source_fingerprint(one)}
        assert {"transactions.parquet", "promotions.parquet", "demographics.parquet"} <= files


def test_a_missing_path_names_its_key(spark: SparkSession, tmp_path: Path) -> None:
    table = events_table(source={"format": "csv"})
    path = write_company(tmp_path, table, files={})
    with pytest.raises(UserError, match=r"tables\.orders\.source\.path is missing"):
        read_source(spark, request_of(path))


def test_a_folder_of_files_is_one_table(spark: SparkSession, tmp_path: Path) -> None:
    write_rows(tmp_path / "orders" / "a.parquet", ROWS[:3])
    write_rows(tmp_path / "orders" / "b.parquet", ROWS[3:])
    shutil.copy(tmp_path / "orders" / "a.parquet", tmp_path / "orders" / "_ignored.parquet")
    path = described(tmp_path, "parquet", "orders")
    assert canonical(spark, path).count() == len(ROWS)


JANUARY = "customer,sku,time\nu1,i1,2024-01-01\n"
FEBRUARY = "sku,customer,time,store\ni2,u2,2024-02-01,north\n"


def _months(folder: Path, options: dict[str, Any] | None = None, **texts: str) -> Path:
    """A folder of CSV files, described with the columns of their orders."""
    (folder / "orders").mkdir(parents=True)
    for name, text in texts.items():
        (folder / "orders" / f"{name}.csv").write_text(text)
    columns = {
        "user_id": "customer",
        "event_time": "time",
        "event_type": {"constant": "buy"},
        "item_id": "sku",
    }
    fields = {"store": {"type": "categorical"}}
    return described(folder, "csv", "orders", options, columns=columns, fields=fields)


def test_csv_files_of_a_folder_are_read_by_their_own_header_lines(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = _months(
        tmp_path,
        january=JANUARY,
        february=FEBRUARY,
        march="customer,sku,time\nu3,i3,2024-03-01\nu4,i4\n",
        april="",
    )
    with gzip.open(tmp_path / "orders" / "may.csv.gz", "wt") as file:
        file.write("time,sku,customer\n2024-05-01,i5,u5\n")
    rows = canonical(spark, path).orderBy("user_id").toArrow().to_pylist()
    assert [(row["user_id"], row["item_id"], row["store"]) for row in rows if not row["rule"]] == [
        ("u1", "i1", None),
        ("u2", "i2", "north"),
        ("u3", "i3", None),
        ("u5", "i5", None),
    ]
    assert [row["rule"] for row in rows].count("malformed_row") == 1


def test_a_csv_file_without_a_needed_column_is_named(spark: SparkSession, tmp_path: Path) -> None:
    path = _months(
        tmp_path,
        january=JANUARY,
        february="article,customer,time\ni2,u2,2024-02-01\n",
    )
    needed = r"february\.csv: no column 'sku', which .*It has: article, customer, time\."
    with pytest.raises(SourceError, match=needed):
        canonical(spark, path)


def test_csv_files_in_a_folder_with_a_space_in_its_name(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = _months(tmp_path / "the shop's 100% export", january=JANUARY, february=FEBRUARY)
    rows = canonical(spark, path).orderBy("user_id").toArrow().to_pylist()
    assert [(row["user_id"], row["store"]) for row in rows] == [("u1", None), ("u2", "north")]


@pytest.mark.parametrize(("multiline", "empty"), [(True, "\n\n"), (False, " \n")])
def test_csv_files_that_begin_with_an_empty_line_are_read_by_their_header_lines(
    spark: SparkSession, tmp_path: Path, multiline: bool, empty: str
) -> None:
    options = {"multiline": multiline}
    path = _months(tmp_path, options, january=empty + JANUARY, february=empty + FEBRUARY)
    rows = canonical(spark, path).orderBy("user_id").toArrow().to_pylist()
    assert [(row["item_id"], row["store"], row["rule"]) for row in rows] == [
        ("i1", None, None),
        ("i2", "north", None),
    ]


@pytest.mark.parametrize("others", [{}, {"january": JANUARY}], ids=["alone", "beside another"])
def test_a_csv_file_that_is_not_packed_as_its_name_says_is_refused(
    spark: SparkSession, tmp_path: Path, others: dict[str, str]
) -> None:
    path = _months(tmp_path, **others)
    (tmp_path / "orders" / "may.csv.gz").write_text(JANUARY)
    with pytest.raises(SourceError, match=rf"{tmp_path}/orders cannot be read as csv"):
        canonical(spark, path)


def test_json_lines_that_are_not_packed_as_their_name_says_are_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = described(tmp_path, "jsonl", "orders.jsonl.gz")
    write_rows(tmp_path / "orders.jsonl", ROWS)
    (tmp_path / "orders.jsonl").rename(tmp_path / "orders.jsonl.gz")
    with pytest.raises(SourceError, match=r"orders\.jsonl\.gz cannot be read as jsonl"):
        read_source(spark, request_of(path))
