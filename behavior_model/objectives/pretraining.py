"""All objectives of pretraining in one module, so that one forward gives one loss.

Legend: B rows, L row length, D width, R positions with a next event, K negatives.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.items import ItemContent
from behavior_model.model.backbone import Backbone
from behavior_model.model.batch import PackedBatch
from behavior_model.model.item_tower import ContentTensors
from behavior_model.objectives.contrastive import ContrastiveObjective
from behavior_model.objectives.next_event import ITEM_SHARE, NextEventObjective, next_pairs
from behavior_model.objectives.sampled_softmax import NegativeSampler
from behavior_model.objectives.targets import WindowTargets
from behavior_model.objectives.window_ahead import (
    time_to_event_loss,
    window_activity_loss,
    window_category_loss,
    window_item_loss,
)
from behavior_model.recipes import LossWeights
from pipelines.tokens.binning import FIRST_IDX


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """A packed batch with the labels of its probes."""

    packed: PackedBatch
    targets: WindowTargets


class PretrainingModel(nn.Module):
    """The backbone under its objectives.

    Args:
        backbone: What is trained and kept.
        content: Content of all items.
        num_negatives: Shared negatives of a step.
        weights: Weight of each objective.
    """

    def __init__(
        self, backbone: Backbone, content: ItemContent, num_negatives: int, weights: LossWeights
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.content = ContentTensors(content)
        self.next_event = NextEventObjective(backbone)
        self.contrastive = ContrastiveObjective(backbone.config.model.width)
        self.sampler = NegativeSampler(backbone.vocabulary, num_negatives)
        self.weights: dict[str, float] = asdict(weights)

    def forward(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Scalar losses by name (those of `LossWeights`), and their weighted sum as `loss`."""
        losses = self._losses(batch)
        total = torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum()
        return {**losses, "loss": total}

    def _losses(self, batch: TrainingBatch) -> dict[str, Tensor]:
        packed, targets = batch.packed, batch.targets
        negatives = self.sampler.draw()
        drawn = targets.items[targets.positive]
        items_flat = packed.items_BL.flatten()
        distinct, inverse = torch.unique(
            torch.cat([items_flat, drawn, negatives.items_K]), return_inverse=True
        )
        dropout = self.backbone.config.model.identity_dropout if self.training else 0.0
        embeddings, biases = self.backbone.items(self.content, distinct, dropout)
        scored = torch.cat([embeddings, biases.unsqueeze(1)], dim=1)
        in_batch, in_drawn, in_negatives = inverse.split(
            [len(items_flat), len(drawn), len(negatives.items_K)]
        )
        inputs_BLD = F.embedding(in_batch.view_as(packed.items_BL), embeddings)
        states_BLD = self.backbone(packed, inputs_BLD)
        states = states_BLD.flatten(0, 1)
        negatives_KE = F.embedding(in_negatives, scored)

        positions, following = next_pairs(packed)
        categories = self.content.category_idx[items_flat[following]]
        field_losses = self.next_event.field_losses(
            states[positions], packed.fields_BLF.flatten(0, 1)[following], categories
        )
        known = torch.nonzero(items_flat[following] >= FIRST_IDX).squeeze(1)
        chosen = known[torch.randperm(len(known))[: max(len(known) // ITEM_SHARE, 1)]]
        prediction = self.backbone.window(
            states_BLD, packed, inputs_BLD, self.content.category_idx[packed.items_BL]
        )
        return {
            "next_item": self.next_event.item_loss(
                states[positions[chosen]],
                F.embedding(in_batch[following[chosen]], scored),
                items_flat[following[chosen]],
                negatives,
                negatives_KE,
            ),
            "next_fields": torch.stack(list(field_losses)).mean(),
            "window_items": window_item_loss(
                prediction, targets, F.embedding(in_drawn, scored), negatives, negatives_KE
            ),
            "window_categories": window_category_loss(prediction, targets),
            "window_activity": window_activity_loss(prediction, targets),
            "time_to_event": time_to_event_loss(prediction, targets),
            "contrastive": self.contrastive(states_BLD, packed),
        }
