"""Causal pre-norm transformer with gated feed-forward blocks.

Pre-norm with RMSNorm (Zhang and Sennrich, 2019) and SwiGLU (Shazeer, 2020).
Legend: B rows, L row length, D width, H heads, K head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.dial import feed_forward_width
from behavior_model.model.dropout import dropout
from behavior_model.model.rotary import frequencies, rotate, rotation


class Attention(nn.Module):
    """Multi-head self-attention, rotated by time."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor, cos: Tensor, sin: Tensor, bias_B1LL: Tensor) -> Tensor:
        batch, length, width = x_BLD.shape
        qkv = self.qkv(x_BLD).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # In full precision: the half-precision kernel's backward is four times slower on a CPU.
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        with torch.autocast(x_BLD.device.type, enabled=False):
            mixed_BHLK = F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), attn_mask=bias_B1LL
            )
        mixed = self.out(mixed_BHLK.transpose(1, 2).reshape(batch, length, width))
        return dropout(mixed, self.dropout, self.training)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        inner = feed_forward_width(width)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor) -> Tensor:
        gate, value = self.up(x_BLD).chunk(2, dim=-1)
        return dropout(self.down(F.silu(gate) * value), self.dropout, self.training)


class Block(nn.Module):
    """Attention and feed-forward, each on a normed copy of the stream."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, num_heads, dropout)
        self.feed_forward_norm = nn.RMSNorm(width)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, x_BLD: Tensor, cos: Tensor, sin: Tensor, bias_B1LL: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), cos, sin, bias_B1LL)
        forwarded: Tensor = self.feed_forward(self.feed_forward_norm(x_BLD))
        return x_BLD + forwarded


class Transformer(nn.Module):
    """A stack of blocks under one final norm."""

    frequencies_K2: Tensor

    def __init__(self, width: int, num_layers: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.RMSNorm(width)
        self.register_buffer("frequencies_K2", frequencies(width // num_heads), persistent=False)

    def forward(self, x_BLD: Tensor, clocks_BL2: Tensor, bias_B1LL: Tensor) -> Tensor:
        cos, sin = rotation(clocks_BL2, self.frequencies_K2)
        for block in self.blocks:
            x_BLD = block(x_BLD, cos, sin, bias_B1LL)
        normed: Tensor = self.norm(x_BLD)
        return normed


def attention_bias(segments_BL: Tensor, order_BL: Tensor, probe_BL: Tensor) -> Tensor:
    """float32[B, 1, L, L]: 0 where a query may look, -inf elsewhere.

    A position sees itself and the events at or before it in its own segment. No position sees a
    probe but that probe itself. Padding sees itself alone.
    """
    same = segments_BL.unsqueeze(2) == segments_BL.unsqueeze(1)
    past = order_BL.unsqueeze(2) >= order_BL.unsqueeze(1)
    event = ((segments_BL > 0) & ~probe_BL).unsqueeze(1)
    itself = torch.eye(segments_BL.shape[1], dtype=torch.bool, device=segments_BL.device)
    allowed = (same & past & event) | itself
    bias = torch.zeros(allowed.shape, device=segments_BL.device)
    return bias.masked_fill_(~allowed, float("-inf")).unsqueeze(1)
