"""What routes ask for, as types."""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Depends, Request

from serving.problems import ProblemError
from serving.state import AppState


async def _state(request: Request) -> AppState:
    """Asynchronous, so that asking for it takes no thread of those that predict."""
    state: AppState = request.app.state.bfm
    return state


State = Annotated[AppState, Depends(_state)]


async def _unreadable(request: Request) -> str | None:
    why: str | None = request.app.state.reloader.unreadable
    return why


Unreadable = Annotated[str | None, Depends(_unreadable)]
"""Why the workspace's bundle can never be taken over, if it cannot."""


async def require_admin(request: Request, state: State) -> None:
    """Let only those pass who know the token of the settings, where there is one.

    Raises:
        ProblemError: 401 when the token is missing or another one.
    """
    token = state.settings.admin_token
    if token is None:
        return
    expected = f"Bearer {token.get_secret_value()}"
    given = request.headers.get("authorization", "")
    if not secrets.compare_digest(given.encode(), expected.encode()):
        raise ProblemError(
            401,
            "No or another token came; send the header Authorization: Bearer with the token that "
            "BFM_ADMIN_TOKEN names at the counter.",
            {"WWW-Authenticate": "Bearer"},
        )
