"""Low-rank adapters: a company of its own on a core that stays as it is.

A frozen linear layer W gains a trainable product of two thin matrices, W x + s B A x (Hu et al.,
2021, arXiv 2106.09685). B begins at zero, so an untouched adapter changes nothing; merged into W,
it costs nothing. Legend: D_in and D_out widths of a layer, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pipelines.errors import WorkspaceError
from pipelines.workspace import write_bytes_atomically

_WINDOW_HEAD: Final = "window"
_QUERY: Final = "item_query"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Size of the adapters.

    Args:
        rank: R.
        alpha: The product is scaled by alpha / R, so that the rank can change at one rate.
    """

    rank: int = 8
    alpha: float = 16.0

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / self.rank


class LowRankLinear(nn.Linear):
    """A linear layer whose own parameters are frozen, beside a trainable low-rank product.

    The layer's parameters keep their names, so a core's weights load with and without adapters.

    Args:
        core: The layer to adapt; its parameters are shared and frozen.
        config: Rank and scale.
    """

    def __init__(self, core: nn.Linear, config: AdapterConfig) -> None:
        super().__init__(core.in_features, core.out_features, core.bias is not None, device="meta")
        self.weight, self.bias = core.weight, core.bias
        self.requires_grad_(False)
        self.scale = config.scale
        self.adapter_in = nn.Parameter(self.weight.new_empty(config.rank, core.in_features))
        self.adapter_out = nn.Parameter(self.weight.new_zeros(core.out_features, config.rank))
        nn.init.kaiming_uniform_(self.adapter_in, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """float32[..., D_out] of float32[..., D_in]."""
        adapted = F.linear(F.linear(x, self.adapter_in), self.adapter_out)
        return super().forward(x) + self.scale * adapted

    def merged(self) -> nn.Linear:
        """A plain layer that gives the same."""
        has_bias = self.bias is not None
        plain = nn.Linear(self.in_features, self.out_features, has_bias, device="meta")
        with torch.no_grad():
            weight = self.weight + self.scale * self.adapter_out @ self.adapter_in
        plain.weight, plain.bias = nn.Parameter(weight, requires_grad=False), self.bias
        return plain


def add_adapters(model: nn.Module, config: AdapterConfig) -> None:
    """Freeze a model and give an adapter to every linear layer of its core, in place.

    These are the projections of attention and feed-forward blocks, of events and items, and the
    item query; the other readings of the window head belong to one company's vocabulary.

    Args:
        model: A `Backbone` or a model that holds one.
        config: Rank and scale.
    """
    if any(True for _ in adapted_layers(model)):
        raise ValueError("the model has adapters already; merge them first")
    model.requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and _is_of_core(name):
            _replace(model, name, LowRankLinear(layer, config))


def merge_adapters(model: nn.Module) -> None:
    """Fold all adapters into the weights, in place; the model then answers as fast as its core."""
    for name, layer in list(adapted_layers(model)):
        _replace(model, name, layer.merged())


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LowRankLinear]]:
    """Every adapted layer with its name in the model."""
    return ((n, one) for n, one in model.named_modules() if isinstance(one, LowRankLinear))


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapters alone, by their names in the model."""
    return {
        f"{name}.{part}": getattr(layer, part).detach()
        for name, layer in adapted_layers(model)
        for part in ("adapter_in", "adapter_out")
    }


def num_trainable(model: nn.Module) -> int:
    """Numbers that an optimiser would change."""
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


def save_adapters(path: Path, model: nn.Module, config: AdapterConfig) -> None:
    """Write the adapters of a model, and nothing of its core, as one safetensors file."""
    metadata = {name: str(value) for name, value in asdict(config).items()}
    write_bytes_atomically(path, save(adapter_tensors(model), metadata))


def load_adapters(path: Path, model: nn.Module) -> None:
    """Add the adapters of a file to a model that has none, in place.

    Raises:
        WorkspaceError: no such file, or it was made for a core of another shape.
    """
    if not path.is_file():
        raise WorkspaceError(f"{path}: no adapters here. Write them with save_adapters.")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    add_adapters(model, AdapterConfig(rank=int(metadata["rank"]), alpha=float(metadata["alpha"])))
    own = adapter_tensors(model)
    require_shapes(path, saved, own, "Load adapters onto the core that they were trained on.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])


def require_shapes(
    path: Path, saved: Mapping[str, Tensor], own: Mapping[str, Tensor], advice: str
) -> None:
    """Refuse tensors of a file that are not those that a model has.

    Raises:
        WorkspaceError: a tensor is missing, too many, or of another shape; ends with the advice.
    """
    for name in sorted(own.keys() | saved.keys()):
        came, needed = _shape(saved.get(name)), _shape(own.get(name))
        if came != needed:
            raise WorkspaceError(f"{path}: '{name}' is {came}, the model needs {needed}. {advice}")


def _is_of_core(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] == _QUERY or _WINDOW_HEAD not in parts


def _shape(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(parent), own_name, layer)
