"""`bfm erase` in words: what it says, what it refuses, and what it writes down of a request."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from pipelines.erasure import is_suppressed, names_user, user_hash, without_suppressed
from pipelines.errors import UserError, WorkspaceError
from pipelines.flow.erasure_requests import AUDIT_FILE, PENDING_FILE, ask, pending, save
from pipelines.flow.lock import workspace_lock
from pipelines.workspace import Workspace
from serving.cli.main import app
from tests.small_shop import histories, vocabulary, write_embeddings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def empty(workspace: Workspace) -> Workspace:
    """A workspace where nothing was made yet."""
    workspace.state.mkdir(parents=True)
    return workspace


def bfm(workspace: Workspace, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["erase", "--workspace", str(workspace.root), *arguments])


def test_an_unknown_user_is_kept_out_all_the_same(empty: Workspace) -> None:
    result = bfm(empty, "--user", "nobody-7f3a")
    assert result.exit_code == 0
    assert "nothing of this user was found" in result.output
    assert is_suppressed(empty, "nobody-7f3a")
    assert "nobody-7f3a" not in result.output
    record = json.loads((empty.reports / AUDIT_FILE).read_text())
    assert not any(record["removed"].values())
    assert user_hash("nobody-7f3a") not in json.dumps(record)


def test_blanks_around_an_id_are_no_part_of_it(empty: Workspace) -> None:
    assert bfm(empty, "--user", " 2001\t\n").exit_code == 0
    assert is_suppressed(empty, "2001")
    refused = bfm(empty, "--user", " \t\r\n")
    assert isinstance(refused.exception, UserError)
    assert "--user is blank" in str(refused.exception)


def test_a_time_of_grace_keeps_the_earlier_date_and_is_carried_out_once(empty: Workspace) -> None:
    assert "is run after" in bfm(empty, "--user", "ada", "--grace-days", "3").output
    bfm(empty, "--user", "ada", "--grace-days", "9")
    requests = json.loads((empty.root / PENDING_FILE).read_text())["requests"]
    assert [one["user"] for one in requests] == [user_hash("ada")]
    assert requests[0]["due"][:10] > requests[0]["asked"][:10]
    assert "0 request(s) carried out." in bfm(empty, "--due").output
    bfm(empty, "--user", "ada")
    assert json.loads((empty.root / PENDING_FILE).read_text())["requests"] == []
    assert len((empty.reports / AUDIT_FILE).read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give either --user ID, or --due alone."),
        (("--user", "ada", "--due"), "Give either --user ID, or --due alone."),
        (("--due", "--grace-days", "3"), "--grace-days belongs to --user ID"),
        (("--user", ""), "--user is blank. Give the id of the user"),
    ],
)
def test_what_makes_no_sense_is_refused(
    empty: Workspace, arguments: tuple[str, ...], message: str
) -> None:
    result = bfm(empty, *arguments)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_a_folder_that_is_no_workspace_and_one_in_use_are_refused(
    empty: Workspace, tmp_path: Path
) -> None:
    result = bfm(Workspace(tmp_path / "elsewhere"), "--user", "ada")
    assert "is not a workspace" in str(result.exception)
    with workspace_lock(empty):
        result = bfm(empty, "--user", "ada")
        bfm(empty, "--user", "ada")
    assert "is in use by another bfm process" in str(result.exception)
    assert is_suppressed(empty, "ada")
    (request,) = pending(empty)
    assert request.user == user_hash("ada")
    assert f"request {request.request_id} is saved: bfm erase --due" in str(result.exception)
    assert "1 request(s) carried out." in bfm(empty, "--due").output
    assert pending(empty) == []


def test_requests_of_many_threads_are_all_remembered(empty: Workspace) -> None:
    now = datetime(2024, 3, 1, tzinfo=UTC)
    users = [f"user-{i}" for i in range(20)]
    with ThreadPoolExecutor(max_workers=20) as pool:
        list(pool.map(lambda user: ask(empty, user_hash(user), now, now), users))
    assert sorted(one.user for one in pending(empty)) == sorted(user_hash(user) for user in users)


def test_an_earlier_time_asked_for_while_a_request_is_carried_out_is_kept(
    empty: Workspace,
) -> None:
    now = datetime(2024, 3, 1, tzinfo=UTC)
    ada, sooner = user_hash("ada"), now + timedelta(days=1)
    begun = ask(empty, ada, now, now + timedelta(days=7))
    ask(empty, ada, now, sooner)
    save(empty, replace(begun, removed={"logs": 1}))
    (request,) = pending(empty)
    assert (request.due, request.removed) == (sooner, {"logs": 1})


def test_exports_inside_the_workspace_are_searched(empty: Workspace) -> None:
    embedded = write_embeddings(empty.root / "exports", ["ada", "bob"])
    items = write_embeddings(empty.embeddings, ["ada", "item-1"])
    items = items.rename(items.with_name("item.parquet"))
    row = {"customer": "ada", "pieces": -1, "_table": "orders", "_rule": "quantity_below_0"}
    rows = [{**row, "_row_hash": 1}, {**row, "customer": "bob", "_row_hash": 2}]
    broken = empty.root / "rows.jsonl"
    broken.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    source = empty.root / "orders.jsonl"
    source.write_text('{"customer": "ada"}\nno json\n[]\n')
    result = bfm(empty, "--user", "ada")
    assert "outside of the workspace are yours to delete" in result.output
    assert pq.read_table(embedded).column("id").to_pylist() == ["bob"]
    assert pq.read_table(items).num_rows == 2, "items are nobody"
    assert [json.loads(line)["customer"] for line in broken.read_text().splitlines()] == ["bob"]
    assert len(source.read_text().splitlines()) == 3, "a source is its owner's"


def test_the_parts_of_an_export_in_a_folder_are_searched(empty: Workspace) -> None:
    part = write_embeddings(empty.root / "scores.parquet", ["ada", "bob"])
    assert bfm(empty, "--user", "ada").exit_code == 0
    assert pq.read_table(part).column("id").to_pylist() == ["bob"]


def test_ids_of_a_benchmark_are_searched_in_the_type_of_its_file(empty: Workspace) -> None:
    path = empty.root / "bench" / "predictions.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"user_id": pa.array([7, 8], pa.int64()), "rank": [1, 1]}), path)
    assert bfm(empty, "--user", "7").exit_code == 0
    assert pq.read_table(path).column("user_id").to_pylist() == [8]
    ask(empty, user_hash("8"), NOW, NOW)
    assert bfm(empty, "--due").exit_code == 0
    assert pq.read_table(path).num_rows == 0


def test_a_file_that_is_not_parquet_as_its_name_says_is_named(empty: Workspace) -> None:
    (empty.root / "notes.parquet").write_text("ada bought tea")
    result = bfm(empty, "--user", "ada")
    assert isinstance(result.exception, WorkspaceError)
    assert "notes.parquet is not the Parquet file" in str(result.exception)


def test_a_row_names_a_user_by_a_whole_word() -> None:
    row = '{"_malformed_row": "{\\"customer\\": \\"7f\\", \\"pieces\\": 112}"}'
    assert names_user(row, user_hash("7f"))
    assert names_user(row, user_hash("112"))
    assert not names_user(row, user_hash("12"))


def test_rows_of_suppressed_users_are_left_out(empty: Workspace) -> None:
    rows = histories().to_arrow(vocabulary().vocabulary_id)
    assert without_suppressed(empty, rows) is rows
    bfm(empty, "--user", "bob", "--grace-days", "1")
    assert without_suppressed(empty, rows).column("user_id").to_pylist() == ["ada", "cyd"]
