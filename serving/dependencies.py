"""What routes ask for, as types."""

from __future__ import annotations

import secrets
from typing import Annotated, Final

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

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


_bearer: Final = HTTPBearer(auto_error=False, description="The counter's BFM_ADMIN_TOKEN.")
Given = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


async def require_admin(given: Given, state: State) -> None:
    """Let only those pass who know the token of the settings, where there is one.

    Raises:
        ProblemError: 401 when the token is missing or another one.
    """
    token = state.settings.admin_token
    if token is None:
        return
    expected = token.get_secret_value().encode()
    if given is None or not secrets.compare_digest(given.credentials.encode(), expected):
        raise ProblemError(
            401,
            "No or another token came; send the header Authorization: Bearer with the token that "
            "BFM_ADMIN_TOKEN names at the counter.",
            {"WWW-Authenticate": "Bearer"},
        )
