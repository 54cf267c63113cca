"""Next event: its item, category, type, time gap and amount, from the state at the event before.

The events of one basket share one time and stand in no order. Their order is drawn anew in every
epoch (`training.segments.shuffle_ties`), so the next event of a basket is a fair draw from what is
still to come in it: the mean loss is an order-free likelihood of the basket as a set (Uria et al.,
2014), nothing is spent on learning how product ids are sorted, and the last event of a basket asks
for the next basket and its gap. Legend: R rows (positions with a next event), D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.model.backbone import Backbone
from behavior_model.model.batch import PackedBatch
from behavior_model.model.window_head import with_bias_dimension
from behavior_model.objectives.sampled_softmax import Negatives, negative_hits, sampled_softmax
from pipelines.contracts import AMOUNT, EVENT_TYPE
from pipelines.tokens.binning import FIRST_IDX, MISSING_IDX
from pipelines.tokens.vocabulary import TokenKind

ITEM_SHARE: Final = 4
"""One position in this many learns the next item: the rest would cost more than they teach."""


class NextEventObjective(nn.Module):
    """Heads for the next event's fields and item."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        width = backbone.config.model.width
        fields = [f for f in backbone.vocabulary.fields if f.kind is not TokenKind.ITEM]
        self.targets = {
            f.name: position
            for position, f in enumerate(fields)
            if f.name in (EVENT_TYPE, AMOUNT) or f.kind is TokenKind.GAP
        }
        sizes = {f.name: f.size for f in fields if f.name in self.targets}
        self.fields = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        self.category = nn.Linear(width, FIRST_IDX + backbone.config.num_categories)
        self.item_query = nn.Linear(width, width)

    def field_losses(
        self, states_RD: Tensor, fields_RF: Tensor, categories_R: Tensor
    ) -> Iterator[Tensor]:
        """Cross-entropy of each field of the next event; missing values teach nothing.

        Args:
            states_RD: float32, states with a next event.
            fields_RF: int64, that event's fields.
            categories_R: int64, category index of its item (MISSING_IDX where there is none).
        """
        for name, position in self.targets.items():
            yield _cross_entropy(self.fields[name](states_RD), fields_RF[:, position])
        yield _cross_entropy(self.category(states_RD), categories_R)

    def item_loss(
        self,
        states_RD: Tensor,
        positives_RE: Tensor,
        items_R: Tensor,
        negatives: Negatives,
        negatives_KE: Tensor,
    ) -> Tensor:
        """Sampled softmax over the next event's item.

        Args:
            states_RD: float32, states whose next event has an item.
            positives_RE: float32[R, D + 1], that item's embedding and bias.
            items_R: int64, its index.
            negatives: Shared negatives.
            negatives_KE: float32[K, D + 1], their embeddings and biases.
        """
        query_RE = with_bias_dimension(self.item_query(states_RD))
        rows = torch.arange(len(items_R))
        return sampled_softmax(
            (query_RE * positives_RE).sum(dim=1),
            rows,
            query_RE,
            negatives_KE,
            negatives.log_weights_K,
            negative_hits(rows, items_R, negatives),
        )


def next_pairs(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """int64[R] flat positions that have a next event, and int64[R] of that event."""
    following = batch.next_BL.flatten()
    positions = torch.nonzero(following >= 0).squeeze(1)
    return positions, following[positions]


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    known = targets > MISSING_IDX
    losses = F.cross_entropy(logits, targets, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)
