"""Every table of the lake keeps its contract: columns in order, types, keys, readability."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines import lake
from pipelines.contracts import (
    LABELS,
    QUARANTINE,
    TOKEN_PREFIX,
    TOKEN_SEQUENCES,
    USER_FLAGS,
    ColumnType,
    TableContract,
)
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import RunSettings, StageContext, run_stages
from pipelines.stages.schemas import stored
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace
from tests.tiny_company import catalogue_table, events_table, order, orders, products, write_company

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.integration

NAMES = ("events", "catalogue", "profiles", "quarantine", "token_sequences", "labels", "user_flags")
ARROW_TYPES = {
    ColumnType.STRING: pa.string(),
    ColumnType.LONG: pa.int64(),
    ColumnType.INT: pa.int32(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.FLOAT: pa.float32(),
    ColumnType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    ColumnType.STRING_LIST: pa.string(),
    ColumnType.LONG_LIST: pa.int64(),
    ColumnType.INT_LIST: pa.int32(),
    ColumnType.FLOAT_LIST: pa.float32(),
}


@pytest.fixture(scope="module")
def context(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    folder = tmp_path_factory.mktemp("tables")
    members = {
        "name": "members",
        "into": "profiles",
        "source": {"format": "csv", "path": "members.csv"},
        "columns": {"user_id": "customer"},
        "fields": {"tier": {"type": "categorical"}},
    }
    path = write_company(
        folder,
        events_table(),
        catalogue_table(),
        members,
        files={
            "orders.parquet": [*orders(60), order(60, pieces=0)],
            "products.parquet": products(),
            "members.csv": [{"customer": f"u{i}", "tier": "gold"} for i in range(3)],
        },
        flags={"staff": {"users": ["u4", "nobody"], "profile": {"tier": "gold"}}},
    )
    settings = RunSettings(
        company_path=path, as_of=datetime(2024, 1, 18, tzinfo=UTC), window_days=3
    )
    context = StageContext(Workspace(folder / "workspace"), settings, say=lambda line: None)
    run_stages(ROOMS, context)
    return context


def contract_of(context: StageContext, name: str) -> TableContract:
    if name in ("events", "catalogue", "profiles"):
        return stored(context.company.contract(name))  # type: ignore[arg-type]
    made = (QUARANTINE, TOKEN_SEQUENCES, LABELS, USER_FLAGS)
    return {one.name: one for one in made}[name]


def value_type(field: pa.Field) -> pa.DataType:
    is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    return field.type.value_type if is_list else field.type


@pytest.mark.parametrize("name", NAMES)
def test_columns_stand_in_order_with_their_types(context: StageContext, name: str) -> None:
    contract = contract_of(context, name)
    schema = lake.read(context.workspace, name).schema
    tokens = [n for n in schema.names if n.startswith(TOKEN_PREFIX)]
    assert schema.names == [*contract.column_names, *tokens]
    for column in contract.columns:
        assert value_type(schema.field(column.name)) == ARROW_TYPES[column.type], column.name


@pytest.mark.parametrize("name", NAMES)
def test_required_columns_are_never_null_and_keys_never_twice(
    context: StageContext, name: str
) -> None:
    contract = contract_of(context, name)
    table = lake.read(context.workspace, name)
    assert table.num_rows > 0
    for column in contract.columns:
        assert not column.required or table.column(column.name).null_count == 0, column.name
    keys = table.group_by(list(contract.key)).aggregate([])
    assert keys.num_rows == table.num_rows


@pytest.mark.parametrize("name", NAMES)
def test_other_readers_can_read_it(context: StageContext, name: str) -> None:
    table = lake.open_table(context.workspace, name)
    assert "deletionVectors" not in (table.protocol().reader_features or [])
    assert table.metadata().configuration.get("delta.enableDeletionVectors") == "false"


def test_sequences_hold_one_token_column_per_field(context: StageContext) -> None:
    vocabulary = Vocabulary.load(context.workspace.vocabulary_path)
    table = lake.read(context.workspace, "token_sequences")
    names = [n.removeprefix(TOKEN_PREFIX) for n in table.column_names if n.startswith(TOKEN_PREFIX)]
    assert names == [field.name for field in vocabulary.fields]
    lengths = table.column("num_events").to_pylist()
    for name in (
        "times_us",
        "event_hashes",
        "amounts",
        "quantities",
        *map("token_{}".format, names),
    ):
        assert pc.list_value_length(table.column(name)).to_pylist() == lengths, name


def test_flagged_users_keep_their_sequences(context: StageContext) -> None:
    rows = {row["user_id"]: row for row in lake.read(context.workspace, "user_flags").to_pylist()}
    assert lake.flagged_users(context.workspace) == {"u0", "u1", "u2", "u4"}
    assert (rows["u4"]["flag"], rows["u4"]["reason"]) == ("staff", "named in company.yaml")
    assert rows["u0"]["reason"] == "profile tier: gold"
    users = lake.read(context.workspace, "token_sequences", ["user_id"]).column(0).to_pylist()
    assert {"u0", "u4"} < set(users)


def test_events_of_one_user_lie_together(context: StageContext) -> None:
    users = lake.read(context.workspace, "events", ["user_id"]).column(0).to_pylist()
    runs = sum(left != right for left, right in itertools.pairwise(users)) + 1
    assert runs == len(set(users))


def test_the_report_shows_every_source_table(context: StageContext) -> None:
    folder = context.workspace.reports / "data_quality"
    page = (folder / "index.html").read_text(encoding="utf-8")
    for text in ("orders", "products", "members", "quantity_not_above_0", "tiny-company"):
        assert text in page
    assert "http" not in page
    assert (folder / "counts.json").is_file()
