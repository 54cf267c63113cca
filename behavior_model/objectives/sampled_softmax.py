"""Softmax over items with shared, sampled negatives and the logQ correction.

The partition sum is estimated by importance sampling: a negative drawn n times out of K from Q
stands for n / (K Q) items like it (Bengio and Senecal, 2008; Yi et al., 2019). The positives of a
row are added exactly and never serve as that row's negatives.
Legend: R rows, D width, E = D + 1, K negatives, N items, T (row, item) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.vocabulary import Vocabulary

POPULARITY_POWER: Final = 0.75
CHUNK_ROWS: Final = 256
SMALLEST_LOGIT: Final = -1e30
"""Stands for the peak of a row in which every negative is a hit."""


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
    """Draws items in proportion to (count + 1) ** 0.75; unsold items come along now and then.

    Args:
        vocabulary: Items and their counts.
        num_negatives: Draws of a step.
        sold_alone: Leave out items that nobody took: they may be new rather than unwanted.
    """

    def __init__(
        self, vocabulary: Vocabulary, num_negatives: int, *, sold_alone: bool = False
    ) -> None:
        counts = vocabulary.count_by_item_idx[FIRST_IDX:]
        weights = (counts + 1.0) ** POPULARITY_POWER
        if sold_alone:
            weights[counts == 0] = 0.0
        self._share = torch.from_numpy(weights / weights.sum()).double()
        self._cumulative = torch.from_numpy(np.cumsum(weights) / weights.sum())
        self._num_negatives = num_negatives

    def draw(self) -> Negatives:
        """A fresh set from torch's global generator, on its default device; empty without items."""
        if not len(self._share):
            return Negatives(items_K=torch.zeros(0, dtype=torch.long), log_weights_K=torch.zeros(0))
        points = torch.rand(self._num_negatives, dtype=torch.float64)
        cumulative, share = self._cumulative.to(points.device), self._share.to(points.device)
        drawn = torch.searchsorted(cumulative, points).clamp(max=len(share) - 1)
        distinct, times = torch.unique(drawn, return_counts=True)
        log_weights = torch.log(times / (self._num_negatives * share[distinct]))
        return Negatives(items_K=distinct + FIRST_IDX, log_weights_K=log_weights.float())


@dataclass(frozen=True, kw_only=True)
class Hits:
    """Negatives that are true for a row: places in a matrix of rows and negatives.

    Args:
        rows: int64[H], ascending.
        columns: int64[H].
    """

    rows: Tensor
    columns: Tensor


def sampled_softmax(
    positive_logits_T: Tensor,
    rows_T: Tensor,
    query_RE: Tensor,
    negatives_KE: Tensor,
    log_weights_K: Tensor,
    hits: Hits,
) -> Tensor:
    """Mean over rows of the mean over a row's positives of -log p(item).

    Args:
        positive_logits_T: float32, logit of each positive pair.
        rows_T: int64, row of each pair.
        query_RE: float32[R, D + 1]; the last column is 1 and meets the item's bias.
        negatives_KE: float32[K, D + 1], embeddings and biases.
        log_weights_K: float32, see `Negatives`.
        hits: Negatives that are true for a row, see `negative_hits`.

    Returns:
        A scalar; 0 where no row has a positive.
    """
    num_rows = len(query_RE)
    if not len(rows_T):
        return 0.0 * (query_RE.sum() + negatives_KE.sum())
    embeddings_KD, biases_K = negatives_KE[:, :-1], negatives_KE[:, -1] + log_weights_K
    negatives_R = log_partition(query_RE[:, :-1], embeddings_KD, biases_K, hits)
    # Positives are added one at a time: each competes with the negatives, not with its siblings.
    losses_T = torch.logaddexp(positive_logits_T, negatives_R[rows_T]) - positive_logits_T
    counts_R = torch.zeros(num_rows).index_add(0, rows_T, torch.ones_like(losses_T))
    sums_R = torch.zeros(num_rows).index_add(0, rows_T, losses_T)
    present = counts_R > 0
    return (sums_R / counts_R.clamp(min=1.0)).sum() / present.sum().clamp(min=1)


def negative_hits(rows_T: Tensor, items_T: Tensor, negatives: Negatives) -> Hits:
    """Which negatives are among a row's (row, item) pairs; `rows_T` ascend."""
    if not len(negatives.items_K):
        return Hits(rows=rows_T[:0], columns=rows_T[:0])
    columns = torch.searchsorted(negatives.items_K, items_T.contiguous())
    columns = columns.clamp(max=len(negatives.items_K) - 1)
    found = negatives.items_K[columns] == items_T
    return Hits(rows=rows_T[found], columns=columns[found])


def log_partition(query_RD: Tensor, items_KD: Tensor, biases_K: Tensor, hits: Hits) -> Tensor:
    """float32[R]: log of the sum over items of exp(query . item + bias), `hits` left out.

    Logits are made a few rows at a time and never leave the cache; what is kept for the backward
    pass is the softmax, in the precision that matrices are multiplied in.

    Args:
        query_RD: float32.
        items_KD: float32.
        biases_K: float32.
        hits: Places in [R, K] that do not count.
    """
    precision = query_RD.dtype
    if torch.is_autocast_enabled(query_RD.device.type):
        precision = torch.get_autocast_dtype(query_RD.device.type)
    result: Tensor = _LogPartition.apply(  # type: ignore[no-untyped-call]
        query_RD.to(precision), items_KD.to(precision), biases_K, hits.rows, hits.columns
    )
    return result


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query_RD: Tensor,
        items_KD: Tensor,
        biases_K: Tensor,
        hit_rows: Tensor,
        hit_columns: Tensor,
    ) -> Tensor:
        num_rows = len(query_RD)
        totals_R = torch.empty(num_rows, device=query_RD.device)
        shares_RK = query_RD.new_empty(num_rows, len(items_KD))
        starts = torch.arange(0, num_rows + CHUNK_ROWS, CHUNK_ROWS, device=hit_rows.device)
        bounds = torch.searchsorted(hit_rows, starts).tolist()
        for chunk, start in enumerate(range(0, num_rows, CHUNK_ROWS)):
            rows, hits = slice(start, start + CHUNK_ROWS), slice(*bounds[chunk : chunk + 2])
            logits = (query_RD[rows] @ items_KD.T).float().add_(biases_K)
            logits[hit_rows[hits] - start, hit_columns[hits]] = float("-inf")
            peaks = logits.amax(dim=1, keepdim=True).clamp(min=SMALLEST_LOGIT)
            sums = logits.sub_(peaks).exp_().sum(dim=1, keepdim=True)
            totals_R[rows] = (peaks + sums.log()).squeeze(1)
            shares_RK[rows] = logits.div_(sums.clamp(min=torch.finfo(torch.float32).tiny))
        ctx.save_for_backward(query_RD, items_KD, shares_RK)
        return totals_R

    @staticmethod
    def backward(ctx: Any, gradient_R: Tensor) -> tuple[Tensor | None, ...]:
        query_RD, items_KD, shares_RK = ctx.saved_tensors
        gradient_R1 = gradient_R.to(shares_RK.dtype).unsqueeze(1)
        return (
            (shares_RK @ items_KD).mul_(gradient_R1),
            shares_RK.T @ (query_RD * gradient_R1),
            (shares_RK.T @ gradient_R1).squeeze(1).float(),
            None,
            None,
        )
