"""Two slices of one history should look alike, slices of two users should not.

CoLES (Babaev et al., 2022) with a softmax over the batch (InfoNCE) in place of its margin.
Legend: S segments, D width.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.model.batch import PackedBatch

TEMPERATURE: Final = 0.1
MIN_EVENTS: Final = 8


class ContrastiveObjective(nn.Module):
    """Projects the mean state of a segment's events and contrasts segments of a batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, states_BLD: Tensor, batch: PackedBatch) -> Tensor:
        """A scalar; 0 where no user has two segments in the batch."""
        means_SD, counts_S = segment_means(states_BLD, batch)
        slices_SD = F.normalize(self.project(means_SD), dim=1)
        logits_SS = slices_SD @ slices_SD.T / TEMPERATURE
        long_S = counts_S >= MIN_EVENTS
        itself = torch.eye(len(long_S), dtype=torch.bool)
        logits_SS = logits_SS.masked_fill(itself | ~long_S.unsqueeze(0), -1e9)
        same = (batch.users.unsqueeze(0) == batch.users.unsqueeze(1)) & ~itself
        same &= long_S.unsqueeze(0) & long_S.unsqueeze(1)
        log_shares = F.log_softmax(logits_SS, dim=1)
        paired = same.any(dim=1)
        losses_S = -(log_shares * same).sum(dim=1) / same.sum(dim=1).clamp(min=1)
        return (losses_S * paired).sum() / paired.sum().clamp(min=1)


def segment_means(states_BLD: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """float32[S, D] mean state of each segment's events, and float32[S] how many there are."""
    states_ED = states_BLD.flatten(0, 1)[batch.event_flat]
    segments_E = batch.segments_BL.flatten()[batch.event_flat] - 1
    num_segments = len(batch.users)
    sums = torch.zeros(num_segments, states_ED.shape[1]).index_add(0, segments_E, states_ED)
    counts = torch.bincount(segments_E, minlength=num_segments).float()
    return sums / counts.clamp(min=1.0).unsqueeze(1), counts
