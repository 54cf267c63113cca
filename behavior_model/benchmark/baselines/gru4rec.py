"""GRU4Rec (Hidasi et al., 2016): a recurrent network over the last items of a user.

Inputs and outputs share one embedding per item, and the loss is a sampled softmax, as in the
authors' later variants (Hidasi and Karatzoglou, 2018).
Legend: B rows, L row length, D width, N items, N is also the padding index.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from behavior_model.benchmark.baselines.sequence_training import (
    SequenceEncoder,
    SequenceTrainingConfig,
    rank_trained,
    usual_length,
)
from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked


@dataclass(frozen=True, kw_only=True)
class Gru4RecConfig:
    """Size of the model.

    Args:
        width: D.
        num_layers: Of the GRU.
        length: L, items that are looked at.
        dropout: Share dropped from embeddings and from states.
    """

    width: int = 64
    num_layers: int = 1
    length: int = 50
    dropout: float = 0.25

    def build(self, num_items: int) -> Gru4Rec:
        """An untrained model."""
        return Gru4Rec(num_items, self)


class Gru4Rec(SequenceEncoder):
    """A GRU whose states look like the next item."""

    def __init__(self, num_items: int, config: Gru4RecConfig) -> None:
        super().__init__()
        self.num_items = num_items
        self.items = nn.Embedding(num_items + 1, config.width, padding_idx=num_items)
        self.gru = nn.GRU(config.width, config.width, config.num_layers, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.items.weight[:num_items], std=config.width**-0.5)

    def forward(self, items_BL: Tensor) -> Tensor:
        length = items_BL.shape[1]
        num_padding_B1 = (items_BL == self.num_items).sum(dim=1, keepdim=True)
        # A state is carried on from left to right, so padding waits at the right meanwhile.
        left_BL = (torch.arange(length) + num_padding_B1) % length
        right_BL = (torch.arange(length) - num_padding_B1) % length
        x_BLD = self.dropout(self.items(items_BL.gather(1, left_BL)))
        hidden_BLD: Tensor = self.dropout(self.gru(x_BLD)[0])
        return hidden_BLD.gather(1, right_BL[:, :, None].expand_as(hidden_BLD))


def rank(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """The number of epochs is chosen on validation, the length by the histories."""
    encoder = Gru4RecConfig(length=usual_length(task.history))
    return rank_trained(task, k, SequenceTrainingConfig(encoder=encoder), seed=seed)
