"""Every error as problem+json (RFC 9457). Of what the client sent it names at most the address and
the id or name that is unknown, never a body."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feature_store.reach import StoreError
from pipelines.errors import BfmError, UnknownNameError, UserError
from serving.schemas import Problem

PROBLEM_JSON: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:bfm:problem:"
_MAX_ERRORS: Final = 20
_MAX_NAME: Final = 64
_STORE_RETRY_S: Final = "5"
_log: Final = logging.getLogger("bfm.serving")

_TITLES: Final = {
    400: ("malformed-request", "The request body cannot be read."),
    401: ("unauthorized", "This address needs a token."),
    404: ("not-found", "There is nothing at this address."),
    405: ("method-not-allowed", "This address does not take this method."),
    409: ("conflict", "The request contradicts what is stored."),
    413: ("body-too-large", "The request body is too large."),
    415: ("unsupported-media-type", "The request body is not sent as JSON."),
    422: ("invalid-request", "The request breaks the schema."),
    500: ("internal-error", "The server failed; the request may be tried again."),
    503: ("not-ready", "The server cannot answer now; try again later."),
}


_UNKNOWN_NAME: Final = ("unknown-name", "The model knows nothing of this name.")


class ProblemError(BfmError):
    """A request that ends with a problem document.

    Args:
        status: HTTP status.
        detail: What came, what is allowed, what to do next; never the client's raw input.
        headers: Further response headers.
        errors: Places in the body, each with `pointer` and `message`.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = list(errors)


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    kind: tuple[str, str] | None = None,
) -> Response:
    """A problem document as a response; `kind` is its type and title where its status has another
    that is usual."""
    name, title = kind or _TITLES.get(status, ("http-error", HTTPStatus(status).phrase))
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + name,
        "title": title,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = list(errors)
    return Response(json.dumps(body), status, dict(headers or {}), PROBLEM_JSON)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems of these statuses for the OpenAPI document."""
    return {one: {"model": Problem, "content": {PROBLEM_JSON: {}}} for one in statuses}


BODY_PROBLEMS: Final = described(400, 413, 415, 422)
"""What every route that reads a body may answer."""


def install(app: FastAPI) -> None:
    """Register the handlers; no error leaves the application in another form."""
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(UserError, _on_user_error)
    app.add_exception_handler(sqlite3.OperationalError, _on_busy_file)
    app.add_middleware(LastResort)


def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["loc"] == ("body",) for one in found) and not _is_json(request):
        return problem(
            415, "Send the body as JSON, with the header Content-Type: application/json."
        )
    errors = [
        {"pointer": _pointer(one["loc"]), "message": _message(one)} for one in found[:_MAX_ERRORS]
    ]
    detail = (
        f"{len(found)} problem(s) in the request; 'errors' names each place. "
        "The schema stands at /openapi.json."
    )
    return problem(422, detail, errors=errors)


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {
        400: "The body must be one JSON document in UTF-8.",
        404: "See /openapi.json for the addresses that exist.",
        405: "See the Allow header for the methods that this address takes.",
    }.get(error.status_code, HTTPStatus(error.status_code).phrase)
    return problem(error.status_code, detail, headers=error.headers)


def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and error.__cause__ is not None:
        _log.error("%s", error.detail, exc_info=error.__cause__)
    return problem(error.status, error.detail, errors=error.errors, headers=error.headers)


def _on_user_error(_: Request, error: Exception) -> Response:
    if isinstance(error, UnknownNameError):
        return problem(404, ascii_text(str(error), limit=500), kind=_UNKNOWN_NAME)
    _log.error("a request met a problem of the installation: %s", error)
    if isinstance(error, StoreError):
        headers = {"Retry-After": _STORE_RETRY_S}
        return problem(503, "The online store does not answer; try again.", headers=headers)
    return problem(503, "The server's data is not in order; its log says what to do.")


def _on_busy_file(_: Request, error: Exception) -> Response:
    _log.error("the file of live events did not answer: %s", error)
    headers = {"Retry-After": _STORE_RETRY_S}
    return problem(503, "The store of live events does not answer; try again.", headers=headers)


def ascii_text(text: str, limit: int = _MAX_NAME) -> str:
    """Printable ASCII of a text that may hold anything, lone surrogates included."""
    plain = text[:limit].encode("ascii", "backslashreplace").decode()
    return "".join(c if c.isprintable() else "?" for c in plain)


def _pointer(location: Sequence[int | str]) -> str:
    """JSON pointer of a place in the body, or the name of a path or query parameter."""
    parts = [ascii_text(str(part)).replace("~", "~0").replace("/", "~1") for part in location]
    if parts[:1] == ["body"]:
        return "/" + "/".join(parts[1:]) if len(parts) > 1 else ""
    return ".".join(parts)


def _message(error: Mapping[str, Any]) -> str:
    """Pydantic's message; those that could quote the input are replaced."""
    if error["type"] == "extra_forbidden":
        return "unknown key; remove it or check its spelling"
    if error["type"] == "json_invalid":
        return "not valid JSON"
    return ascii_text(str(error["msg"]).removeprefix("Value error, "), limit=300)


class LastResort:
    """ASGI middleware: a defect becomes a problem document and the connection stays usable."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            _log.error("a request failed: %s", type(error).__name__, exc_info=error)
            await problem(500, "The server's log holds the cause.")(scope, receive, send)


class BodyLimit:
    """ASGI middleware: bodies over a limit end with 413, whether announced or streamed."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced[:20]) > self.max_bytes:
            await self._refuse(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            await self._refuse(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, or None as soon as it passes the limit."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        detail = f"At most {self.max_bytes} bytes are read; send fewer ids or events at once."
        await problem(413, detail, headers={"Connection": "close"})(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
