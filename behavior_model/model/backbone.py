"""The backbone: event embedder, transformer, item tower and window head as one module.

Legend: B rows, L row length, D width, P probes, N items.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from behavior_model.items import ItemContent
from behavior_model.model.batch import PackedBatch
from behavior_model.model.dropout import dropout
from behavior_model.model.event_embedder import EventEmbedder
from behavior_model.model.item_tower import ContentTensors, ItemTower
from behavior_model.model.transformer import Transformer, attention_bias
from behavior_model.model.window_head import WindowHead
from behavior_model.recipes import ModelConfig
from pipelines.errors import WorkspaceError
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.vocabulary import TokenKind, Vocabulary
from pipelines.workspace import write_bytes_atomically, write_json_atomically

Longs = npt.NDArray[np.int64]

WEIGHTS_FILE: Final = "backbone.safetensors"
CONFIG_FILE: Final = "config.json"


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """What a backbone is built from, beside the vocabulary's fields.

    Args:
        vocabulary_id: The vocabulary that it was trained with.
        model: Shape.
        window_us: Length of the window that its probes look ahead.
        num_items: Item indices.
        num_identities: Item indices with an identity, a prefix.
        num_categories: Categories of the vocabulary.
        descriptor_width: T1.
        word_width: T2.
        categorical_sizes: Indices per categorical field of the items.
    """

    vocabulary_id: str
    model: ModelConfig
    window_us: int
    num_items: int
    num_identities: int
    num_categories: int
    descriptor_width: int
    word_width: int
    categorical_sizes: tuple[int, ...]


class Backbone(nn.Module):
    """Reads packed histories; its states at probes answer for the window ahead."""

    def __init__(self, config: BackboneConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        shape = config.model
        self.config = config
        self.vocabulary = vocabulary
        fields = tuple(f for f in vocabulary.fields if f.kind is not TokenKind.ITEM)
        self.events = EventEmbedder(fields, shape.width, shape.field_dropout)
        self.items = ItemTower(
            width=shape.width,
            descriptor_width=config.descriptor_width,
            word_width=config.word_width,
            num_categories=config.num_categories,
            categorical_sizes=config.categorical_sizes,
            num_identities=config.num_identities,
            num_items=config.num_items,
            scale=shape.item_scale,
        )
        self.transformer = Transformer(
            shape.width, shape.num_layers, shape.num_heads, shape.dropout
        )
        self.window = WindowHead(shape.width, config.num_categories)

    def forward(self, batch: PackedBatch, item_embeddings_BLD: Tensor) -> Tensor:
        """States float32[B, L, D] of all positions.

        Args:
            batch: Packed segments.
            item_embeddings_BLD: float32, embedding of each position's item.
        """
        embedded = self.events(batch.fields_BLF, item_embeddings_BLD, batch.probe_BL)
        embedded = dropout(embedded, self.config.model.input_dropout, self.training)
        bias = attention_bias(batch.segments_BL, batch.order_BL, batch.probe_BL)
        states: Tensor = self.transformer(embedded, batch.clocks_BL2, bias)
        return states

    def embed_items(self, content: ContentTensors, items: Tensor) -> Tensor:
        """Embeddings of items of any shape, each distinct item computed once."""
        distinct, inverse = torch.unique(items, return_inverse=True)
        embeddings, _ = self.items(content, distinct)
        return F.embedding(inverse, embeddings)


def new_backbone(
    vocabulary: Vocabulary, content: ItemContent, shape: ModelConfig, window_us: int
) -> Backbone:
    """An untrained backbone for a vocabulary and the content of its items.

    Items begin with the logarithm of their share of training events as bias.
    """
    counts = torch.from_numpy(vocabulary.count_by_item_idx)
    bought = int((counts >= shape.min_identity_count).sum())
    config = BackboneConfig(
        vocabulary_id=vocabulary.vocabulary_id,
        model=shape,
        window_us=window_us,
        num_items=vocabulary.num_item_indices,
        num_identities=FIRST_IDX + bought,
        num_categories=len(vocabulary.categories),
        descriptor_width=content.descriptors.shape[1],
        word_width=content.words.shape[1],
        categorical_sizes=tuple(field.size for field in content.categorical_fields),
    )
    backbone = Backbone(config, vocabulary)
    smoothed = counts.float() + 0.5
    backbone.items.log_prior.copy_(torch.log(smoothed / smoothed.sum()))
    return backbone


def with_added_items(backbone: Backbone, vocabulary: Vocabulary, counts: Longs) -> Backbone:
    """The backbone with items behind those that it was trained with: known by content alone.

    Their bias begins as that of the others did, with the logarithm of a share: of the events since
    the training, as before it nobody could take them.

    Args:
        backbone: Trained.
        vocabulary: The grown vocabulary.
        counts: int64[num_item_indices], events with each item since the training cut.
    """
    before = backbone.config.num_items
    config = replace(backbone.config, num_items=vocabulary.num_item_indices)
    grown = Backbone(config, vocabulary)
    smoothed = torch.from_numpy(counts).float() + 0.5
    share = torch.log(smoothed / smoothed.sum())[before:]
    weights = backbone.state_dict()
    weights["items.log_prior"] = torch.cat([backbone.items.log_prior, share])
    grown.load_state_dict(weights)
    return grown.eval().requires_grad_(False)


def save_backbone(folder: Path, backbone: Backbone) -> None:
    """Write weights as safetensors and the configuration as JSON; the configuration comes last."""
    weights = {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}
    write_bytes_atomically(folder / WEIGHTS_FILE, save(weights))
    write_json_atomically(folder / CONFIG_FILE, asdict(backbone.config))


def load_backbone(folder: Path, vocabulary: Vocabulary) -> Backbone:
    """A trained backbone in evaluation mode.

    Raises:
        WorkspaceError: nothing here.
        VocabularyMismatchError: it was trained with another vocabulary.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise WorkspaceError(f"{folder}: no backbone here. Train one with: bfm pretrain")
    raw: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    vocabulary.require(raw["vocabulary_id"], str(folder))
    raw["model"] = ModelConfig(**raw["model"])
    raw["categorical_sizes"] = tuple(raw["categorical_sizes"])
    backbone = Backbone(BackboneConfig(**raw), vocabulary)
    backbone.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return backbone.eval().requires_grad_(False)
