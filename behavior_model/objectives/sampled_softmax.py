"""Softmax over items with shared, sampled negatives and the logQ correction.

The partition sum is estimated by importance sampling: a negative drawn n times out of K from Q
stands for n / (K Q) items like it (Bengio and Senecal, 2008; Yi et al., 2019). The positives of a
row are added exactly and never serve as that row's negatives.
Legend: R rows, D width, K negatives, N items, T (row, item) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.vocabulary import Vocabulary

POPULARITY_POWER: Final = 0.75


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Distinct negatives of a step.

    Args:
        items_K: int64, ascending.
        log_weights_K: float32, log(n / (draws Q)).
    """

    items_K: Tensor
    log_weights_K: Tensor


class NegativeSampler:
    """Draws items in proportion to (count + 1) ** 0.75; unsold items come along now and then."""

    def __init__(self, vocabulary: Vocabulary, num_negatives: int) -> None:
        weights = (vocabulary.count_by_item_idx[FIRST_IDX:] + 1.0) ** POPULARITY_POWER
        self._share = torch.from_numpy(weights / weights.sum()).double()
        self._cumulative = torch.from_numpy(np.cumsum(weights) / weights.sum())
        self._num_negatives = num_negatives

    def draw(self) -> Negatives:
        """A fresh set from torch's global generator."""
        points = torch.rand(self._num_negatives, dtype=torch.float64)
        drawn = torch.searchsorted(self._cumulative, points).clamp(max=len(self._share) - 1)
        distinct, times = torch.unique(drawn, return_counts=True)
        log_weights = torch.log(times / (self._num_negatives * self._share[distinct]))
        return Negatives(items_K=distinct + FIRST_IDX, log_weights_K=log_weights.float())


def sampled_softmax(
    positive_logits_T: Tensor,
    rows_T: Tensor,
    negative_logits_RK: Tensor,
    log_weights_K: Tensor,
    hits_RK: Tensor,
) -> Tensor:
    """Mean over rows of the mean over a row's positives of -log p(item).

    Args:
        positive_logits_T: float32, logit of each positive pair.
        rows_T: int64, row of each pair.
        negative_logits_RK: float32.
        log_weights_K: float32, see `Negatives`.
        hits_RK: bool, negatives that are true for the row.

    Returns:
        A scalar; 0 where no row has a positive.
    """
    num_rows = len(negative_logits_RK)
    weighted = (negative_logits_RK + log_weights_K).masked_fill(hits_RK, float("-inf"))
    negatives_R = torch.logsumexp(weighted, dim=1)
    # Positives are added one at a time: each competes with the negatives, not with its siblings.
    losses_T = torch.logaddexp(positive_logits_T, negatives_R[rows_T]) - positive_logits_T
    counts_R = torch.zeros(num_rows).index_add(0, rows_T, torch.ones_like(losses_T))
    sums_R = torch.zeros(num_rows).index_add(0, rows_T, losses_T)
    present = counts_R > 0
    return (sums_R / counts_R.clamp(min=1.0)).sum() / present.sum().clamp(min=1)


def negative_hits(rows_T: Tensor, items_T: Tensor, num_rows: int, negatives: Negatives) -> Tensor:
    """bool[R, K]: which negatives are among a row's (row, item) pairs."""
    hits = torch.zeros(num_rows, len(negatives.items_K), dtype=torch.bool)
    columns = torch.searchsorted(negatives.items_K, items_T.contiguous())
    columns = columns.clamp(max=len(negatives.items_K) - 1)
    found = negatives.items_K[columns] == items_T
    hits[rows_T[found], columns[found]] = True
    return hits
