"""What customers typed, and what they took then: viewed, put in the cart or bought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.contracts import EVENT_ID, QUERY
from pipelines.tokens.binning import FIRST_IDX, SESSION_GAP_US, words
from pipelines.tokens.encoder import hash_event_ids
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary

Longs = npt.NDArray[np.int64]

MAX_TAKEN: Final = 20
"""Events with items that are put down to a query: who looks at more is strolling."""


@dataclass(frozen=True, eq=False)
class TypedQueries:
    """Q typed queries that something was taken after.

    Args:
        user_ids: Q outside ids of who typed.
        times_us: int64[Q], UTC microseconds.
        texts: Q texts, as `spelled` writes them.
        taken: Per query the distinct items, ascending by index, that its user took before they
            typed again or were silent for 30 minutes; that of the event itself among them.
    """

    user_ids: list[str]
    times_us: Longs
    texts: list[str]
    taken: list[Longs]

    def __len__(self) -> int:
        return len(self.texts)

    def between(self, start_us: int, stop_us: int) -> TypedQueries:
        """Those that were typed at or after one time and before another."""
        return self.rows(np.flatnonzero((self.times_us >= start_us) & (self.times_us < stop_us)))

    def rows(self, positions: Longs) -> TypedQueries:
        """Those at the given positions, in that order."""
        chosen = positions.tolist()
        return TypedQueries(
            user_ids=[self.user_ids[i] for i in chosen],
            times_us=self.times_us[positions],
            texts=[self.texts[i] for i in chosen],
            taken=[self.taken[i] for i in chosen],
        )


NOTHING_TYPED: Final = TypedQueries([], np.zeros(0, dtype=np.int64), [], [])


def spelled(text: str) -> str:
    """A text as search compares it: its words in small letters, one blank between them."""
    return " ".join(words(text))


def find_typed_queries(
    histories: Histories, vocabulary: Vocabulary, events: pa.Table
) -> TypedQueries:
    """Typed queries in order of user and time; those without a word, or without an item taken
    after them, are left out.

    Args:
        histories: U users, whole.
        vocabulary: What they were encoded with.
        events: Canonical events that carry a query, of any users: their ids and texts.
    """
    typed, texts = _texts_at(histories, events)
    new_users = np.flatnonzero(np.diff(histories.user_positions, prepend=-1))
    silences = np.flatnonzero(np.diff(histories.times_us) > SESSION_GAP_US) + 1
    stops = np.unique(np.concatenate([typed, new_users, silences, [histories.num_events]]))
    ends = stops[np.searchsorted(stops, typed, side="right")]
    items = histories.tokens[vocabulary.item_field]
    places = np.flatnonzero(items >= FIRST_IDX)
    first = np.searchsorted(places, typed)
    last = np.minimum(np.searchsorted(places, ends), first + MAX_TAKEN)
    taken = items[places].astype(np.int64)
    kept = [i for i in np.flatnonzero(last > first).tolist() if texts[i]]
    users = histories.user_positions[typed]
    return TypedQueries(
        user_ids=[histories.user_ids[users[i]] for i in kept],
        times_us=histories.times_us[typed[kept]],
        texts=[texts[i] for i in kept],
        taken=[np.unique(taken[first[i] : last[i]]) for i in kept],
    )


def _texts_at(histories: Histories, events: pa.Table) -> tuple[Longs, list[str]]:
    """Positions of typed queries among the events of histories, ascending, and their texts."""
    hashes = hash_event_ids(events.column(EVENT_ID))
    order = np.argsort(hashes, kind="stable")
    typed = np.flatnonzero(np.isin(histories.event_hashes, hashes))
    rows = order[np.searchsorted(hashes[order], histories.event_hashes[typed])]
    texts = events.column(QUERY).take(pa.array(rows)).to_pylist()
    return typed, [spelled(text) for text in texts]
