"""The window ahead of a probe: which items, which categories, how much, when next.

Legend: P probes, C categories, T (probe, item) pairs, K negatives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from behavior_model.model.window_head import WindowPrediction
from behavior_model.objectives.sampled_softmax import Negatives, negative_hits, sampled_softmax
from behavior_model.objectives.targets import WindowTargets


def window_item_loss(
    prediction: WindowPrediction,
    targets: WindowTargets,
    positives_TE: Tensor,
    negatives: Negatives,
    negatives_KE: Tensor,
) -> Tensor:
    """Sampled softmax with several positives per probe.

    Args:
        prediction: At P probes.
        targets: Their labels.
        positives_TE: float32[T', D + 1], embeddings of the drawn pairs (`targets.positive`).
        negatives: Shared negatives.
        negatives_KE: float32[K, D + 1].
    """
    rows = targets.item_probes[targets.positive]
    queries_PE = prediction.item_query_PD
    hits = negative_hits(targets.item_probes, targets.items, negatives)
    return sampled_softmax(
        (queries_PE[rows] * positives_TE).sum(dim=1),
        rows,
        queries_PE,
        negatives_KE,
        negatives.log_weights_K,
        hits,
    )


def window_category_loss(prediction: WindowPrediction, targets: WindowTargets) -> Tensor:
    """Binary cross-entropy per category, summed over categories, divided by the mean basket."""
    losses_P = F.binary_cross_entropy_with_logits(
        prediction.category_logits_PC, targets.categories_PC, reduction="none"
    ).sum(dim=1)
    valid = targets.valid_P
    return (losses_P * valid).sum() / (targets.categories_PC.sum() + valid.sum()).clamp(min=1.0)


def window_activity_loss(prediction: WindowPrediction, targets: WindowTargets) -> Tensor:
    """Mean cross-entropy of the bins of purchases, sessions and money."""
    valid = targets.valid_P
    total = torch.zeros(())
    for name, bins_P in targets.activity.items():
        losses = F.cross_entropy(prediction.activity[name], bins_P, reduction="none")
        total = total + (losses * valid).sum() / valid.sum().clamp(min=1)
    return total / len(targets.activity)


def time_to_event_loss(prediction: WindowPrediction, targets: WindowTargets) -> Tensor:
    """Negative log-likelihood of a discrete hazard, censored at the training cut.

    Gensheimer and Narasimhan, 2019. A probe survives all bins before its own; in its own bin the
    event happens, or nothing is known when it is censored there.
    """
    logits = prediction.hazard_logits
    bins = torch.arange(logits.shape[1])
    own = targets.event_bin_P.unsqueeze(1)
    survived = bins < own
    happened = (bins == own) & ~targets.censored_P.unsqueeze(1)
    losses = F.softplus(logits) * survived + F.softplus(-logits) * happened
    return losses.sum() / max(len(logits), 1)
