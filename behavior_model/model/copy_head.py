"""What a user bought before is bought again: a probe copies from the history it sees.

A few attention heads over past items, each with its own decay in time, in the manner of RepeatNet
(Ren et al., 2019) and pointer networks (See et al., 2017). What they gather goes past the
transformer's narrow state: items as a sum of item embeddings, categories as exact shares.
Legend: P probes, E events of the batch, M copy heads, D width, C categories, Q width of a match.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from behavior_model.model.batch import PackedBatch
from pipelines.tokens.binning import FIRST_IDX

INITIAL_DECAYS: Final = (0.0, 0.5, 1.0, 2.0)
"""Powers of age: a purchase a week old counts 8 ** -decay as much as one of today."""

MATCH_WIDTH: Final = 16
INITIAL_LOG_SCALE: Final = 2.0
SMALLEST_SHARE: Final = 1e-3


class CopyHead(nn.Module):
    """Attention of probes over the items of their own past.

    Args:
        width: D.
        num_categories: C.
    """

    def __init__(self, width: int, num_categories: int) -> None:
        super().__init__()
        heads = len(INITIAL_DECAYS)
        self.num_categories = num_categories
        self.decay = nn.Parameter(torch.tensor(INITIAL_DECAYS))
        self.query = nn.Linear(width, heads * MATCH_WIDTH, bias=False)
        self.key = nn.Linear(width, heads * MATCH_WIDTH, bias=False)
        self.item_gate = nn.Linear(width, heads)
        self.category_gate = nn.Linear(width, heads)
        for gate, start in ((self.item_gate, INITIAL_LOG_SCALE), (self.category_gate, 0.0)):
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, start)
        self.category_weight = nn.Parameter(torch.tensor(0.5))

    def forward(
        self,
        states_BLD: Tensor,
        batch: PackedBatch,
        item_embeddings_BLD: Tensor,
        categories_BL: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """float32[P, D] to add to item queries, float32[P, C] to add to category logits.

        Args:
            states_BLD: States of all positions.
            batch: Where events and probes are.
            item_embeddings_BLD: Embedding of each position's item.
            categories_BL: int64, category index of each position's item.
        """
        flat = states_BLD.flatten(0, 1)
        probes_PD, events_ED = flat[batch.probe_flat], flat[batch.event_flat]
        shares_MPE = self._shares(probes_PD, events_ED, batch)
        item_PE = _mix(self.item_gate(probes_PD).exp(), shares_MPE)
        items_ED = item_embeddings_BLD.flatten(0, 1)[batch.event_flat]
        category_PE = _mix(self.category_gate(probes_PD).softmax(dim=1), shares_MPE)
        categories_E = categories_BL.flatten()[batch.event_flat]
        shares_PC = torch.zeros(len(probes_PD), FIRST_IDX + self.num_categories)
        shares_PC = shares_PC.index_add(1, categories_E, category_PE)[:, FIRST_IDX:]
        logs_PC = torch.log(1.0 + shares_PC / SMALLEST_SHARE)
        return item_PE @ items_ED, self.category_weight * logs_PC

    def _shares(self, probes_PD: Tensor, events_ED: Tensor, batch: PackedBatch) -> Tensor:
        """float32[M, P, E]: attention of each head; rows of 0 where there is nothing to copy."""
        visible, ages = _view(batch)
        heads = len(self.decay)
        query = self.query(probes_PD).view(-1, heads, MATCH_WIDTH).transpose(0, 1)
        key = self.key(events_ED).view(-1, heads, MATCH_WIDTH).transpose(0, 1)
        match = query @ key.transpose(1, 2) / MATCH_WIDTH**0.5
        scores = match - self.decay.view(-1, 1, 1) * torch.log1p(ages)
        shares: Tensor = scores.masked_fill(~visible, -1e4).softmax(dim=-1) * visible
        return shares


def _mix(weights_PM: Tensor, shares_MPE: Tensor) -> Tensor:
    """float32[P, E]: shares of all heads in one, weighted per probe."""
    mixed: Tensor = (weights_PM.T.unsqueeze(-1) * shares_MPE).sum(dim=0)
    return mixed


def _view(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """bool[P, E]: items that a probe may copy; float32[P, E]: their ages in days."""
    segments, order = batch.segments_BL.flatten(), batch.order_BL.flatten()
    days = batch.clocks_BL2.flatten(0, 1)[:, 1]
    probe, event = batch.probe_flat.unsqueeze(1), batch.event_flat.unsqueeze(0)
    visible = (segments[probe] == segments[event]) & (order[probe] >= order[event])
    visible &= (batch.items_BL.flatten() >= FIRST_IDX)[event]
    ages = torch.where(visible, days[probe] - days[event], 0.0)
    return visible, ages.clamp(min=0.0)
