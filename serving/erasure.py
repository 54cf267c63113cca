"""Erasing a person from a whole workspace, composed here because this layer knows every room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from behavior_model.bundle import read_manifest
from feature_store.settings import Shelf
from pipelines import lake
from pipelines.contracts import BLANKS, TOKEN_SEQUENCES, USER_ID
from pipelines.erasure import user_hash
from pipelines.errors import UserError, WorkspaceError
from pipelines.flow import erasure_requests
from pipelines.flow.erasure_requests import ErasureRequest
from pipelines.flow.lock import lake_lock, workspace_lock
from pipelines.flow.markers import reissue, standings
from pipelines.flow.runner import SETTINGS_FILE, RunSettings, StageContext
from pipelines.workspace import Workspace
from serving.erasure_places import PLACES, Person, known_users
from serving.line import line


def erase(
    workspace: Workspace, user_id: str, *, grace_days: int = 0, now: datetime | None = None
) -> ErasureRequest:
    """Suppress a user at once, and erase the user when there is no time of grace.

    Killed at any moment, the same call finishes it. Intake runs once more; the stages after it that
    were done stay done: their models have learned from the user, the next training will not.

    Args:
        workspace: Where to erase.
        user_id: Outside id; blanks around it are no part of it.
        grace_days: Days before the data goes; `erase_due` does it then.
        now: The present; by the clock by default.

    Returns:
        The request: what was removed where, or when it is due. An earlier unfinished request of
        the same user goes on, and the earlier time counts.

    Raises:
        UserError: a blank id.
        WorkspaceError: another process works on this workspace; the user is suppressed and the
            request saved all the same, so that `erase_due` carries it out.
    """
    user_id = user_id.strip(BLANKS)
    if not user_id:
        raise UserError("--user is blank. Give the id of the user as the events table holds it.")
    now = now or datetime.now(UTC)
    digest = user_hash(user_id)
    request = erasure_requests.ask(workspace, digest, now, now + timedelta(days=grace_days))
    with _working_alone(workspace, request), lake_lock(workspace):
        request = replace(request, trained_with=_trained_with(workspace, user_id, request))
        erasure_requests.save(workspace, request)
        if request.due > now:
            return request
        return _carry_out(workspace, request, user_id, now)


def erase_due(workspace: Workspace, *, now: datetime | None = None) -> list[ErasureRequest]:
    """Carry out every request whose time of grace is over; gives them in order.

    Raises:
        WorkspaceError: another process works on this workspace.
    """
    now = now or datetime.now(UTC)
    with workspace_lock(workspace), lake_lock(workspace):
        due = [one for one in erasure_requests.pending(workspace) if one.due <= now]
        wanted = {one.user for one in due}
        names = {user_hash(user): user for user in _users_among(workspace, wanted)}
        return [_carry_out(workspace, one, names.get(one.user), now) for one in due]


def _users_among(workspace: Workspace, digests: set[str]) -> Iterator[str]:
    """The ids behind digests, found among all ids that the workspace holds."""
    if digests:
        yield from (user for user in known_users(workspace) if user_hash(user) in digests)


@contextmanager
def _working_alone(workspace: Workspace, request: ErasureRequest) -> Iterator[None]:
    """The workspace's lock; whom it refuses is told what was done all the same."""
    with ExitStack() as held:
        try:
            held.enter_context(workspace_lock(workspace))
        except WorkspaceError as error:
            raise WorkspaceError(
                f"{error} The user is kept out from now on, and request {request.request_id} is "
                f"saved: bfm erase --due --workspace {workspace.quoted} carries it out."
            ) from error
        yield


def _carry_out(
    workspace: Workspace, request: ErasureRequest, user_id: str | None, now: datetime
) -> ErasureRequest:
    """Remove a user from every place, keep the line's stages done, write the record."""
    stages, context = line(), _context(workspace)
    if context:
        before = standings(stages, context, request.standings)
        request = replace(request, standings=before)
    if user_id is not None:
        request = replace(request, trained_with=_trained_with(workspace, user_id, request))
    erasure_requests.save(workspace, request)
    person = Person(Shelf(workspace), user_id, request.user)
    for name, remove in PLACES.items():
        total = request.removed.get(name, 0) + remove(person)
        request = replace(request, removed={**request.removed, name: total})
        erasure_requests.save(workspace, request)
    if context:
        reissue(stages, context, request.standings)
    return erasure_requests.finish(workspace, request, now)


def _context(workspace: Workspace) -> StageContext | None:
    if not (workspace.root / SETTINGS_FILE).is_file():
        return None
    return StageContext(workspace, RunSettings.load(workspace))


def _trained_with(workspace: Workspace, user_id: str, request: ErasureRequest) -> tuple[str, ...]:
    """The versions known already and the present one, when the user is in the training data."""
    if not (workspace.bundle.is_dir() and workspace.table(TOKEN_SEQUENCES.name).is_dir()):
        return request.trained_with
    filters = [(USER_ID, "=", user_id)]
    if not lake.read(workspace, TOKEN_SEQUENCES.name, [USER_ID], filters).num_rows:
        return request.trained_with
    present = read_manifest(workspace.bundle).model_version
    return tuple(dict.fromkeys((*request.trained_with, present)))
