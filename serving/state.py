"""What a replica holds while it runs, and how a user's history is put together for one request."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np
from anyio import CapacityLimiter, fail_after, to_thread

from behavior_model.predictor import Predictor
from feature_store.online import online_states, require_filled
from feature_store.refreshed import Refreshed
from feature_store.settings import Shelf
from pipelines.clock import from_micros, to_micros
from pipelines.contracts import SemanticType
from pipelines.erasure import is_suppressed
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.encoder import time_tokens
from pipelines.tokens.history import Histories, merge
from pipelines.workspace import Workspace
from serving.live_events import LiveEvents, encode_events
from serving.metrics import Metrics
from serving.problems import ProblemError, ascii_text
from serving.schemas import ExtraValue, LiveEvent, canonical_events
from serving.settings import ServingSettings

Answer = TypeVar("Answer")

_RETRY_AFTER: Final = {"Retry-After": "1"}


@dataclass(frozen=True)
class ResolvedUser:
    """One user as the model will see it.

    Args:
        histories: The one user's events before the prediction time; may be none.
        prediction_time_us: UTC microseconds.
    """

    histories: Histories
    prediction_time_us: int

    @property
    def times_us(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """int64[1]: the prediction time as the model takes it."""
        return np.asarray([self.prediction_time_us], dtype=np.int64)

    @property
    def num_events(self) -> int:
        return self.histories.num_events

    @property
    def fallback(self) -> bool:
        """No history: the answer is that for everybody unknown."""
        return self.num_events == 0


def open_shelf(workspace: Workspace) -> Shelf:
    """The shelf of a workspace, if it can answer.

    Raises:
        WorkspaceError: nothing was published yet, or into another online store.
        StoreError: the online store does not answer.
    """
    shelf = Shelf(workspace)
    shelf.require_published()
    require_filled(shelf)
    return shelf


@dataclass(frozen=True)
class AppState:
    """The bundle, the shelf and the live events of one replica."""

    settings: ServingSettings
    predictor: Predictor
    shelf: Shelf
    live_events: LiveEvents
    metrics: Metrics
    _slots: CapacityLimiter = field(repr=False)

    @classmethod
    def open(cls, settings: ServingSettings, predictor: Predictor, metrics: Metrics) -> AppState:
        """Open the shelf and the live events beside a loaded bundle.

        Raises:
            WorkspaceError: nothing was published yet, or into another online store.
            StoreError: the online store does not answer.
        """
        return cls(
            settings=settings,
            predictor=predictor,
            shelf=open_shelf(settings.opened),
            live_events=LiveEvents(settings.opened.live_events_path),
            metrics=metrics,
            _slots=CapacityLimiter(settings.max_concurrent_predictions),
        )

    @property
    def model_version(self) -> str:
        return self.predictor.manifest.model_version

    @property
    def refreshed_us(self) -> int | None:
        """Up to when the shelf knows what happened; None: to the bundle's time."""
        refreshed = Refreshed.load(self.shelf)
        return None if refreshed is None else refreshed.as_of_us

    @property
    def present_us(self) -> int:
        """Prediction time of users of whom nothing newer is known."""
        return max(self.predictor.manifest.knows_until_us, self.refreshed_us or 0)

    async def ask_model(self, question: Callable[[Predictor], Answer]) -> Answer:
        """What the predictor says, for as many requests at once as the settings allow.

        Who waits holds no thread, and the question is answered in a thread beside those of other
        routes, so that these go on answering.

        Raises:
            ProblemError: 503 when no slot came free in time, or too many wait already.
        """
        async with self._model_slot():
            own = CapacityLimiter(1)
            return await to_thread.run_sync(question, self.predictor, limiter=own)

    @asynccontextmanager
    async def _model_slot(self) -> AsyncIterator[None]:
        if self._slots.statistics().tasks_waiting >= self.settings.max_waiting_predictions:
            raise _busy("Too many requests wait for the model; try again.")
        try:
            with fail_after(self.settings.max_wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise _busy("All prediction slots are busy; try again.") from None
        try:
            yield
        finally:
            self._slots.release()

    def resolve(
        self, user_id: str, events: Sequence[LiveEvent] = (), as_of_us: int | None = None
    ) -> ResolvedUser:
        """Stored state, live events and request events as one history.

        Of twins (same event id) the stored one stays. The prediction time is `as_of_us`, or else
        the latest of the bundle's time, the last refresh of the shelf and the moment after the
        user's last event.

        Raises:
            ProblemError: 422 when a request event is another user's, has unknown fields, or is of
                a clock that is far ahead.
        """
        self.check_events(events)
        self.check_times(events)
        for position, event in enumerate(events):
            if event.user_id != user_id:
                message = "this event is another user's; send only the asked user's events"
                raise invalid(f"/events/{position}/user_id", message)
        present_us = self.present_us
        live = self._live(user_id)
        stored = self._stored([user_id], as_of_us or present_us)
        histories = self._merged(user_id, stored.get(user_id), live, canonical_events(events))
        return _resolved(histories, as_of_us, present_us)

    def resolve_all(
        self, user_ids: Sequence[str], as_of_us: int | None = None
    ) -> dict[str, ResolvedUser]:
        """Stored state and live events of several users, as in `resolve`; the shelf is asked once.

        Returns:
            By user id, in the order of the first mention.
        """
        present_us = self.present_us
        live = {user: self._live(user) for user in dict.fromkeys(user_ids)}
        stored = self._stored(user_ids, as_of_us or present_us)
        return {
            user: _resolved(self._merged(user, stored.get(user), own), as_of_us, present_us)
            for user, own in live.items()
        }

    def check_events(self, events: Sequence[LiveEvent]) -> None:
        """Refuse fields that the company's event contract does not hold.

        Raises:
            ProblemError: 422, naming the place.
        """
        for position, event in enumerate(events):
            check_extra_fields(event.extras, self.predictor.manifest.event_fields, position)

    def check_times(self, events: Sequence[LiveEvent]) -> None:
        """Refuse events of a client's clock that is far ahead: the user's time of prediction would
        go there.

        Raises:
            ProblemError: 422, naming the place, what came and what is allowed.
        """
        latest_us = max(time.time_ns() // 1_000, self.present_us) + DAY_US
        for position, event in enumerate(events):
            if to_micros(event.event_time) > latest_us:
                message = (
                    f"{event.event_time.isoformat()} is later than a day from now; the latest time "
                    f"that is taken is {from_micros(latest_us).isoformat(timespec='seconds')}"
                )
                raise invalid(f"/events/{position}/event_time", message)

    def is_erased(self, user_id: str) -> bool:
        """Whether the user asked to be forgotten."""
        return is_suppressed(self.shelf.workspace, user_id)

    def _live(self, user_id: str) -> list[dict[str, Any]]:
        """A user's live events. They are read before the shelf: what a refresh moves there in
        between is then seen twice, and counted once, instead of never."""
        return [] if self.is_erased(user_id) else self.live_events.of_user(user_id)

    def _merged(
        self,
        user_id: str,
        stored: Histories | None,
        live: Sequence[Mapping[str, Any]],
        request: Sequence[Mapping[str, Any]] = (),
    ) -> Histories:
        vocabulary = self.predictor.vocabulary
        joined = stored or encode_events(vocabulary, user_id, [])
        if not live and not request:
            return joined
        for events in (live, request):
            if events:
                joined = merge(joined, encode_events(vocabulary, user_id, events))
        times = time_tokens(vocabulary, joined.times_us, joined.offsets)
        return replace(joined, tokens=joined.tokens | times)

    def _stored(self, user_ids: Sequence[str], at_us: int) -> dict[str, Histories]:
        """States from the shelf; those are absent that are erased, too old, or of another
        vocabulary.

        One is of another vocabulary between a publish and the moment when this replica takes over
        the bundle that was published for: no reason to refuse the user.
        """
        oldest = None
        if self.settings.max_state_age_days is not None:
            oldest = at_us - round(self.settings.max_state_age_days * DAY_US)
            if self.refreshed_us is not None and self.refreshed_us >= oldest:
                oldest = None  # a refresh leaves the rows of users who did nothing as they are
        asked = [user for user in dict.fromkeys(user_ids) if not self.is_erased(user)]
        states = online_states(self.shelf, asked, not_before_us=oldest)
        vocabulary = self.predictor.vocabulary
        return {
            user: state.histories.known_to(vocabulary)
            for user, state in zip(asked, states, strict=True)
            if state is not None and state.vocabulary_id == vocabulary.vocabulary_id
        }


def _resolved(histories: Histories, as_of_us: int | None, present_us: int) -> ResolvedUser:
    if as_of_us is None:
        as_of_us = max(present_us, int(histories.last_times_us[0]) + 1)
    return ResolvedUser(histories.before(as_of_us), as_of_us)


def _busy(detail: str) -> ProblemError:
    return ProblemError(503, detail, _RETRY_AFTER)


def as_of_micros(request: Any) -> int | None:
    """The asked prediction time of a request, if any."""
    return None if request.as_of is None else to_micros(request.as_of)


def check_extra_fields(
    extras: Mapping[str, ExtraValue], known: Mapping[str, SemanticType], position: int
) -> None:
    """Refuse extra fields that are unknown or of another type.

    Raises:
        ProblemError: 422, naming the place.
    """
    for name, value in extras.items():
        where = f"/events/{position}/{ascii_text(name)}"
        if name not in known:
            raise invalid(where, f"unknown key; this company's own fields are: {sorted(known)}")
        number = known[name] is SemanticType.NUMBER
        if value is not None and number is not isinstance(value, float):
            raise invalid(where, f"must be a {'number' if number else 'string'}")


def invalid(pointer: str, message: str) -> ProblemError:
    """A 422 that names one place."""
    return ProblemError(
        422, "1 problem(s) in the request.", errors=[{"pointer": pointer, "message": message}]
    )
