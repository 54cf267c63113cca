"""Whose raw row it is follows the company's description; the lake keeps no past of what went."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipelines import lake
from pipelines.contracts import EVENTS, QUARANTINE
from pipelines.erasure import user_hash
from pipelines.flow.lake_erasure import erase_from, erase_from_quarantine
from pipelines.workspace import Workspace
from tests.tiny_company import catalogue_table, events_table, write_company
from tests.traces import traces

RAW_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("joined", {"shop": "a", "customer": 7.0, "pieces": 1}),
    ("joined", {"shop": None, "customer": 7.0, "pieces": 2}),
    ("joined", {"shop": "b", "customer": 7.0, "pieces": 3}),
    ("either", {"card": None, "login": "Seven"}),
    ("either", {"card": "x", "login": "Seven"}),
    ("either", {"card": " ", "login": None, "_malformed_row": '"a-7";2024'}),
    ("products", {"item": "a-7"}),
    ("forgotten", {"who": "a-7"}),
    ("forgotten", {"who": "a-77"}),
]


@pytest.mark.parametrize(
    ("user", "gone"), [("a-7", {0, 5, 7}), ("7", {1}), ("seven", {3}), ("x", {4}), ("a", set())]
)
def test_a_raw_row_is_the_users_whom_its_description_makes(
    workspace: Workspace, user: str, gone: set[int]
) -> None:
    columns = events_table()["columns"]
    joined = {"concat": ["shop", "customer"], "separator": "-"}
    either = {"coalesce": ["card", "login"], "values": {"Seven": "seven"}}
    write_company(
        workspace.root,
        events_table(name="joined", columns={**columns, "user_id": joined}),
        events_table(name="either", columns={**columns, "user_id": either}),
        catalogue_table(),
        files={},
    )
    rows = [
        {"source_table": table, "rule": "r", "raw_row": json.dumps(row), "row_hash": f"h{i}"}
        for i, (table, row) in enumerate(RAW_ROWS)
    ]
    write_deltalake(str(workspace.table(QUARANTINE.name)), pa.Table.from_pylist(rows))
    assert erase_from_quarantine(workspace, user_hash(user)) == len(gone)
    left = lake.read(workspace, QUARANTINE.name).column("row_hash").to_pylist()
    assert set(left) == {f"h{i}" for i in range(len(RAW_ROWS)) if i not in gone}


def test_earlier_versions_of_a_table_are_forgotten_with_its_users(workspace: Workspace) -> None:
    path = str(workspace.table(EVENTS.name))
    for users in (["ada-7f3a91", "bob"], ["bob", "o'ada"], ["bob", "cyd"]):
        rows = pa.table({"user_id": users, "tags": [["x"], []]})
        write_deltalake(path, rows, mode="overwrite")
    assert erase_from(workspace, EVENTS.name, "ada-7f3a91") == 0
    assert traces(workspace.root, "ada-7f3a91") == []
    assert erase_from(workspace, EVENTS.name, "cyd") == 1
    assert traces(workspace.root, "cyd") == []
    bob = lake.read(workspace, EVENTS.name, filters=[("user_id", "=", "bob")])
    assert bob.num_rows == lake.open_table(workspace, EVENTS.name).count() == 1
    assert erase_from(workspace, "labels", "bob") == 0
