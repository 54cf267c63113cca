"""`bfm erase` in words: what it says, what it refuses, and what it writes down of a request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines.erasure import is_suppressed, names_user, user_hash, without_suppressed
from pipelines.errors import UserError
from pipelines.flow.erasure_requests import AUDIT_FILE, PENDING_FILE
from pipelines.flow.lock import workspace_lock
from pipelines.workspace import Workspace
from serving.cli.main import app
from tests.small_shop import histories, vocabulary


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
        (("--user", ""), "--user is empty. Give the id of the user"),
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
    assert "is in use by another bfm process" in str(result.exception)
    assert is_suppressed(empty, "ada")
    assert not (empty.root / PENDING_FILE).exists()


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
