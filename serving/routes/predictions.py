"""POST /v1/predictions/{task}."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool as in_thread

from pipelines.clock import from_micros
from serving.dependencies import State
from serving.problems import BODY_PROBLEMS, described
from serving.schemas import MAX_ID, PredictionRequest, PredictionResponse
from serving.state import as_of_micros

router = APIRouter(responses=BODY_PROBLEMS | described(404))


@router.post("/v1/predictions/{task}")
async def predict(
    task: Annotated[str, Path(max_length=MAX_ID)], request: PredictionRequest, state: State
) -> PredictionResponse:
    """A user task's answer (churn and others) with its interval."""
    state.predictor.require_user_task(task)
    user = await in_thread(state.resolve, request.user_id, request.events, as_of_micros(request))
    found = await state.ask_model(
        lambda predictor: predictor.predict(task, user.histories, user.times_us)
    )
    state.metrics.fallbacks.inc(user.fallback)
    return PredictionResponse(
        model_version=state.model_version,
        user_id=request.user_id,
        prediction_time=from_micros(user.prediction_time_us),
        num_events=user.num_events,
        fallback=user.fallback,
        task=task,
        score=found.scores[0],
        lower=found.lowers[0],
        upper=found.uppers[0],
        familiarity=found.familiarities[0],
        out_of_distribution=bool(found.unfamiliar[0]) or user.fallback,
    )
