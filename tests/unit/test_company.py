"""`company.yaml`: what is read, what is refused, and what the messages say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.company import CompanyConfig, load_company, resolve_path
from pipelines.contracts import EVENTS, SemanticType
from pipelines.errors import CompanyConfigError
from tests.tiny_company import catalogue_table, events_table

DESCRIPTIONS = Path(__file__).parents[2] / "docs" / "companies"


def write(folder: Path, *tables: dict[str, Any], **top: Any) -> Path:
    path = folder / "company.yaml"
    path.write_text(yaml.safe_dump({"name": "shop", "tables": list(tables), **top}))
    return path


def load(folder: Path, *tables: dict[str, Any], **top: Any) -> CompanyConfig:
    return load_company(write(folder, *tables, **top))


def jdbc(after: str = "", host: str = "h", **options: Any) -> dict[str, Any]:
    return {"format": "jdbc", "options": {"url": f"jdbc:postgresql://{host}/db{after}", **options}}


PARSE = {"column": "time", "format": "dd.MM.yyyy"}
LOOKUP = {"table": "rates", "key": "currency", "equals": "code", "column": "rate"}


def columns(**changes: Any) -> dict[str, Any]:
    return {**events_table()["columns"], **changes}


@pytest.mark.parametrize(
    ("tables", "top", "message"),
    [
        ([events_table(colour="red")], {}, r"tables\.0\.colour: unknown key"),
        ([events_table()], {"nmae": "x"}, r"nmae: unknown key"),
        ([events_table()], {"name": "My Shop"}, r"name: String should match pattern"),
        ([], {}, r"tables: Value should have at least 1 item"),
        ([catalogue_table()], {}, r"no table goes into 'events'"),
        ([events_table(), events_table()], {}, r"table names \['orders'\] appear twice"),
        ([events_table(into="event")], {}, r"tables\.0\.into: Input should be 'events'"),
        ([events_table(columns=columns(price="paid"))], {}, r"columns \['price'\] are not columns"),
        ([events_table(columns={"user_id": "u"})], {}, r"\['event_time', 'event_type'\] are req"),
        ([events_table(columns=columns(amount={}))], {}, r"give exactly one of: column, constant"),
        (
            [events_table(columns=columns(amount={"column": "a", "constant": 1}))],
            {},
            r"give exactly one of",
        ),
        ([events_table(time_zone="Europe/Berln")], {}, r"'Europe/Berln' .* mean 'Europe/Berlin'\?"),
        ([events_table(time_unit="minutes")], {}, r"time_unit: Input should be 's', 'ms', 'us'"),
        ([events_table(source=jdbc(password="s3cret"))], {}, r"options: 'password' holds a passw"),
        ([events_table(source=jdbc("?user=a&password=s3cret"))], {}, r"'url' holds a password"),
        ([events_table(source=jdbc(host="a:s3cret@h"))], {}, r"'password_variable'"),
        (
            [events_table(columns=columns(amount={"product": []}))],
            {},
            r"product: Value should have at",
        ),
        ([events_table(columns=columns(query={"concat": "ab"}))], {}, r"concat: Input should"),
        (
            [events_table(columns=columns(event_time={"parse": {"column": "t"}}))],
            {},
            r"columns\.event_time\.parse\.format: Field required",
        ),
        (
            [events_table(columns=columns(event_time={"parse": {**PARSE, "time_zone": "Berlin"}}))],
            {},
            r"parse\.time_zone: 'Berlin' is not an IANA time zone",
        ),
        (
            [events_table(columns=columns(amount={"product": ["paid", {"lookup": LOOKUP}]}))],
            {"lookups": [{"name": "stores", "source": {"format": "csv"}}]},
            r"tables\.orders\.columns\.amount: table 'rates' does not stand under 'lookups' "
            r"\(there: \['stores'\]\); add it",
        ),
        (
            [events_table()],
            {"lookups": [{"name": "orders", "source": {"format": "csv"}}]},
            r"table names \['orders'\] appear twice",
        ),
        (
            [events_table(), catalogue_table(negative_quantity="return_event")],
            {},
            r"negative_quantity is for 'events'; take it out of 'catalogue'",
        ),
        ([events_table(max_quarantined_share=1.5)], {}, r"max_quarantined_share: Input should be"),
        ([events_table(fields={"amount": {"type": "number"}})], {}, r"name of a contract column"),
        ([events_table(fields={"gap": {"type": "number"}})], {}, r"name that the platform uses"),
        ([events_table(fields={"x": {"type": "numbr"}})], {}, r"fields\.x\.type: Input should be"),
        (
            [
                events_table(fields={"x": {"type": "number"}}),
                events_table(name="more", fields={"x": {"type": "text"}}),
            ],
            {},
            r"field 'x' has two types in 'events'",
        ),
        (
            [events_table()],
            {"flags": {"staff": {"profile": {"role": "clerk"}}}},
            r"flags\.staff\.profile: \['role'\] are no fields of 'profiles' \(there: \[\]\)",
        ),
    ],
)
def test_a_wrong_description_names_file_and_key(
    tmp_path: Path, tables: list[dict[str, Any]], top: dict[str, Any], message: str
) -> None:
    with pytest.raises(CompanyConfigError, match=message) as caught:
        load(tmp_path, *tables, **top)
    assert str(tmp_path / "company.yaml") in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", r"not valid YAML"),
        (b"\xff\xfe", r"not valid YAML in UTF-8"),
        (b"just text", r"expected keys 'name' and 'tables'"),
        (b"", r"expected keys 'name' and 'tables'"),
    ],
)
def test_a_file_that_is_no_description_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "company.yaml"
    path.write_bytes(content)
    with pytest.raises(CompanyConfigError, match=message):
        load_company(path)


def test_a_missing_file_names_the_built_in_example(tmp_path: Path) -> None:
    with pytest.raises(CompanyConfigError, match="'complete-journey' for the built-in example"):
        load_company(tmp_path / "company.yaml")


def test_the_contract_has_the_extra_fields_in_order_of_name(tmp_path: Path) -> None:
    contract = load(tmp_path, events_table()).contract("events")
    assert contract.column_names == (*EVENTS.column_names, "discount", "store")
    assert [c.semantic for c in contract.columns[-2:]] == [
        SemanticType.NUMBER,
        SemanticType.CATEGORICAL,
    ]


def test_a_field_reads_the_column_of_its_name_unless_told(tmp_path: Path) -> None:
    fields = {"store": {"type": "categorical"}, "till": {"type": "categorical", "from": "till_no"}}
    table = load(tmp_path, events_table(fields=fields)).tables[0]
    assert table.field_expression("store").source_columns == ("store",)
    assert table.field_expression("till").source_columns == ("till_no",)


def test_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    company = tmp_path / "company.yaml"
    assert resolve_path("raw/a.csv", company) == tmp_path / "raw" / "a.csv"
    assert resolve_path("/data/a.csv", company) == Path("/data/a.csv")
    inside = resolve_path("package:pipelines/sources/complete_journey/company.yaml", company)
    assert load_company(inside).name == "complete-journey"


@pytest.mark.parametrize("path", sorted(DESCRIPTIONS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_descriptions_in_the_docs_are_sound(path: Path) -> None:
    assert load_company(path).name == path.stem


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(CompanyConfigError, match="pip install no-such-package"):
        resolve_path("package:no_such_package/data", Path("company.yaml"))
