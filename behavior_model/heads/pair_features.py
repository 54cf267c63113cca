"""What memories and transformer say of each user's candidates: the ranker's table.

A row depends on its user's own history and on fitted memories alone, never on other users asked
for in the same call, so batch scoring and the counter get the same numbers from this one function.

Legend: U users, R known targets, P pairs, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.heads import candidates as quota
from behavior_model.heads.transformer_scores import TransformerScores
from behavior_model.memory.collective import ITEM_COLUMNS, CollectiveMemory, PairScores
from behavior_model.memory.content import ContentMemory
from behavior_model.memory.own import (
    MISSING_PAIR,
    Columns,
    PairTable,
    own_groups,
    own_pairs,
    own_users,
    seen_pairs,
)
from behavior_model.memory.purchases import NEVER_DAYS, Doubles, Longs, Purchases

Floats = npt.NDArray[np.float32]

CHUNK_USERS: Final = 256


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """One row per candidate of a user, sorted by user and target.

    Args:
        users: int64[P], position of the user.
        targets: int64[P].
        values: float32[P, F], NaN where unknown.
        names: F names; the part before the slash names the memory.
    """

    users: Longs
    targets: Longs
    values: Floats
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.users)

    def column(self, name: str) -> Floats:
        """float32[P]."""
        return self.values[:, self.names.index(name)]

    def with_users(self, names: Sequence[str], values: Floats) -> FeatureTable:
        """Further columns, float32[U, len(names)], that are alike for all rows of a user."""
        joined = np.concatenate([self.values, values[self.users]], axis=1)
        return FeatureTable(self.users, self.targets, joined, (*self.names, *names))

    def rows(self, chosen: npt.NDArray[np.bool_] | Longs) -> FeatureTable:
        """Some rows."""
        return FeatureTable(
            self.users[chosen], self.targets[chosen], self.values[chosen], self.names
        )


@dataclass(frozen=True, eq=False)
class Memories:
    """What the features are read from.

    Args:
        collective: Statistics of many users.
        group_of_target: int64[T], the category of each item; all -1 for categories.
        content: Texts of items; None where targets have none.
    """

    collective: CollectiveMemory
    group_of_target: Longs
    content: ContentMemory | None

    @property
    def num_groups(self) -> int:
        """One more than the largest group."""
        return int(self.group_of_target.max(initial=0)) + 1

    @cached_property
    def unsold(self) -> Longs:
        """int64[]: items with a text that hardly anybody bought yet."""
        if self.content is None:
            return np.zeros(0, dtype=np.int64)
        unknown = self.collective.position < 0
        return np.flatnonzero(unknown & self.content.texts.any(axis=1))


def pair_features(
    purchases: Purchases,
    memories: Memories,
    transformer: TransformerScores | None,
    k: int = 10,
    targets: Longs | None = None,
    *,
    exclude_owned: bool = False,
) -> FeatureTable:
    """Candidates and their features, a few hundred users at a time.

    Args:
        purchases: U users at their prediction times.
        memories: Fitted memories.
        transformer: Aligned to the users; None leaves its columns unknown.
        k: Length of the lists that will be asked for.
        targets: int64[], ascending; candidates of every user. None: each user has their own.
        exclude_owned: Of their own candidates, only what a user never bought, as many as without.
    """
    tables = []
    for start in range(0, max(purchases.num_users, 1), CHUNK_USERS):
        stop = min(start + CHUNK_USERS, purchases.num_users)
        opinion = transformer.users_between(start, stop) if transformer else None
        users = purchases.users_between(start, stop)
        table = _chunk(users, memories, opinion, k, targets, exclude_owned=exclude_owned)
        tables.append((table, start))
    return FeatureTable(
        users=np.concatenate([table.users + start for table, start in tables]),
        targets=np.concatenate([table.targets for table, _ in tables]),
        values=np.concatenate([table.values for table, _ in tables]),
        names=tables[0][0].names,
    )


@dataclass(frozen=True, eq=False)
class _Sources:
    """What candidates of U users are taken from; arguments as in `heads.candidates`."""

    own: PairTable
    seen: PairTable
    scores: PairScores
    profiles: Floats | None
    logits: Floats | None

    def without(self, owned: Longs, collective: CollectiveMemory, num_targets: int) -> _Sources:
        """The same without the pairs `user * T + target` of `owned`: what comes after them in each
        source fills its quota."""
        users, targets = np.divmod(owned, num_targets)
        columns = collective.position[targets]
        cells = (users[columns >= 0], columns[columns >= 0])
        follow, accompany = self.scores.follow.copy(), self.scores.accompany.copy()
        follow[cells] = accompany[cells] = 0.0
        logits = None if self.logits is None else self.logits.copy()
        if logits is not None:
            logits[cells] = -np.inf
        return _Sources(
            own=self.own.rows(~np.isin(self.own.keys, owned)),
            seen=self.seen.rows(~np.isin(self.seen.keys, owned)),
            scores=replace(self.scores, follow=follow, accompany=accompany),
            profiles=self.profiles,
            logits=logits,
        )


def _chunk(
    purchases: Purchases,
    memories: Memories,
    transformer: TransformerScores | None,
    k: int,
    given: Longs | None,
    *,
    exclude_owned: bool,
) -> FeatureTable:
    own, seen = own_pairs(purchases), seen_pairs(purchases)
    scores = memories.collective.pair_scores(purchases)
    profiles = memories.content.profiles(purchases) if memories.content else None
    logits = transformer.of_targets(memories.collective.known) if transformer else None
    if given is not None:
        keys = purchases.keys_of_all(given)
    else:
        sources = _Sources(own, seen, scores, profiles, logits)
        left_out = own.keys if exclude_owned else own.keys[:0]
        keys = _candidates(purchases, memories, sources, k, left_out)
    users, targets = keys // purchases.num_targets, keys % purchases.num_targets
    columns = _own_columns(purchases, memories, own, seen, keys)
    columns |= _collective_columns(memories.collective, scores, users, targets)
    columns["own/paid"] = columns.pop("own/unit_price") - columns["collective/typical_price"]
    columns |= _content_columns(purchases, memories.content, profiles, users, targets)
    groups = memories.group_of_target[targets]
    columns |= _transformer_columns(transformer, logits, users, targets, groups)
    values = np.stack([column.astype(np.float32) for column in columns.values()], axis=1)
    return FeatureTable(users, targets, values, tuple(columns))


def _candidates(
    purchases: Purchases, memories: Memories, sources: _Sources, k: int, left_out: Longs
) -> Longs:
    """int64[P]: keys `user * T + target`, none of `left_out` among them."""
    collective, num_targets = memories.collective, purchases.num_targets
    if len(left_out):
        sources = sources.without(left_out, collective, num_targets)
    keys = [
        quota.own_candidates(sources.own, "decayed_112d", num_targets, max(quota.NUM_OWN, k)),
        quota.own_candidates(sources.seen, "seen", num_targets, quota.NUM_SEEN),
    ]
    num_popular = max(quota.NUM_POPULAR, k)
    lists = [
        quota.popular_candidates(collective, purchases, num_popular, left_out),
        quota.collective_candidates(collective, sources.scores),
    ]
    if sources.logits is not None:
        lists.append(quota.transformer_candidates(collective, sources.logits))
    if memories.content is not None and sources.profiles is not None:
        found = quota.unsold_candidates(memories.content, memories.unsold, sources.profiles)
        lists.append(found)
    merged = quota.merge_candidates(purchases, np.concatenate(keys), lists)
    return np.setdiff1d(merged, left_out, assume_unique=True)


def _own_columns(
    purchases: Purchases, memories: Memories, own: PairTable, seen: PairTable, keys: Longs
) -> Columns:
    users = keys // purchases.num_targets
    columns = {f"own/{name}": values for name, values in own.at(keys, MISSING_PAIR).items()}
    missing = {"seen_recency": NEVER_DAYS}
    columns |= {f"own/{name}": values for name, values in seen.at(keys, missing).items()}
    for name, values in own_users(purchases).items():
        columns[f"own/user_{name}"] = values[users]
    columns["own/expected"] = columns["own/per_visit"] * columns["own/user_visits_56d"]
    groups = own_groups(purchases, memories.group_of_target, memories.num_groups)
    of_target = memories.group_of_target[keys % purchases.num_targets]
    columns |= _group_columns(groups, "own/group", memories.num_groups, users, of_target, columns)
    return columns


def _group_columns(
    table: PairTable, prefix: str, num_groups: int, users: Longs, groups: Longs, pairs: Columns
) -> Columns:
    """What the user did with the group of each target, and the target's share of it."""
    keys = np.where(groups >= 0, users * num_groups + groups, -1)
    found = table.at(keys, {"recency": NEVER_DAYS})
    columns = {f"{prefix}_{name}": values for name, values in found.items()}
    columns[f"{prefix}_share"] = pairs["own/count"] / np.maximum(found["count"], 1.0)
    decayed = pairs["own/decayed_56d"] / np.maximum(found["decayed_56d"], 1e-3)
    columns[f"{prefix}_decayed_share"] = decayed
    return columns


def _collective_columns(
    collective: CollectiveMemory, scores: PairScores, users: Longs, targets: Longs
) -> Columns:
    positions = collective.position[targets]
    known = positions >= 0
    places = np.maximum(positions, 0)
    statistics = collective.items[targets]
    columns: Columns = {
        f"collective/{name}": statistics[:, i] for i, name in enumerate(ITEM_COLUMNS)
    }
    if len(collective.known) == 0:
        nothing = np.zeros(len(targets))
        return columns | {f"collective/{n}": nothing for n in ("follow", "accompany", "taste")}
    taste = np.einsum("ij,ij->i", scores.tastes[users], collective.factors[places])
    columns["collective/follow"] = np.where(known, scores.follow[users, places], 0.0)
    columns["collective/accompany"] = np.where(known, scores.accompany[users, places], 0.0)
    columns["collective/taste"] = np.where(known, taste, 0.0)
    return columns


def _content_columns(
    purchases: Purchases,
    content: ContentMemory | None,
    profiles: Floats | None,
    users: Longs,
    targets: Longs,
) -> Columns:
    if content is None or profiles is None:
        return {}
    likeness = np.einsum("ij,ij->i", profiles[users], content.texts[targets])
    kinds = np.where(content.kinds == 0, -1, content.kinds)
    table = own_groups(purchases, kinds, content.num_kinds)
    keys = users * content.num_kinds + kinds[targets]
    found = table.at(np.where(kinds[targets] >= 0, keys, -1), {"recency": NEVER_DAYS})
    columns: Columns = {"content/likeness": likeness.astype(np.float64)}
    return columns | {f"content/kind_{name}": values for name, values in found.items()}


def _transformer_columns(
    transformer: TransformerScores | None,
    logits: Floats | None,
    users: Longs,
    targets: Longs,
    groups: Longs,
) -> Columns:
    if transformer is None or logits is None:
        unknown: Doubles = np.full(len(users), np.nan)
        return {f"transformer/{n}": unknown for n in ("logit", "log_share", "group_logit")}
    pairs = transformer.of_pairs(users, targets).astype(np.float64)
    if logits.shape[1] == 0:
        totals = np.zeros(len(logits))
    else:
        peaks = logits.max(axis=1)
        totals = peaks + np.log(np.exp(logits - peaks[:, None]).sum(axis=1))
    return {
        "transformer/logit": pairs,
        "transformer/log_share": pairs - totals[users],
        "transformer/group_logit": transformer.of_groups(users, groups).astype(np.float64),
    }
