"""Items in the shared space: content first, identity on top of it for items that were bought.

Legend: N items asked for, D width, T1 and T2 widths of descriptor and words.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.items import ItemContent
from pipelines.tokens.binning import FIRST_IDX, MISSING_IDX


class ContentTensors(nn.Module):
    """Item content as tensors that move with a module and are never saved with it."""

    descriptors: Tensor
    descriptor_idx: Tensor
    words: Tensor
    category_idx: Tensor
    categorical: Tensor

    def __init__(self, content: ItemContent) -> None:
        super().__init__()
        arrays = {
            "descriptors": content.descriptors,
            "descriptor_idx": content.descriptor_idx.astype(np.int64),
            "words": content.words,
            "category_idx": content.category_idx.astype(np.int64),
            "categorical": content.categorical.astype(np.int64),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)


class ItemTower(nn.Module):
    """Embeds items by projected text, category, categorical fields and identity.

    Embeddings have length 1; the score of an item is its product with a query plus its bias. An
    identity row begins at random, away from the items of its kind, so that it can be copied
    exactly; an item without one stands where its content says.

    Args:
        width: D.
        descriptor_width: T1.
        word_width: T2.
        num_categories: Categories of the vocabulary.
        categorical_sizes: Indices per categorical field.
        num_identities: Item indices with an identity, a prefix of all.
        num_items: All item indices.
        scale: Of all initial weights.
    """

    log_prior: Tensor

    def __init__(
        self,
        *,
        width: int,
        descriptor_width: int,
        word_width: int,
        num_categories: int,
        categorical_sizes: tuple[int, ...],
        num_identities: int,
        num_items: int,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_identities = num_identities
        self.descriptor = nn.Linear(descriptor_width, width)
        self.words = nn.Linear(word_width, width, bias=False)
        self.category = nn.Embedding(FIRST_IDX + num_categories, width)
        self.categorical = nn.ModuleList(nn.Embedding(size, width) for size in categorical_sizes)
        self.identity = nn.Embedding(num_identities, width)
        self.identity_bias = nn.Embedding(num_identities, 1)
        self.prior_weight = nn.Parameter(torch.ones(()))
        self.register_buffer("log_prior", torch.zeros(num_items))
        self._initialise(descriptor_width, word_width, scale)

    def _initialise(self, descriptor_width: int, word_width: int, scale: float) -> None:
        nn.init.normal_(self.descriptor.weight, std=scale * descriptor_width**-0.5)
        nn.init.zeros_(self.descriptor.bias)
        nn.init.normal_(self.words.weight, std=scale * word_width**-0.5)
        nn.init.normal_(self.category.weight, std=scale * 0.5)
        for table in self.categorical:
            nn.init.normal_(table.weight, std=scale * 0.25)  # type: ignore[arg-type]
        nn.init.normal_(self.identity.weight, std=scale)
        nn.init.zeros_(self.identity_bias.weight)

    def forward(
        self, content: ContentTensors, items_N: Tensor, identity_dropout: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Embeddings and biases of items.

        Args:
            content: Content of all items.
            items_N: int64[N], item indices.
            identity_dropout: Share of items that are embedded from content alone.

        Returns:
            float32[N, D] of length 1, float32[N].
        """
        described = self._described(content.descriptors, content.descriptor_idx[items_N])
        mixed = described + self.words(content.words[items_N])
        mixed = mixed + self.category(content.category_idx[items_N])
        for position, table in enumerate(self.categorical):
            mixed = mixed + table(content.categorical[items_N, position])
        known = (items_N < self.num_identities).float().unsqueeze(1)
        if identity_dropout > 0.0:
            known = known * (torch.rand_like(known) >= identity_dropout)
        rows = items_N.clamp(max=self.num_identities - 1)
        mixed = mixed + known * self.identity(rows)
        prior = self.prior_weight * self.log_prior[items_N]
        bias = prior + (known * self.identity_bias(rows)).squeeze(1)
        return F.normalize(mixed, dim=-1), bias

    def embed_text(self, text_NT: Tensor) -> Tensor:
        """float32[N, D]: things known by their text alone, in the space of items."""
        descriptor, words = text_NT.tensor_split([self.descriptor.in_features], dim=1)
        mixed = self.descriptor(descriptor) + self.words(words)
        missing = torch.full((len(text_NT),), MISSING_IDX, device=text_NT.device)
        for table in (self.category, *self.categorical):
            mixed = mixed + table(missing)
        return F.normalize(mixed, dim=-1)

    def _described(self, descriptors: Tensor, rows_N: Tensor) -> Tensor:
        if len(descriptors) <= len(rows_N):
            return F.embedding(rows_N, self.descriptor(descriptors))
        projected: Tensor = self.descriptor(descriptors[rows_N])
        return projected
