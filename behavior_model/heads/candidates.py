"""Which targets are worth scoring for a user: a quota from every memory, so that no kind of company
is left out (repeat buying, sparse catalogues, products nobody has bought yet).

Legend: U users, R known targets.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.largest import largest_columns, largest_in_groups
from behavior_model.memory.collective import CollectiveMemory, PairScores
from behavior_model.memory.content import ContentMemory
from behavior_model.memory.own import PairTable
from behavior_model.memory.purchases import Longs, Purchases

Floats = npt.NDArray[np.float32]

NUM_OWN: Final = 60
NUM_SEEN: Final = 20
NUM_POPULAR: Final = 15
NUM_COLLECTIVE: Final = 10
NUM_UNSOLD: Final = 3
NUM_TRANSFORMER: Final = 15


def own_candidates(pairs: PairTable, by: str, num_targets: int, quota: int) -> Longs:
    """int64[P]: keys of the `quota` pairs of each user with the largest value."""
    users = pairs.keys // num_targets
    rows, _ = largest_in_groups(users, pairs.columns[by], pairs.keys, quota)
    return pairs.keys[rows]


def popular_candidates(
    collective: CollectiveMemory, purchases: Purchases, quota: int, left_out: Longs
) -> Longs:
    """int64[U, at least quota]: the `quota` most popular targets of each user's market beside those
    that are left out, -1 elsewhere.

    Args:
        collective: Says what is popular where.
        purchases: Gives U, T and the markets.
        quota: How many.
        left_out: int64[P], keys `user * T + target`, each once.
    """
    markets, num_targets = purchases.markets, purchases.num_targets
    most = int(np.bincount(left_out // num_targets, minlength=1).max())
    known_market = np.where(markets < len(collective.popular), markets, 0)
    popular = collective.popular[known_market, : quota + most]
    keys = np.arange(len(popular))[:, None] * num_targets + popular
    is_candidate = (popular >= 0) & ~np.isin(keys, left_out)
    return np.where(is_candidate & (np.cumsum(is_candidate, axis=1) <= quota), popular, -1)


def collective_candidates(collective: CollectiveMemory, scores: PairScores) -> Longs:
    """int64[U, 2 NUM_COLLECTIVE]: what follows and what accompanies, -1 where nothing does."""
    both = [_best(values, NUM_COLLECTIVE) for values in (scores.follow, scores.accompany)]
    return _translate(collective.known, np.concatenate(both, axis=1))


def transformer_candidates(collective: CollectiveMemory, known_logits: Floats) -> Longs:
    """int64[U, NUM_TRANSFORMER]: known targets with the largest logits.

    Args:
        collective: Names the known targets.
        known_logits: float32[U, R].
    """
    best = _best(known_logits, NUM_TRANSFORMER, above=-np.inf)
    return _translate(collective.known, best)


def unsold_candidates(content: ContentMemory, unsold: Longs, profiles: Floats) -> Longs:
    """int64[U, NUM_UNSOLD]: items that hardly anybody bought yet, by likeness of texts.

    Args:
        content: Texts of items.
        unsold: Item indices outside the known targets.
        profiles: float32[U, C] from `ContentMemory.profiles`.
    """
    return _translate(unsold, _best(profiles @ content.texts[unsold].T, NUM_UNSOLD))


def merge_candidates(purchases: Purchases, keys: Longs, lists: list[Longs]) -> Longs:
    """int64[P]: distinct keys `user * T + target`, ascending.

    Args:
        purchases: Gives U and T.
        keys: Candidates that are keys already.
        lists: int64[U, quota] targets each, -1 for none.
    """
    parts = [keys]
    for targets in lists:
        users = np.broadcast_to(np.arange(purchases.num_users)[:, None], targets.shape)
        some = targets >= 0
        parts.append(users[some] * purchases.num_targets + targets[some])
    return np.unique(np.concatenate(parts))


def _best(scores: Floats, quota: int, above: float = 0.0) -> Longs:
    """int64[U, <= quota]: columns of the largest scores of each row, -1 at or below `above`."""
    best = largest_columns(scores, quota)
    values = np.take_along_axis(scores, best, axis=1)
    return np.where(values > above, best, -1).astype(np.int64)


def _translate(targets: Longs, positions: Longs) -> Longs:
    if len(targets) == 0:
        return np.full(positions.shape, -1, dtype=np.int64)
    return np.where(positions >= 0, targets[np.maximum(positions, 0)], -1)
