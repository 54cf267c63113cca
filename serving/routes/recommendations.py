"""POST /v1/recommendations."""

from __future__ import annotations

from fastapi import APIRouter

from pipelines.clock import from_micros
from serving.dependencies import State
from serving.ranked import ranked_categories, ranked_items
from serving.schemas import RecommendationRequest, RecommendationResponse
from serving.state import as_of_micros

router = APIRouter()


@router.post("/v1/recommendations")
def recommend(request: RecommendationRequest, state: State) -> RecommendationResponse:
    """What the user will buy next: products or categories, best first."""
    user = state.resolve(request.user_id, request.events, as_of_micros(request))
    with state.model_slot() as predictor:
        ranking = predictor.recommend(
            user.histories,
            user.times_us,
            request.k,
            level=request.level,
            exclude_owned=request.exclude_owned,
        )
    (fallback,) = ranking.fallbacks
    state.metrics.fallbacks.inc(fallback)
    named = ranked_categories if request.level == "category" else ranked_items
    return RecommendationResponse(
        model_version=state.model_version,
        user_id=request.user_id,
        prediction_time=from_micros(user.prediction_time_us),
        num_events=user.num_events,
        fallback=fallback,
        level=request.level,
        items=named(predictor, ranking),
    )
