"""POST /v1/recommendations."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool as in_thread

from behavior_model.predictor import Predictor
from pipelines.clock import from_micros
from serving.dependencies import State
from serving.problems import BODY_PROBLEMS, described
from serving.ranked import ranked_categories, ranked_items
from serving.schemas import RankedItem, RecommendationRequest, RecommendationResponse
from serving.state import as_of_micros

router = APIRouter(responses=BODY_PROBLEMS | described(404))


@router.post("/v1/recommendations")
async def recommend(request: RecommendationRequest, state: State) -> RecommendationResponse:
    """What the user will buy next: products or categories, best first."""
    user = await in_thread(state.resolve, request.user_id, request.events, as_of_micros(request))
    named = ranked_categories if request.level == "category" else ranked_items

    def ask(predictor: Predictor) -> tuple[bool, list[RankedItem]]:
        ranking = predictor.recommend(
            user.histories,
            user.times_us,
            request.k,
            level=request.level,
            exclude_owned=request.exclude_owned,
        )
        (fallback,) = ranking.fallbacks
        return fallback, named(predictor, ranking)

    fallback, items = await state.ask_model(ask)
    state.metrics.fallbacks.inc(fallback)
    return RecommendationResponse(
        model_version=state.model_version,
        user_id=request.user_id,
        prediction_time=from_micros(user.prediction_time_us),
        num_events=user.num_events,
        fallback=fallback,
        level=request.level,
        items=items,
    )
