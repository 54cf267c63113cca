"""POST /v1/search."""

from __future__ import annotations

from fastapi import APIRouter

from serving.dependencies import State
from serving.ranked import ranked_items
from serving.schemas import SearchRequest, SearchResponse
from serving.state import as_of_micros

router = APIRouter()


@router.post("/v1/search")
def search(request: SearchRequest, state: State) -> SearchResponse:
    """Items for a query; with a user, those this user means come first."""
    user = None
    if request.user_id is not None:
        user = state.resolve(request.user_id, request.events, as_of_micros(request))
    known = user is not None and not user.fallback
    state.metrics.fallbacks.inc(user is not None and user.fallback)
    with state.model_slot() as predictor:
        ranking = predictor.search(
            [request.query],
            request.k,
            histories=user.histories if user and known else None,
            prediction_times_us=user.times_us if user and known else None,
        )
    return SearchResponse(
        model_version=state.model_version,
        user_id=request.user_id,
        personalised=known and predictor.personalises_search,
        items=ranked_items(predictor, ranking),
    )
