"""A process's place in a group of `torch.distributed`: averages gradients, or shares the model."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn

from behavior_model.objectives.pretraining import PretrainingModel
from behavior_model.training.device import PROCESSOR
from behavior_model.training.processes import Sharding
from behavior_model.training.worker import Rank


def rank_in_group(sharding: Sharding) -> Rank:
    """The rank of this process, which has joined its group.

    A group that talks through NCCL computes on the accelerator that the process was given.
    """
    rank = Rank(index=dist.get_rank(), device=_device(), wrap=_moved, agree=_smallest, mean=_means)
    if dist.get_world_size() == 1:
        return rank
    if sharding is Sharding.NONE:
        return replace(rank, wrap=_averaging)
    # Seconds of imports that nobody else should wait for.
    from behavior_model.training.sharding import Sliced, sharded

    return replace(rank, wrap=lambda model: sharded(_moved(model)), placement=Sliced())


def _device() -> torch.device:
    if dist.get_backend() != dist.Backend.NCCL:
        return PROCESSOR
    return torch.device("cuda", torch.cuda.current_device())


def _moved(model: PretrainingModel) -> PretrainingModel:
    return model.to(_device())


def _averaging(model: PretrainingModel) -> nn.Module:
    return nn.parallel.DistributedDataParallel(_moved(model), broadcast_buffers=False)


def _smallest(number: int) -> int:
    smallest = torch.tensor(number, device=_device())
    dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
    return int(smallest)


def _means(numbers: list[float]) -> list[float]:
    total = torch.tensor(numbers, dtype=torch.float64, device=_device())
    dist.all_reduce(total)
    means: list[float] = (total / dist.get_world_size()).tolist()
    return means
