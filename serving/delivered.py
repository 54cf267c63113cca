"""Live events leave the counter when the shelf holds them, or when no table brought them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Final

import numpy as np
import pyarrow as pa

from pipelines import lake
from pipelines.contracts import EVENT_HASHES, TIMES_US, TOKEN_SEQUENCES, USER_ID
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.encoder import hash_event_ids
from pipelines.workspace import Workspace
from serving.live_events import LiveEvents

WAIT_DAYS: Final = 90
"""So long after it was received an event may reach the lake; until then it is kept here."""


def remove_delivered(workspace: Workspace, as_of_us: int, say: Callable[[str], None]) -> None:
    """Remove live events that stand in the users' published histories.

    An event that no table has delivered stays, and counts in answers, until the shelf is
    `WAIT_DAYS` past the day on which it was received: a late batch loses nothing. Then it goes, and
    that is said. Killed at any moment, the same call finishes it.

    Args:
        workspace: Its shelf was just published or refreshed from its token sequences.
        as_of_us: Prediction time of the shelf, UTC microseconds.
        say: Takes a line for the user.
    """
    if not workspace.live_events_path.is_file():
        return
    with closing(LiveEvents(workspace.live_events_path)) as events:
        live = events.ids_by_user()
        delivered = events.remove(list(_delivered(workspace, live, as_of_us)))
        undelivered = events.remove_received_before(as_of_us - WAIT_DAYS * DAY_US)
    if delivered or undelivered:
        say(
            f"  live events: {delivered:,} are on the shelf now, {undelivered:,} came in no table "
            f"within {WAIT_DAYS} days; both removed"
        )


def _delivered(workspace: Workspace, live: Mapping[str, list[str]], as_of_us: int) -> Iterator[str]:
    """Ids of live events that their users' sequences hold before a prediction time."""
    if not live:
        return
    columns = [USER_ID, TIMES_US, EVENT_HASHES]
    rows = lake.read(workspace, TOKEN_SEQUENCES.name, columns, [(USER_ID, "in", list(live))])
    for row in rows.to_batches(max_chunksize=1):
        times, hashes = (row.column(name)[0].values.to_numpy() for name in columns[1:])
        ids = live[row.column(USER_ID)[0].as_py()]
        known = np.isin(hash_event_ids(pa.array(ids)), hashes[times < as_of_us])
        yield from (ids[i] for i in np.flatnonzero(known))
