"""One event, one position: the fields of an event summed into one embedding.

Legend: B rows, L row length, D width, F token fields without the item.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.tokens.binning import MISSING_IDX, PAD_IDX
from pipelines.tokens.vocabulary import TokenField

INITIAL_STD = 0.3


class EventEmbedder(nn.Module):
    """Sum of field embeddings and a projected item embedding, then a gated correction.

    All fields live in one table, looked up as bags: one kernel instead of one per field. The
    words of one text share their rows. Padding indices add nothing.

    Args:
        fields: Token fields without the item, in order.
        width: D.
        field_dropout: Share of values replaced by 'missing' in training.
    """

    starts: Tensor

    def __init__(self, fields: tuple[TokenField, ...], width: int, field_dropout: float) -> None:
        super().__init__()
        starts: dict[str, int] = {}
        total = 1
        for field in fields:
            if field.table not in starts:
                starts[field.table] = total
                total += field.size
        self.register_buffer(
            "starts", torch.tensor([starts[f.table] for f in fields]), persistent=False
        )
        self.field_dropout = field_dropout
        self.fields = nn.EmbeddingBag(total, width, mode="sum", padding_idx=0)
        nn.init.normal_(self.fields.weight, std=INITIAL_STD)
        with torch.no_grad():
            self.fields.weight[0].zero_()
        self.item = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        nn.init.normal_(self.item.weight, std=1.0)

    def forward(self, fields_BLF: Tensor, item_embeddings_BLD: Tensor, probe_BL: Tensor) -> Tensor:
        """float32[B, L, D].

        Args:
            fields_BLF: int64, indices per field.
            item_embeddings_BLD: float32, rows of length 1.
            probe_BL: bool; a probe keeps all of its fields.
        """
        if self.training and self.field_dropout > 0.0:
            drop = torch.rand(fields_BLF.shape, device=fields_BLF.device) < self.field_dropout
            drop &= (fields_BLF != PAD_IDX) & ~probe_BL.unsqueeze(-1)
            fields_BLF = torch.where(drop, MISSING_IDX, fields_BLF)
        rows = torch.where(fields_BLF == PAD_IDX, 0, fields_BLF + self.starts)
        batch, length, num_fields = rows.shape
        summed = self.fields(rows.view(-1, num_fields)).view(batch, length, -1)
        mixed = summed + self.item(item_embeddings_BLD)
        gate, value = self.gate(mixed).chunk(2, dim=-1)
        fused: Tensor = mixed + torch.sigmoid(gate) * F.silu(value)
        return fused
