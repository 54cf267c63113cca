"""DELETE /v1/users/{user_id}."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from feature_store.erasure import erase_online
from pipelines.erasure import user_hash
from pipelines.flow.erasure_requests import ask
from serving.dependencies import State, require_admin
from serving.problems import described
from serving.schemas import ErasureResponse, Id

router = APIRouter()


@router.delete(
    "/v1/users/{user_id:path}",
    dependencies=[Depends(require_admin)],
    responses=described(401, 422),
)
def erase(user_id: Annotated[Id, Path()], state: State) -> ErasureResponse:
    """Erase a user from the online store and the live events, and keep the user out from now on.

    Files are not written anew while the counter answers: the shelf's offline files, the lake's
    tables, exports and logs go when `bfm erase --due` carries the request out. Only training again
    takes the user's part out of the weights.
    """
    now = datetime.now(UTC)
    request = ask(state.shelf.workspace, user_hash(user_id), now, now)
    erase_online(state.shelf, user_id)
    removed = state.live_events.remove_user(user_id)
    return ErasureResponse(
        model_version=state.model_version,
        user_id=user_id,
        num_live_events=removed,
        request_id=request.request_id,
    )
