"""New events behind what users did before: their sequences are lengthened, not encoded again.

Encoding depends on an event and on the one before it, so the tokens of older events stay what they
are. This process does it, without Spark, where few users have new events and nothing else changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from pipelines import lake
from pipelines.contracts import EVENTS, GENERATION, NUM_EVENTS, TOKEN_SEQUENCES, USER_ID
from pipelines.stages.changes import UNREADABLE, inserted_since
from pipelines.stages.sequences import encode_sorted, read_columns
from pipelines.stages.small_merge import append
from pipelines.stages.user_ranges import sorted_events
from pipelines.tokens.encoder import time_tokens
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace

MAX_EVENTS: Final = 2_000_000
FEW_USERS: Final = 50_000
MAX_STORED: Final = 15_000_000
"""So many new and, of more than a few users, older events one process holds; more are encoded again
by Spark's tasks."""


def lengthen(
    workspace: Workspace, version: int, vocabulary: Vocabulary, user_ids: Sequence[str]
) -> list[str]:
    """Add rows of users whose new events all come after their older ones; gives those users.

    Args:
        workspace: Where events and token sequences are.
        version: Version of the events that the stored sequences were made of.
        vocabulary: The frozen vocabulary that they were encoded with.
        user_ids: Users whose events were added to and not changed otherwise since.
    """
    if not user_ids:
        return []
    if len(user_ids) > FEW_USERS and _num_stored(workspace, user_ids) > MAX_STORED:
        return []
    new = _new_events(workspace.table(EVENTS.name), version, vocabulary, user_ids)
    if new is None:
        return []
    later = encode_sorted(new, vocabulary)
    earlier = _stored(workspace, later)
    behind = earlier.last_times_us < later.times_us[later.offsets[:-1]]
    chosen = np.flatnonzero(behind)
    whole = earlier.select(chosen).followed_by(later.select(chosen))
    times = time_tokens(vocabulary, whole.times_us, whole.offsets)
    if len(whole):
        path = workspace.table(TOKEN_SEQUENCES.name)
        rows = replace(whole, tokens=whole.tokens | times).to_arrow(vocabulary.vocabulary_id)
        generation = np.full(len(whole), DeltaTable(str(path)).version() + 1)
        append(rows.append_column(GENERATION, pa.array(generation)), path, [USER_ID])
    return whole.user_ids


def _num_stored(workspace: Workspace, user_ids: Sequence[str]) -> int:
    filters = [(USER_ID, "in", user_ids)]
    rows = lake.read(workspace, TOKEN_SEQUENCES.name, [NUM_EVENTS], filters=filters)
    return int(pc.sum(rows.column(NUM_EVENTS), min_count=0).as_py())


def _new_events(
    events: Path, version: int, vocabulary: Vocabulary, user_ids: Sequence[str]
) -> pa.Table | None:
    """Their events since a version; None where there are many, or Delta holds them no more."""
    wanted = pa.array(user_ids, type=pa.string())
    parts: list[pa.Table] = []
    try:
        for rows in inserted_since(events, version, read_columns(vocabulary)):
            parts.append(rows.filter(pc.is_in(rows.column(USER_ID), value_set=wanted)))
            if sum(part.num_rows for part in parts) > MAX_EVENTS:
                return None
    except UNREADABLE:
        return None
    return sorted_events(pa.concat_tables(parts)) if parts else None


def _stored(workspace: Workspace, later: Histories) -> Histories:
    """The stored histories of the same users in the same order; empty ones of new users."""
    filters = [(USER_ID, "in", later.user_ids)]
    rows = lake.read(workspace, TOKEN_SEQUENCES.name, filters=filters)
    stored = Histories.from_arrow(rows)
    position = {user: place for place, user in enumerate(stored.user_ids)}
    fresh = [user for user in later.user_ids if user not in position]
    ends = np.full(len(fresh), stored.offsets[-1])
    known = replace(
        stored,
        user_ids=[*stored.user_ids, *fresh],
        offsets=np.concatenate([stored.offsets, ends]).astype(np.int64),
    )
    return known.only(later.user_ids)
