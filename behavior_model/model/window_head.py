"""What a probe says about the window ahead: items, categories, activity, time to the next event.

Legend: P probes, D width, C categories.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from behavior_model.model.batch import PackedBatch
from behavior_model.model.copy_head import CopyHead

NUM_COUNT_BINS: Final = 12
"""Zero, then octaves of a count: 1, 2-3, 4-7, ..."""

NUM_AMOUNT_BINS: Final = 48
"""Zero, then half octaves of 1 + money."""

EVENT_TIME_EDGES_DAYS: Final = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 21.0, 28.0, 42.0, 56.0, 84.0)
"""Ends of the bins of time to the next event; the last bin has no end."""

INITIAL_CATEGORY_BIAS: Final = -3.0
"""Most categories are not bought in a window."""

ACTIVITY_SIZES: Final = {
    "purchases": NUM_COUNT_BINS,
    "sessions": NUM_COUNT_BINS,
    "amount": NUM_AMOUNT_BINS,
}


@dataclass(frozen=True, kw_only=True)
class WindowPrediction:
    """Predictions at P probes.

    Args:
        item_query_PD: float32[P, D + 1]; the last column is 1 and meets the item's bias.
        category_logits_PC: float32[P, C]; the sigmoid is the chance of a purchase in the window.
        activity: Logits over the bins of `ACTIVITY_SIZES`, by name.
        hazard_logits: float32[P, len(EVENT_TIME_EDGES_DAYS) + 1]; the sigmoid is the chance that
            the next event falls into a time bin, given that it did not come earlier.
    """

    item_query_PD: Tensor
    category_logits_PC: Tensor
    activity: dict[str, Tensor]
    hazard_logits: Tensor


class WindowHead(nn.Module):
    """Linear readings of the state at a probe, beside what the probe copies from its past."""

    def __init__(self, width: int, num_categories: int) -> None:
        super().__init__()
        self.copy = CopyHead(width, num_categories)
        self.item_query = nn.Linear(width, width)
        with warnings.catch_warnings():  # a company may have no categories
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.category = nn.Linear(width, num_categories)
        nn.init.constant_(self.category.bias, INITIAL_CATEGORY_BIAS)
        self.activity = nn.ModuleDict(
            {name: nn.Linear(width, size) for name, size in ACTIVITY_SIZES.items()}
        )
        self.hazard = nn.Linear(width, len(EVENT_TIME_EDGES_DAYS) + 1)

    def forward(
        self,
        states_BLD: Tensor,
        batch: PackedBatch,
        item_embeddings_BLD: Tensor,
        categories_BL: Tensor,
    ) -> WindowPrediction:
        """Predictions at the probes of a batch; arguments as in `CopyHead.forward`."""
        state_PD = states_BLD.flatten(0, 1)[batch.probe_flat]
        copied = self.copy(states_BLD, batch, item_embeddings_BLD, categories_BL)
        item_PD, category_PC = copied
        return WindowPrediction(
            item_query_PD=with_bias_dimension(self.item_query(state_PD) + item_PD),
            category_logits_PC=self.category(state_PD) + category_PC,
            activity={name: head(state_PD) for name, head in self.activity.items()},
            hazard_logits=self.hazard(state_PD),
        )


def with_bias_dimension(query_PD: Tensor) -> Tensor:
    """float32[P, D + 1]: a query that adds the item's bias to its product."""
    return torch.cat([query_PD, torch.ones_like(query_PD[:, :1])], dim=1)
