"""What comes next resembles what was taken: a query in the space of items that needs no training.

Legend: B rows, L row length, D width.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.model.batch import PackedBatch

INITIAL_GAIN: Final = 8.0
INITIAL_DECAY: Final = 0.7


class Resemblance(nn.Module):
    """The decayed mean of the items up to each position, at a learned length.

    Items stand in one space with queries, so this alone finds items like those of the history, in a
    catalogue that was never trained on too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(INITIAL_GAIN))
        self.decay_logit = nn.Parameter(torch.logit(torch.tensor(INITIAL_DECAY)))

    def forward(self, batch: PackedBatch, items_BLD: Tensor) -> Tensor:
        """float32[B, L, D]; a position sees itself and the events before it in its own segment.

        Args:
            batch: A packed batch without probes.
            items_BLD: float32, embedding of each position's item, of length 1.
        """
        same_BLL = batch.segments_BL.unsqueeze(2) == batch.segments_BL.unsqueeze(1)
        steps_BLL = (batch.order_BL.unsqueeze(2) - batch.order_BL.unsqueeze(1)) // 2
        decay = torch.sigmoid(self.decay_logit)
        weights_BLL = decay ** steps_BLL.clamp(min=0) * (same_BLL & (steps_BLL >= 0))
        return self.gain * F.normalize(weights_BLL @ items_BLD, dim=-1)
