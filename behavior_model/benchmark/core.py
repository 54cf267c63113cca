"""The core of a next-item model: all that it knows but the catalogue, to be carried elsewhere.

A core knows items by their texts alone, so its weights fit every shop whose texts are read by the
same encoder. What belongs to one catalogue, how often each item was taken, stays behind.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from behavior_model.benchmark.shop import Shop
from behavior_model.model.adapters import require_shapes
from behavior_model.objectives.next_item import NextItemModel
from behavior_model.recipes import Recipe
from pipelines.errors import WorkspaceError
from pipelines.workspace import write_bytes_atomically

NO_IDENTITIES: Final = 2**31
"""No item is taken that often."""

_OF_THE_CATALOGUE: Final = "backbone.items.log_prior"
_ENCODER: Final = "text_encoder"


def content_alone(recipe: Recipe) -> Recipe:
    """The same recipe for a model in which no item has an identity."""
    return replace(recipe, model=replace(recipe.model, min_identity_count=NO_IDENTITIES))


def core_tensors(model: NextItemModel) -> dict[str, Tensor]:
    """Weights of the core by their names in the model."""
    state: dict[str, Tensor] = model.state_dict()
    return {name: tensor for name, tensor in state.items() if name != _OF_THE_CATALOGUE}


def save_core(path: Path, model: NextItemModel, shop: Shop) -> None:
    """Write the core as one safetensors file that names the encoder of the shop's texts."""
    tensors = {name: tensor.contiguous() for name, tensor in core_tensors(model).items()}
    write_bytes_atomically(path, save(tensors, {_ENCODER: shop.content.encoder_name}))


def load_core(path: Path, model: NextItemModel, shop: Shop) -> None:
    """Put a core into a model of any shop.

    Raises:
        WorkspaceError: the shop's texts are read by another encoder, or the core has another
            shape.
    """
    with safe_open(path, framework="pt") as file:
        encoder = file.metadata()[_ENCODER]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if encoder != shop.content.encoder_name:
        raise WorkspaceError(
            f"{path}: this core reads texts with '{encoder}', the shop's are read with "
            f"'{shop.content.encoder_name}'. Train the core where the same encoder loads."
        )
    advice = "Make both with one size, and with items known by their texts alone."
    require_shapes(path, tensors, core_tensors(model), advice)
    model.load_state_dict(tensors, strict=False)
