"""Histories: the encoded events of many users in one ragged, columnar structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from pipelines.contracts import (
    AMOUNTS,
    EVENT_HASHES,
    NUM_EVENTS,
    QUANTITIES,
    TIMES_US,
    TOKEN_PREFIX,
    USER_ID,
    VOCABULARY_ID,
)
from pipelines.tokens.binning import UNKNOWN_IDX, Ints, Longs
from pipelines.tokens.vocabulary import Vocabulary

T = TypeVar("T", bound=np.generic)

Floats = npt.NDArray[np.float32]
_PER_EVENT: Final = ("times_us", "event_hashes", "amounts", "quantities")


@dataclass(frozen=True, eq=False)
class Histories:
    """Encoded histories of U users with N events in all.

    Args:
        user_ids: U outside ids.
        offsets: int64[U + 1]; the events of user u are offsets[u]:offsets[u + 1].
        times_us: int64[N], UTC microseconds, ascending within a user.
        event_hashes: int64[N], hashes of event ids.
        amounts: float32[N], money of the event, NaN where missing.
        quantities: float32[N], NaN where missing.
        tokens: int32[N] per token field of the vocabulary, in its order.
    """

    user_ids: list[str]
    offsets: Longs
    times_us: Longs
    event_hashes: Longs
    amounts: Floats
    quantities: Floats
    tokens: dict[str, Ints]

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def num_events(self) -> int:
        return len(self.times_us)

    @property
    def lengths(self) -> Longs:
        """int64[U]: events per user."""
        return np.diff(self.offsets)

    @property
    def user_positions(self) -> Longs:
        """int64[N]: position of the user of each event."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def last_times_us(self) -> Longs:
        """int64[U]: time of each user's last event, -1 where there is none."""
        last = np.full(len(self), -1, dtype=np.int64)
        some = self.lengths > 0
        last[some] = self.times_us[self.offsets[1:][some] - 1]
        return last

    def before(self, prediction_times_us: int | Longs) -> Histories:
        """Only events strictly before a prediction time (one for all, or int64[U])."""
        limits = np.broadcast_to(np.asarray(prediction_times_us, dtype=np.int64), len(self))
        return self._keep(self.times_us < np.repeat(limits, self.lengths))

    def since(self, time_us: int) -> Histories:
        """Only events at or after a time."""
        return self._keep(self.times_us >= time_us)

    def tail(self, num_events: int) -> Histories:
        """The last `num_events` events of each user."""
        ends = np.repeat(self.offsets[1:], self.lengths)
        return self._keep(np.arange(self.num_events) >= ends - num_events)

    def select(self, positions: Sequence[int] | Longs) -> Histories:
        """Users at the given positions, in that order."""
        chosen = np.asarray(positions, dtype=np.int64)
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return replace(
            self._take(rows), user_ids=[self.user_ids[i] for i in chosen], offsets=offsets
        )

    def only(self, user_ids: Sequence[str]) -> Histories:
        """The given users in that order; users not present are left out."""
        position = {user: i for i, user in enumerate(self.user_ids)}
        return self.select([position[user] for user in user_ids if user in position])

    def known_to(self, vocabulary: Vocabulary) -> Histories:
        """As a vocabulary encodes them: items that were added to it later are unknown items."""
        name = vocabulary.item_field
        items = self.tokens[name]
        beyond = items >= vocabulary.num_item_indices
        if not beyond.any():
            return self
        known = np.where(beyond, UNKNOWN_IDX, items).astype(items.dtype)
        return replace(self, tokens={**self.tokens, name: known})

    def non_empty(self) -> Histories:
        """Users with at least one event."""
        return self.select(np.flatnonzero(self.lengths > 0))

    def followed_by(self, later: Histories) -> Histories:
        """The events of the same users, and behind them those of `later`.

        The time fields of what comes behind must be made again (`encoder.time_tokens`).

        Args:
            later: The same users in the same order; every event comes after all of the user's here.
        """
        offsets = self.offsets + later.offsets
        before = np.arange(self.num_events) + np.repeat(later.offsets[:-1], self.lengths)
        behind = np.arange(later.num_events) + np.repeat(self.offsets[1:], later.lengths)

        def laid(first: npt.NDArray[T], second: npt.NDArray[T]) -> npt.NDArray[T]:
            values = np.empty(offsets[-1], dtype=first.dtype)
            values[before], values[behind] = first, second
            return values

        return Histories(
            user_ids=self.user_ids,
            offsets=offsets,
            tokens={name: laid(own, later.tokens[name]) for name, own in self.tokens.items()},
            **{name: laid(getattr(self, name), getattr(later, name)) for name in _PER_EVENT},
        )

    def _keep(self, mask: npt.NDArray[np.bool_]) -> Histories:
        kept = np.concatenate([[0], np.cumsum(mask)]).astype(np.int64)
        return replace(self._take(np.flatnonzero(mask)), offsets=kept[self.offsets])

    def _take(self, rows: Longs) -> Histories:
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in _PER_EVENT},
            tokens={name: column[rows] for name, column in self.tokens.items()},
        )

    def to_arrow(self, vocabulary_id: str) -> pa.Table:
        """The rows of `token_sequences`."""
        offsets = pa.array(self.offsets, type=pa.int32())

        def ragged(values: npt.NDArray[np.generic]) -> pa.Array:
            return pa.ListArray.from_arrays(offsets, pa.array(values))

        columns: dict[str, pa.Array] = {
            USER_ID: pa.array(self.user_ids, type=pa.string()),
            VOCABULARY_ID: pa.array([vocabulary_id] * len(self), type=pa.string()),
            NUM_EVENTS: pa.array(self.lengths.astype(np.int32)),
            TIMES_US: ragged(self.times_us),
            EVENT_HASHES: ragged(self.event_hashes),
            AMOUNTS: ragged(self.amounts),
            QUANTITIES: ragged(self.quantities),
        }
        for name, values in self.tokens.items():
            columns[f"{TOKEN_PREFIX}{name}"] = ragged(values)
        return pa.table(columns)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Histories:
        """Histories from rows of `token_sequences`."""
        lengths = np.asarray(table.column(NUM_EVENTS).to_numpy(), dtype=np.int64)

        def flat(name: str) -> npt.NDArray[np.generic]:
            column = table.column(name).combine_chunks()
            if isinstance(column, pa.ChunkedArray):
                arrays = [chunk.flatten() for chunk in column.chunks]
                flattened = pa.chunked_array(arrays, type=column.type.value_type)
                return np.asarray(flattened.to_numpy())
            return np.asarray(column.flatten().to_numpy(zero_copy_only=False))

        names = [n for n in table.column_names if n.startswith(TOKEN_PREFIX)]
        return cls(
            user_ids=table.column(USER_ID).to_pylist(),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            times_us=flat(TIMES_US).astype(np.int64),
            event_hashes=flat(EVENT_HASHES).astype(np.int64),
            amounts=flat(AMOUNTS).astype(np.float32),
            quantities=flat(QUANTITIES).astype(np.float32),
            tokens={n.removeprefix(TOKEN_PREFIX): flat(n).astype(np.int32) for n in names},
        )

    def to_bytes(self, vocabulary_id: str) -> bytes:
        """Arrow IPC with zstd: what the online store keeps per user."""
        table = self.to_arrow(vocabulary_id)
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, content: bytes) -> tuple[Histories, str]:
        """Histories and the id of the vocabulary that they were encoded with."""
        table = pa.ipc.open_stream(content).read_all()
        return cls.from_arrow(table), table.column(VOCABULARY_ID)[0].as_py()


def stacked(parts: Sequence[Histories]) -> Histories:
    """The users of all parts, one part behind the other; there is one part at least."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Histories(
        user_ids=[user for part in parts for user in part.user_ids],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens={n: np.concatenate([part.tokens[n] for part in parts]) for n in parts[0].tokens},
        **{n: np.concatenate([getattr(part, n) for part in parts]) for n in _PER_EVENT},
    )


def merge(first: Histories, second: Histories) -> Histories:
    """Events of both for the users of `first`, sorted by time; of twins the one of `first` stays,
    also when its time is the later one.

    The time fields of the result must be made again (`encoder.time_tokens`), since the event
    before another may have changed.
    """
    other = second.only(first.user_ids)
    position = {user: i for i, user in enumerate(first.user_ids)}
    users = np.concatenate(
        [
            first.user_positions,
            np.asarray([position[u] for u in other.user_ids], dtype=np.int64)[other.user_positions],
        ]
    )
    joined = {
        name: np.concatenate([getattr(first, name), getattr(other, name)]) for name in _PER_EVENT
    }
    tokens = {n: np.concatenate([first.tokens[n], other.tokens[n]]) for n in first.tokens}
    single = _first_of_twins(users, joined["event_hashes"])
    keep = single[np.lexsort((joined["times_us"][single], users[single]))]
    counts = np.bincount(users[keep], minlength=len(first))
    return Histories(
        user_ids=first.user_ids,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        tokens={n: column[keep] for n, column in tokens.items()},
        **{name: column[keep] for name, column in joined.items()},
    )


def _first_of_twins(users: Longs, hashes: Longs) -> Longs:
    """Positions of events, ascending, without those whose twin stands before them."""
    pairs = np.stack([users, hashes], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    return np.sort(first)
