"""Steps whose numbers are the same every time, at equal numbers of threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch

_SETTINGS: Final[Any] = torch.utils.deterministic


@contextmanager
def repeatable() -> Iterator[None]:
    """Inside, no sum depends on which thread comes first.

    The gradient of a gather adds what several rows give to one; with more than one thread torch
    adds in the order in which threads arrive, unless it is told not to. Where an accelerator has no
    repeatable kernel for an operation, torch warns and goes on.
    """
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = _SETTINGS.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    _SETTINGS.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        _SETTINGS.fill_uninitialized_memory = filled
