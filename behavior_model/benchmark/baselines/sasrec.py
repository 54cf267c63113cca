"""SASRec (Kang and McAuley, 2018): a causal transformer over the last items of a user.

Legend: B rows, L row length, D width, N items, N is also the padding index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.benchmark.baselines.sequence_training import (
    SequenceEncoder,
    SequenceTrainingConfig,
    rank_trained,
    usual_length,
)
from behavior_model.benchmark.baselines.task import LeaveOneOutTask, Ranked

INITIAL_STD: Final = 0.02


@dataclass(frozen=True, kw_only=True)
class SasrecConfig:
    """Size of the model.

    Args:
        width: D.
        num_layers: Blocks.
        num_heads: Heads of each block's attention.
        length: L, items that are looked at.
        dropout: Share dropped from embeddings, attention and feed-forward layers.
    """

    width: int = 64
    num_layers: int = 2
    num_heads: int = 1
    length: int = 50
    dropout: float = 0.5

    def build(self, num_items: int) -> Sasrec:
        """An untrained model."""
        return Sasrec(num_items, self)


class SasrecBlock(nn.Module):
    """Attention and a ReLU feed-forward layer of the same width, each on a normed copy."""

    def __init__(self, config: SasrecConfig) -> None:
        super().__init__()
        width = config.width
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, width),
            nn.Dropout(config.dropout),
        )

    def forward(self, x_BLD: Tensor, mask_B1LL: Tensor) -> Tensor:
        batch, length, width = x_BLD.shape
        qkv = self.qkv(self.attention_norm(x_BLD))
        q, k, v = qkv.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed_BHLK = F.scaled_dot_product_attention(q, k, v, mask_B1LL, dropout)
        mixed = self.out(mixed_BHLK.transpose(1, 2).reshape(batch, length, width))
        x_BLD = x_BLD + F.dropout(mixed, self.dropout, self.training)
        changed_BLD: Tensor = x_BLD + self.feed_forward(x_BLD)
        return changed_BLD


class Sasrec(SequenceEncoder):
    """Blocks over embeddings of items and of their places in the row."""

    def __init__(self, num_items: int, config: SasrecConfig) -> None:
        super().__init__()
        self.num_items = num_items
        self.items = nn.Embedding(num_items + 1, config.width, padding_idx=num_items)
        self.positions = nn.Embedding(config.length, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(SasrecBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=INITIAL_STD)
        with torch.no_grad():
            self.items.weight[num_items].zero_()

    def forward(self, items_BL: Tensor) -> Tensor:
        length = items_BL.shape[1]
        causal_LL = torch.ones(length, length, dtype=torch.bool).tril()
        itself_LL = torch.eye(length, dtype=torch.bool)
        known_B11L = (items_BL != self.num_items)[:, None, None, :]
        mask_B1LL = (causal_LL & known_B11L) | itself_LL
        scale = self.items.embedding_dim**0.5
        x_BLD = self.dropout(scale * self.items(items_BL) + self.positions.weight)
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_B1LL)
        hidden_BLD: Tensor = self.norm(x_BLD)
        return hidden_BLD


def rank(task: LeaveOneOutTask, k: int, *, seed: int = 0) -> Ranked:
    """The number of epochs is chosen on validation, the length by the histories."""
    encoder = SasrecConfig(length=usual_length(task.history))
    return rank_trained(task, k, SequenceTrainingConfig(encoder=encoder), seed=seed)
