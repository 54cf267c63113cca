"""What sequences and labels were made from, and which users changed since."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pipelines import lake
from pipelines.contracts import EVENTS
from pipelines.erasure import suppressed_digests, user_hash
from pipelines.errors import WorkspaceError
from pipelines.workspace import Workspace, write_json_atomically

if TYPE_CHECKING:
    from pipelines.stages.changes import Changes

LEARNED: Final = "learned"
JUDGED: Final = "judged"
BEFORE_TRAINING, BEFORE_CUT, BEFORE_END = range(3)
"""Times before which changes are counted: the training cut, the test cut, the test window's end (no
head is judged by what happens after it)."""
_MADE_FROM: Final = "tokenized.json"


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """What sequences and labels were made from; written when both stand.

    Args:
        events_id: Identity of the events table.
        events_version: Its version.
        learned_version: The version that last changed events before the test cut.
        judged_version: The version that last changed events before the end of the test window.
        vocabulary_id: The vocabulary.
        as_of: The test cut.
        window_days: How far tasks look ahead.
        columns: Names and meanings of the company's columns of events.
        sequences_version: Version of the token sequences when all of them were made.
        num_items: Items that the vocabulary had; None: those that it was fitted with.
        carried: Changes after sequences were made and up to `events_version`, kept here because
            Delta holds them no more.
    """

    events_id: str
    events_version: int
    learned_version: int
    judged_version: int
    vocabulary_id: str
    as_of: str
    window_days: int
    columns: list[list[str]]
    sequences_version: int = 0
    num_items: int | None = None
    carried: Changes | None = None

    @property
    def times(self) -> tuple[datetime, datetime, datetime]:
        """The training cut, the test cut and the end of the test window."""
        cut, window = datetime.fromisoformat(self.as_of), timedelta(days=self.window_days)
        return cut - window, cut, cut + window

    def of_items(self, num_items: int) -> MadeFrom:
        """With so many items in the vocabulary."""
        return replace(self, num_items=num_items)

    @classmethod
    def load(cls, workspace: Workspace) -> MadeFrom | None:
        """What `save` wrote; None where rooms 3 and 4 have not finished."""
        path = workspace.root / _MADE_FROM
        if not path.is_file():
            return None
        row = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**row, "carried": _parse(row.get("carried"))})

    def save(self, workspace: Workspace) -> None:
        """Write whole or not at all."""
        write_json_atomically(workspace.root / _MADE_FROM, asdict(self))


def _parse(row: dict[str, Any] | None) -> Changes | None:
    from pipelines.stages.changes import Changes

    if row is None:
        return None
    tuples = {name: tuple(row[name]) for name in ("num_before", "users_before")}
    return Changes(**{**row, **tuples})


def pending_changes(workspace: Workspace, made: MadeFrom) -> Changes | None:
    """Changes of events since sequences were made; None when Delta does not hold all of them.

    Erased users are left out: their rows are taken out of sequences and labels as well.
    """
    from pipelines.stages.changes import changes_since

    path, erased = workspace.table(EVENTS.name), frozenset(suppressed_digests(workspace))
    later = changes_since(path, made.events_version, made.times, erased)
    return later if made.carried is None or later is None else made.carried.followed_by(later)


@contextlib.contextmanager
def changes_kept(workspace: Workspace) -> Iterator[None]:
    """While the past of the events is forgotten: what changed in it is carried.

    Without it the next new events would be a reason to make all sequences again, and so they are
    after a kill in the middle.
    """
    made = MadeFrom.load(workspace)
    pending = None if made is None else pending_changes(workspace, made)
    yield
    if made is None:
        return
    if pending is None:
        replace(made, carried=None).save(workspace)
        return
    erased = frozenset(suppressed_digests(workspace))
    known = {user for user in pending.user_ids if user_hash(user) not in erased}
    version = lake.version_of(workspace, EVENTS.name)
    replace(made, events_version=version, carried=pending.carried_for(known)).save(workspace)


def made_whole(workspace: Workspace) -> int:
    """Version of the token sequences when all of them were last made.

    Raises:
        WorkspaceError: rooms 3 and 4 have not finished here.
    """
    return _finished(workspace).sequences_version


def tokenized_stamp(workspace: Workspace) -> dict[str, Any]:
    """What later rooms learn from and are judged by; new events after it change neither.

    Raises:
        WorkspaceError: rooms 3 and 4 have not finished here.
    """
    made = _finished(workspace)
    return {
        LEARNED: {"id": made.events_id, "version": made.learned_version},
        JUDGED: {"id": made.events_id, "version": made.judged_version},
    }


def _finished(workspace: Workspace) -> MadeFrom:
    made = MadeFrom.load(workspace)
    if made is None:
        raise WorkspaceError(f"{workspace.root}: run 'bfm tokenize' first.")
    return made
