"""POST /v1/propensities."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool as in_thread

from pipelines.clock import from_micros
from serving.dependencies import State
from serving.problems import BODY_PROBLEMS, described
from serving.schemas import (
    CategoryChance,
    PredictionRequest,
    PropensityResponse,
)
from serving.state import as_of_micros

router = APIRouter(responses=BODY_PROBLEMS | described(404))


@router.post("/v1/propensities")
async def propensities(request: PredictionRequest, state: State) -> PropensityResponse:
    """Chance of a purchase from each of the largest categories, comparable between users."""
    user = await in_thread(state.resolve, request.user_id, request.events, as_of_micros(request))
    found = await state.ask_model(
        lambda predictor: predictor.propensities(user.histories, user.times_us)
    )
    state.metrics.fallbacks.inc(user.fallback)
    order = np.argsort(-found.scores[0], kind="stable")
    return PropensityResponse(
        model_version=state.model_version,
        user_id=request.user_id,
        prediction_time=from_micros(user.prediction_time_us),
        num_events=user.num_events,
        fallback=user.fallback,
        categories=[
            CategoryChance(
                category=found.categories[i],
                score=found.scores[0, i],
                lower=found.lowers[0, i],
                upper=found.uppers[0, i],
            )
            for i in order
        ],
    )
