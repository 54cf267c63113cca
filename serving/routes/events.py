"""POST /v1/events."""

from __future__ import annotations

from fastapi import APIRouter

from serving.dependencies import State
from serving.live_events import EventConflictError
from serving.problems import BODY_PROBLEMS, ProblemError, described
from serving.schemas import EventsRequest, EventsResponse, canonical_events

router = APIRouter(responses=BODY_PROBLEMS | described(409))


@router.post("/v1/events")
def events(request: EventsRequest, state: State) -> EventsResponse:
    """Store live events; they change the next answer. Sending the same ones again is harmless."""
    state.check_events(request.events)
    state.check_times(request.events)
    erased = [i for i, event in enumerate(request.events) if state.is_erased(event.user_id)]
    if erased:
        raise _conflict(erased, "this user was erased; no further events are kept")
    try:
        accepted = state.live_events.add(canonical_events(request.events))
    except EventConflictError as error:
        raise _conflict(
            error.positions, "this event_id is stored with another content; use a new one"
        ) from error
    for user_id in {event.user_id for event in request.events if state.is_erased(event.user_id)}:
        state.live_events.remove_user(user_id)  # the erasure came while they were stored
    state.metrics.live_events.inc(accepted.stored)
    return EventsResponse(
        model_version=state.model_version, stored=accepted.stored, known=accepted.known
    )


def _conflict(positions: list[int], message: str) -> ProblemError:
    errors = [{"pointer": f"/events/{i}", "message": message} for i in positions[:20]]
    return ProblemError(409, "Nothing of this request was stored.", errors=errors)
