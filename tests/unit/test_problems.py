"""Problem documents never repeat what the client sent, whatever it was."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from feature_store.reach import StoreError
from pipelines.errors import UnknownNameError, WorkspaceError
from serving import problems
from serving.problems import ProblemError, ascii_text


@given(st.text(alphabet=st.characters(exclude_categories=())), st.integers(1, 80))
def test_any_text_becomes_printable_ascii(text: str, limit: int) -> None:
    shown = ascii_text(text, limit)
    assert shown.isascii()
    assert shown == "" or shown.isprintable()
    assert len(shown) <= 10 * limit
    json.dumps(shown).encode()


def application(error: Exception) -> TestClient:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def fail() -> None:
        raise error

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProblemError(409, "taken", {"Retry-After": "3"}), 409),
        (UnknownNameError("task", "chrun", ["churn"]), 404),
        (WorkspaceError("/secret/path: no table"), 503),
        (StoreError("redis at secret:6379 refused"), 503),
        (ValueError("secret value"), 500),
    ],
)
def test_every_error_has_its_status_and_form(error: Exception, status: int) -> None:
    response = application(error).get("/")
    assert response.status_code == status
    assert response.headers["content-type"] == problems.PROBLEM_JSON
    assert "secret" not in response.text
    assert {"type", "title", "status", "detail"} <= set(response.json())


def test_an_unknown_name_is_guessed() -> None:
    response = application(UnknownNameError("task", "chrun", ["churn"])).get("/")
    assert "Did you mean 'churn'?" in response.json()["detail"]


def test_a_store_that_is_down_is_asked_again_soon() -> None:
    response = application(StoreError("redis at secret:6379 refused")).get("/")
    assert int(response.headers["retry-after"]) > 0
    assert "online store" in response.json()["detail"]


def test_headers_of_a_problem_are_sent() -> None:
    response = application(ProblemError(503, "busy", {"Retry-After": "3"})).get("/")
    assert response.headers["retry-after"] == "3"
