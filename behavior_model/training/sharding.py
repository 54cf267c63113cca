"""Fully sharded training (ZeRO, Rajbhandari et al., 2020) with torch's FSDP2.

Each process keeps a slice of every parameter, of its gradient and of the optimiser's moments. A
group of parameters is gathered while its module runs and let go after it; gradients are averaged
and scattered to the slices. The rest of a run sees plain tensors: states are gathered before they
are written and sliced after they are read, so files do not tell how many processes wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from behavior_model.objectives.pretraining import PretrainingModel
from behavior_model.training.placement import Placement


def sharded(model: PretrainingModel) -> PretrainingModel:
    """Spread a model's parameters over all processes, in place; they begin as rank 0 has them.

    Blocks, item tower and event embedder are groups of their own, as they are called as modules.
    What objectives and heads read from inside the model's forward belongs to the model itself,
    which is whole from the beginning of its forward to the end of its backward.

    Args:
        model: Of one shape on all processes, on the device of each.
    """
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    _lengthen_numbers(model)
    for parameter in model.parameters():
        dist.broadcast(parameter.data, src=0)
    backbone = model.backbone
    for module in (*backbone.transformer.blocks, backbone.items, backbone.events):
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


class Sliced(Placement):
    """Every process holds a slice of every parameter of a model that `sharded` spread."""

    is_shared: ClassVar[bool] = True

    def gathered(self, tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if keep:
                result[name] = whole.detach().cpu()
        return result

    def placed(self, whole: Tensor, like: Tensor) -> Tensor:
        whole = whole.reshape(like.shape)
        if not isinstance(like, DTensor):
            return whole
        whole = whole.to(like.device)
        # Every process has read all of it: each cuts its own slice, nothing is sent.
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """As the other way; torch's own would send the norm of each parameter by itself."""
        # Plain parameters over the same memory, for functions that know nothing of slices.
        slices = [_slice(parameter) for parameter in parameters if parameter.grad is not None]
        gradients = [one.grad for one in slices if one.grad is not None]
        square = nn.utils.get_total_norm(gradients).square()
        dist.all_reduce(square)
        norm = square.sqrt()
        nn.utils.clip_grads_with_norm_(slices, max_norm, norm)
        return float(norm)


def _slice(parameter: nn.Parameter) -> nn.Parameter:
    """What this process holds of a parameter and of its gradient."""
    own = nn.Parameter(_local(parameter))
    own.grad = None if parameter.grad is None else _local(parameter.grad)
    return own


def _local(tensor: Tensor) -> Tensor:
    local = tensor.detach()
    assert isinstance(local, DTensor)
    own: Tensor = local.to_local()
    return own


def _lengthen_numbers(model: nn.Module) -> None:
    """Make parameters without a dimension vectors of length 1: only dimensions can be sliced.

    In files they keep either shape; `placed` gives them the one that is needed.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 0:
                setattr(module, name, nn.Parameter(parameter.detach().reshape(1)))
