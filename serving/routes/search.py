"""POST /v1/search."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool as in_thread

from behavior_model.predictor import Predictor, Ranking
from serving.dependencies import State
from serving.problems import BODY_PROBLEMS, described
from serving.ranked import ranked_items
from serving.schemas import RankedItem, SearchRequest, SearchResponse
from serving.state import as_of_micros

router = APIRouter(responses=BODY_PROBLEMS | described(404))


@router.post("/v1/search")
async def search(request: SearchRequest, state: State) -> SearchResponse:
    """Items for a query; with a user, those this user means come first."""
    user = None
    if request.user_id is not None:
        user = await in_thread(
            state.resolve, request.user_id, request.events, as_of_micros(request)
        )
    known = user is not None and not user.fallback
    state.metrics.fallbacks.inc(user is not None and user.fallback)

    def ask(predictor: Predictor) -> tuple[list[RankedItem], Ranking]:
        ranking = predictor.search(
            [request.query],
            request.k,
            histories=user.histories if user and known else None,
            prediction_times_us=user.times_us if user and known else None,
        )
        return ranked_items(predictor, ranking), ranking

    items, ranking = await state.ask_model(ask)
    return SearchResponse(
        model_version=state.model_version,
        user_id=request.user_id,
        personalised=known and state.predictor.personalises_search,
        familiarity=ranking.familiarities[0],
        out_of_distribution=ranking.unfamiliar[0],
        items=items,
    )
