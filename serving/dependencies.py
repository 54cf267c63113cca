"""What routes ask for, as types."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from serving.state import AppState


def _state(request: Request) -> AppState:
    state: AppState = request.app.state.bfm
    return state


State = Annotated[AppState, Depends(_state)]
