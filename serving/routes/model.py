"""GET /v1/model, /healthz, /readyz, /metrics."""

from __future__ import annotations

import logging
from typing import Final

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from feature_store.online import online_state
from pipelines.clock import from_micros
from serving.dependencies import State, Unreadable
from serving.problems import ProblemError
from serving.readiness import mismatch
from serving.schemas import HealthResponse, ModelResponse

router = APIRouter()
_log: Final = logging.getLogger("bfm.serving")


@router.get("/v1/model")
def model(state: State) -> ModelResponse:
    """Which bundle answers."""
    manifest = state.predictor.manifest
    return ModelResponse(
        model_version=manifest.model_version,
        trained_version=manifest.lineage,
        company=manifest.company,
        vocabulary_id=manifest.vocabulary_id,
        as_of=from_micros(manifest.as_of_us),
        memories_as_of=from_micros(manifest.knows_until_us),
        shelf_as_of=from_micros(state.present_us),
        tasks=list(manifest.tasks),
        num_items=len(state.predictor.vocabulary.items),
        schema_version=manifest.schema_version,
    )


@router.get("/healthz")
async def healthz(state: State) -> HealthResponse:
    """The process runs; answered also while all threads are busy."""
    return HealthResponse(status="ok", model_version=state.model_version)


@router.get("/readyz")
def readyz(state: State, unreadable: Unreadable) -> HealthResponse:
    """The bundle is loaded, the online store answers, and the shelf is of the same training."""
    try:
        online_state(state.shelf, "readyz")
        state.live_events.of_user("readyz")
    except Exception as error:
        raise ProblemError(503, "A store does not answer; the log says which.") from error
    settings = state.settings
    reason = mismatch(
        settings.opened, state.predictor.manifest, settings.reload_seconds, unreadable
    )
    if reason is not None:
        _log.warning("not ready: %s%s", reason, f" {unreadable}" if unreadable else "")
        raise ProblemError(503, reason)
    return HealthResponse(status="ok", model_version=state.model_version)


@router.get("/metrics", response_class=Response)
async def metrics(state: State) -> Response:
    """Prometheus' text format; answered also while all threads are busy."""
    return Response(state.metrics.text(), media_type=CONTENT_TYPE_LATEST)
