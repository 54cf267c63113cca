"""The next item alone, at every position: the objective where events have an order and little else.

Legend: B rows, L row length, D width, R positions with a next item, K negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.items import ItemContent
from behavior_model.model.backbone import Backbone
from behavior_model.model.batch import PackedBatch
from behavior_model.model.item_tower import ContentTensors
from behavior_model.model.resemblance import Resemblance
from behavior_model.model.window_head import with_bias_dimension
from behavior_model.objectives.next_event import next_pairs
from behavior_model.objectives.sampled_softmax import (
    NegativeSampler,
    negative_hits,
    sampled_softmax,
)


@dataclass(frozen=True, kw_only=True)
class NextItemBatch:
    """A packed batch without probes."""

    packed: PackedBatch


class NextItemModel(nn.Module):
    """The backbone under one objective: sampled softmax over the item of the next event.

    Memory of a step grows with the batch and the negatives, not with the catalogue.

    Args:
        backbone: What is trained and kept.
        content: Content of all items.
        num_negatives: Shared negatives of a step.
        sold_negatives: Whether negatives are drawn from items that somebody took alone.
        resembles_history: Whether a query begins at the mean of what was taken.
    """

    def __init__(
        self,
        backbone: Backbone,
        content: ItemContent,
        num_negatives: int,
        *,
        sold_negatives: bool = False,
        resembles_history: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.content = ContentTensors(content)
        width = backbone.config.model.width
        self.item_query = nn.Linear(width, width)
        self.resemblance = Resemblance() if resembles_history else None
        self.sampler = NegativeSampler(
            backbone.vocabulary, num_negatives, sold_alone=sold_negatives
        )

    def forward(self, batch: NextItemBatch) -> dict[str, Tensor]:
        """The loss as `next_item` and as `loss`."""
        packed = batch.packed
        negatives = self.sampler.draw()
        items_flat = packed.items_BL.flatten()
        distinct, inverse = torch.unique(
            torch.cat([items_flat, negatives.items_K]), return_inverse=True
        )
        dropout = self.backbone.config.model.identity_dropout if self.training else 0.0
        embeddings, biases = self.backbone.items(self.content, distinct, dropout)
        scored = torch.cat([embeddings, biases.unsqueeze(1)], dim=1)
        in_batch, in_negatives = inverse.split([len(items_flat), len(negatives.items_K)])
        items_BLD = F.embedding(in_batch.view_as(packed.items_BL), embeddings)
        positions, following = next_pairs(packed)
        query_RE = self._queries(packed, items_BLD, positions)
        items_R = items_flat[following]
        rows = torch.arange(len(items_R))
        loss = sampled_softmax(
            (query_RE * F.embedding(in_batch[following], scored)).sum(dim=1).float(),
            rows,
            query_RE,
            F.embedding(in_negatives, scored),
            negatives.log_weights_K,
            negative_hits(rows, items_R, negatives),
        )
        return {"next_item": loss, "loss": loss}

    def queries(self, packed: PackedBatch, last_flat: Tensor) -> Tensor:
        """float32[S, D + 1]: what comes after the positions `last_flat`, one per segment."""
        items_BLD = self.backbone.embed_items(self.content, packed.items_BL)
        return self._queries(packed, items_BLD, last_flat)

    def _queries(self, packed: PackedBatch, items_BLD: Tensor, flat: Tensor) -> Tensor:
        query_RD = self.item_query(self.backbone(packed, items_BLD).flatten(0, 1)[flat])
        if self.resemblance is not None:
            query_RD = query_RD + self.resemblance(packed, items_BLD).flatten(0, 1)[flat]
        return with_bias_dimension(query_RD)
