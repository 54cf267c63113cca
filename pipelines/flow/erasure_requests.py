"""Erasures that were asked for and are not finished; they name nobody but by digest."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from pipelines.erasure import suppress
from pipelines.flow.standing import Standing
from pipelines.workspace import Workspace, exclusive, write_bytes_atomically, write_json_atomically

PENDING_FILE: Final = "erasures.json"
AUDIT_FILE: Final = "erasures.jsonl"
_LOCK_FILE: Final = ".erasures.lock"


@dataclass(frozen=True, kw_only=True)
class ErasureRequest:
    """One erasure, as far as it got.

    Args:
        user: Digest of the user's id.
        asked: When it was asked for.
        due: When it may be carried out.
        request_id: Random; the only name that the audit record keeps.
        trained_with: Model versions whose training data held the user.
        removed: Place in the workspace -> rows removed there.
        standings: How the stages stood before the first removal.
        erased: When it was finished.
    """

    user: str
    asked: datetime
    due: datetime
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))
    trained_with: tuple[str, ...] = ()
    removed: Mapping[str, int] = field(default_factory=dict)
    standings: Mapping[str, Standing] = field(default_factory=dict)
    erased: datetime | None = None


def pending(workspace: Workspace) -> list[ErasureRequest]:
    """Requests that are not finished, oldest first."""
    path = workspace.root / PENDING_FILE
    if not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["requests"]
    return [_parse(row) for row in rows]


def ask(workspace: Workspace, user: str, now: datetime, due: datetime) -> ErasureRequest:
    """Keep a user out from now on, and remember that the user is to be erased, whoever works on the
    workspace.

    Args:
        workspace: Where to erase.
        user: Digest of the user's id.
        now: When it was asked for.
        due: When it may be carried out.

    Returns:
        The request; an unfinished one of the same user goes on, and the earlier time counts.
    """
    suppress(workspace, user)
    with _changing(workspace):
        known = next((one for one in pending(workspace) if one.user == user), None)
        request = ErasureRequest(user=user, asked=now, due=due) if known is None else known
        request = replace(request, due=min(request.due, due))
        _put(workspace, request)
    return request


def save(workspace: Workspace, request: ErasureRequest) -> None:
    """Remember how far a request got; where it was asked for again meanwhile, the earlier time
    counts."""
    with _changing(workspace):
        dues = [one.due for one in pending(workspace) if one.request_id == request.request_id]
        _put(workspace, replace(request, due=min([request.due, *dues])))


def finish(workspace: Workspace, request: ErasureRequest, now: datetime) -> ErasureRequest:
    """Write the audit record, which does not tell who it was, and forget the request."""
    path = workspace.reports / AUDIT_FILE
    known = path.read_text(encoding="utf-8") if path.is_file() else ""
    if request.request_id not in known:
        record = {
            "request_id": request.request_id,
            "asked": request.asked.isoformat(),
            "erased": now.isoformat(),
            "trained_with": list(request.trained_with),
            "removed": dict(request.removed),
        }
        write_bytes_atomically(path, f"{known}{json.dumps(record)}\n".encode())
    with _changing(workspace):
        _write(workspace, _others(workspace, request))
    return replace(request, erased=now)


def _changing(workspace: Workspace) -> AbstractContextManager[None]:
    """Hold the list from reading it to writing it; a second change waits for the first."""
    return exclusive(workspace.root / _LOCK_FILE)


def _put(workspace: Workspace, request: ErasureRequest) -> None:
    _write(workspace, [*_others(workspace, request), request])


def _others(workspace: Workspace, request: ErasureRequest) -> list[ErasureRequest]:
    return [one for one in pending(workspace) if one.request_id != request.request_id]


def _write(workspace: Workspace, requests: Sequence[ErasureRequest]) -> None:
    ordered = sorted(requests, key=lambda one: one.asked)
    write_json_atomically(
        workspace.root / PENDING_FILE, {"requests": [_as_json(one) for one in ordered]}
    )


def _as_json(request: ErasureRequest) -> dict[str, Any]:
    row = {**asdict(request), "asked": request.asked.isoformat(), "due": request.due.isoformat()}
    del row["erased"]
    return row


def _parse(row: Mapping[str, Any]) -> ErasureRequest:
    typed = {
        "asked": datetime.fromisoformat(row["asked"]),
        "due": datetime.fromisoformat(row["due"]),
        "trained_with": tuple(row["trained_with"]),
        "standings": {name: Standing(**one) for name, one in row["standings"].items()},
    }
    return ErasureRequest(**{**row, **typed})
