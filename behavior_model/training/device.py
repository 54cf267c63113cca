"""Training off the processor: batches move, and what a model makes on the way is made there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

PROCESSOR: Final = torch.device("cpu")


def moved(value: Any, device: torch.device) -> Any:
    """A value with all of its tensors on a device: dataclasses and mappings are gone through."""
    if device == PROCESSOR:  # where all batches are made
        return value
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(one, device) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: moved(getattr(value, field.name), device) for field in fields(value)}
        return replace(value, **parts)
    return value


def made_on(device: torch.device) -> AbstractContextManager[object]:
    """Inside, tensors are made on a device where nothing else is said.

    A processor is where they are made anyway; asking for it would slow every call of torch.
    """
    return nullcontext() if device == PROCESSOR else device
