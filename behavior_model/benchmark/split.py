"""How histories are divided: what is known at validation and at test, and what comes next.

Legend: U users.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from behavior_model.benchmark.interactions import NO_ITEM, Bools, Interactions, Longs
from pipelines.errors import SourceError, UserError

LEAVE_ONE_OUT: Final = "leave-one-out"
LAST: Final = "the last interaction of each user"
MAX_HIDDEN: Final = 0.2
"""Of the interactions known at the test, how many validation may hide."""

MIN_JUDGED: Final = 200
"""So many users are judged at validation, if there are so many, whatever they hide."""


class Cutoff(Protocol):
    """Where known histories end; its repr is part of the identity of a training."""

    def history(self, full: Interactions) -> Interactions:
        """The first interactions of each user, up to the cutoff."""


@dataclass(frozen=True)
class BeforeLast:
    """Each user's history ends before the last interactions.

    Args:
        num: How many are hidden.
    """

    num: int

    def history(self, full: Interactions) -> Interactions:
        """All but the last `num` interactions of each user."""
        return full.without_last(self.num)


@dataclass(frozen=True)
class BeforeLastOfSome:
    """Each user's history ends before the last interaction, that of some users before the last two.

    Args:
        share: Of the users with three interactions or more, drawn evenly.
    """

    share: float

    def chosen(self, full: Interactions) -> Bools:
        """bool[U]: users of whom two are hidden; the same whenever it is asked."""
        drawn = np.random.default_rng(0).random(len(full)) < self.share
        return np.asarray(drawn & (full.lengths > 2), dtype=np.bool_)

    def history(self, full: Interactions) -> Interactions:
        """All but the last one or two interactions of each user."""
        num_hidden = 1 + self.chosen(full)
        return full.where(full.places_from_end >= num_hidden[full.users])


@dataclass(frozen=True)
class BeforeTime:
    """All histories end at one time.

    Args:
        time: In the type of the file; what happened at that very time is hidden.
    """

    time: Any

    def history(self, full: Interactions) -> Interactions:
        """What happened before the time."""
        return full.before(self.time)


@dataclass(frozen=True, eq=False, kw_only=True)
class Fold:
    """What is known at a cutoff, and the next item of each user that is judged.

    Args:
        name: "validation" or "test".
        cutoff: Where the history ends.
        history: What may be learned from, all U users in it.
        truth: int64[U], NO_ITEM for users that are not judged.
    """

    name: str
    cutoff: Cutoff
    history: Interactions
    truth: Longs

    @property
    def judged(self) -> Bools:
        """bool[U]: users with a true item."""
        return np.asarray(self.truth != NO_ITEM, dtype=np.bool_)

    def __str__(self) -> str:
        known = self.history.lengths > 0
        return (
            f"{self.name}: {self.judged.sum():,} users judged; left out: "
            f"{(~self.judged & ~known).sum():,} without history before the cut, "
            f"{(~self.judged & known).sum():,} with nothing to find after it"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Validation, where mixtures and knobs are chosen, and the test after it.

    Args:
        name: What the protocol is called.
        cut: Where the test begins: a time of the file, or words.
        validation: Ends before the test items.
        test: What is judged.
    """

    name: str
    cut: str
    validation: Fold
    test: Fold


Splitter = Callable[[Interactions], Split]


def leave_one_out(full: Interactions) -> Split:
    """The last item of each user is the test item, the second last the validation item.

    Where histories are so short that all validation items together are more than `MAX_HIDDEN` of
    what is known at the test, only some users are judged at validation, and the others keep theirs:
    a mixture that is learned where next to nothing is known does not fit the test. For the same
    reason users with two interactions, of whom nothing would be left, are never judged there.
    """
    test = _without_last("test", 1, full)
    return Split(name=LEAVE_ONE_OUT, cut=LAST, validation=_validation(full, test), test=test)


def _validation(full: Interactions, test: Fold) -> Fold:
    num_users = int(np.count_nonzero(full.lengths > 2))
    may_hide = max(MAX_HIDDEN * test.history.num_events, MIN_JUDGED)
    if num_users <= may_hide and not (full.lengths == 2).any():
        return _without_last("validation", 2, full)
    cutoff = BeforeLastOfSome(min(may_hide / max(num_users, 1), 1.0))
    truth = np.where(cutoff.chosen(full), full.last(1), NO_ITEM)
    return Fold(name="validation", cutoff=cutoff, history=cutoff.history(full), truth=truth)


def time_split(full: Interactions, *, test_share: float) -> Split:
    """One point in time for all users; a user's first item from then on is the true one.

    The test begins where the last `test_share` of all interactions does, the validation where the
    last `test_share` of those before the test does. Interactions of one time are not torn apart:
    those at the cut come after it. Users without an interaction on either side are not judged.

    Args:
        full: All interactions, with event times.
        test_share: Of the interactions, between 0 and 1.

    Raises:
        UserError: the share is not between 0 and 1.
        SourceError: the interactions have no event times, or a cut leaves nobody to judge.
    """
    if not 0 < test_share < 1:
        raise UserError(f"--test-share {test_share}: give a number between 0 and 1.")
    test_cut = _start_of_last(test_share, full)
    test = _from_time("test", test_cut, full)
    validation_cut = _start_of_last(test_share, test.history)
    return Split(
        name="time-split",
        cut=str(test_cut),
        validation=_from_time("validation", validation_cut, test.history),
        test=test,
    )


def _without_last(name: str, num: int, full: Interactions) -> Fold:
    """The `num`-th item from the end of each user is the true one."""
    cutoff = BeforeLast(num)
    return Fold(name=name, cutoff=cutoff, history=cutoff.history(full), truth=full.last(num - 1))


def _start_of_last(share: float, interactions: Interactions) -> Any:
    """The time at which the last share of the interactions begins."""
    num_last = max(round(share * interactions.num_events), 1)
    return np.sort(interactions.known_times())[-num_last]


def _from_time(name: str, time: Any, known: Interactions) -> Fold:
    """The first item from a time on, of each user with a history before it, is the true one."""
    cutoff = BeforeTime(time)
    history = cutoff.history(known)
    truth = np.where(history.lengths > 0, known.first_after(history), NO_ITEM)
    if (truth == NO_ITEM).all():
        raise SourceError(
            f"The {name} begins at {time}, and no user has interactions both before and after "
            f"that. Give another --test-share, or use `bfm bench leave-one-out`."
        )
    return Fold(name=name, cutoff=cutoff, history=history, truth=truth)
