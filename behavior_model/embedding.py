"""Users and items in the shared space, from a trained backbone.

Legend: U users, E = 3 D width of a user embedding, D width, C categories, N item indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from behavior_model.items import ItemContent
from behavior_model.model.backbone import Backbone
from behavior_model.model.batch import PackedBatch, Segments, lay_out
from behavior_model.model.item_tower import ContentTensors
from behavior_model.model.window_head import EVENT_TIME_EDGES_DAYS, WindowPrediction
from behavior_model.objectives.contrastive import segment_means
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

BATCH_USERS: Final = 32
CHUNK_ITEMS: Final = 16_384


@dataclass(frozen=True, kw_only=True)
class UserStates:
    """What the backbone says of U users at their prediction times.

    Args:
        user_ids: U outside ids, in the order of the histories.
        embedding: float32[U, E], the state at the probe, the mean state of all events in the
            context and the mean state of the last events, side by side.
        item_query: float32[U, D + 1]; an item's score is its product with `item_embeddings`.
        category_logits: float32[U, C]; the sigmoid is the chance of a purchase in the window.
        inactive: float32[U], chance of no purchase in the window.
        survival: float32[U, len(EVENT_TIME_EDGES_DAYS)], chance that the next purchase comes
            after each edge.
    """

    user_ids: list[str]
    embedding: Floats
    item_query: Floats
    category_logits: Floats
    inactive: Floats
    survival: Floats

    def __len__(self) -> int:
        return len(self.user_ids)

    def select(self, positions: Longs) -> UserStates:
        """Users at the given positions, in that order."""
        return UserStates(
            user_ids=[self.user_ids[i] for i in positions],
            embedding=self.embedding[positions],
            item_query=self.item_query[positions],
            category_logits=self.category_logits[positions],
            inactive=self.inactive[positions],
            survival=self.survival[positions],
        )


RECENT_EVENTS: Final = 32


def embed_users(
    backbone: Backbone,
    content: ItemContent,
    histories: Histories,
    prediction_times_us: Longs,
    batch_size: int = BATCH_USERS,
) -> UserStates:
    """States of users at a probe behind the last events of their context.

    The answer for a user depends on that user's events before the prediction time alone; which
    other users are asked for in the same call changes nothing but rounding.

    Args:
        backbone: In evaluation mode.
        content: Content of all items.
        histories: U users; events at or after the prediction time are not read.
        prediction_times_us: int64[U].
        batch_size: Users of one forward.
    """
    recent = histories.before(prediction_times_us).tail(backbone.config.model.context)
    tensors = ContentTensors(content)
    order = np.argsort(recent.lengths, kind="stable")
    parts: list[dict[str, Floats]] = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = probe_batch(backbone.vocabulary, recent, prediction_times_us, chosen)
            parts.append(_read(backbone, tensors, batch))
    back = np.argsort(order)
    columns = {name: np.concatenate([part[name] for part in parts])[back] for name in parts[0]}
    return _states(histories.user_ids, columns)


def item_embeddings(backbone: Backbone, content: ItemContent) -> Floats:
    """float32[N, D + 1]: every item index; the last column is the item's bias.

    The first D columns have length 1, so that their products are cosines. Reserved indices score
    low for everyone and must be left out of rankings by the caller.
    """
    tensors = ContentTensors(content)
    chunks: list[Floats] = []
    with torch.inference_mode():
        for start in range(0, len(content), CHUNK_ITEMS):
            items = torch.arange(start, min(start + CHUNK_ITEMS, len(content)))
            embeddings, biases = backbone.items(tensors, items)
            chunks.append(torch.cat([embeddings, biases.unsqueeze(1)], dim=1).numpy())
    return np.concatenate(chunks)


def text_embeddings(backbone: Backbone, text: Floats) -> Floats:
    """float32[n, D] of length 1: things known by text alone, in the space of items.

    Args:
        backbone: In evaluation mode.
        text: float32[n, T] from `ItemContent.encode_texts`.
    """
    with torch.inference_mode():
        return np.asarray(backbone.items.embed_text(torch.from_numpy(text)).numpy())


def probe_batch(
    vocabulary: Vocabulary, histories: Histories, times_us: Longs, chosen: Longs
) -> PackedBatch:
    """Chosen users, one row each, with a probe at their prediction times.

    Args:
        vocabulary: Of the histories.
        histories: U users, events before their prediction times.
        times_us: int64[U].
        chosen: int64[n], positions of users.
    """
    segments = Segments(
        starts=histories.offsets[chosen],
        stops=histories.offsets[chosen + 1],
        users=chosen,
        probe_segments=np.arange(len(chosen)),
        probe_times_us=times_us[chosen],
    )
    return lay_out(vocabulary, histories, segments, int(segments.lengths.max()))


def pooled_states(states_BLD: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """float32[P, E]: what `UserStates.embedding` holds, with one probe behind each segment."""
    probe_PD = states_BLD.flatten(0, 1)[batch.probe_flat]
    means_SD, _ = segment_means(states_BLD, batch)
    return torch.cat([probe_PD, means_SD, _recent_means(states_BLD, batch)], dim=1)


def _read(backbone: Backbone, tensors: ContentTensors, batch: PackedBatch) -> dict[str, Floats]:
    items_BLD = backbone.embed_items(tensors, batch.items_BL)
    states_BLD = backbone(batch, items_BLD)
    prediction: WindowPrediction = backbone.window(
        states_BLD, batch, items_BLD, tensors.category_idx[batch.items_BL]
    )
    columns = {
        "embedding": pooled_states(states_BLD, batch),
        "item_query": prediction.item_query_PD,
        "category_logits": prediction.category_logits_PC,
        "hazard_logits": prediction.hazard_logits,
        "purchases": prediction.activity["purchases"],
    }
    return {name: column.numpy() for name, column in columns.items()}


def _recent_means(states_BLD: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """float32[S, D]: mean state of each segment's last events."""
    segments_E = batch.segments_BL.flatten()[batch.event_flat] - 1
    counts = torch.bincount(segments_E, minlength=len(batch.users))
    within = batch.order_BL.flatten()[batch.event_flat] // 2
    kept = within >= counts[segments_E] - RECENT_EVENTS
    states_ED = states_BLD.flatten(0, 1)[batch.event_flat[kept]]
    sums = torch.zeros(len(batch.users), states_ED.shape[1])
    sums.index_add_(0, segments_E[kept], states_ED)
    return sums / counts.clamp(min=1, max=RECENT_EVENTS).unsqueeze(1)


def _states(user_ids: list[str], columns: dict[str, Floats]) -> UserStates:
    hazard = 1.0 / (1.0 + np.exp(-columns["hazard_logits"]))
    survival = np.cumprod(1.0 - hazard, axis=1)[:, : len(EVENT_TIME_EDGES_DAYS)]
    counts = columns["purchases"]
    shares = np.exp(counts - counts.max(axis=1, keepdims=True))
    return UserStates(
        user_ids=list(user_ids),
        embedding=columns["embedding"],
        item_query=columns["item_query"],
        category_logits=columns["category_logits"],
        inactive=np.asarray(shares[:, 0] / shares.sum(axis=1), dtype=np.float32),
        survival=np.asarray(survival, dtype=np.float32),
    )
