"""How many processes train, and what each holds. Without torch, so that commands check early."""

from __future__ import annotations

from enum import StrEnum

from pipelines.errors import UnknownNameError, UserError


class Sharding(StrEnum):
    """What a training process holds of weights, gradients and optimiser."""

    NONE = "none"
    """All of it: data-parallel training, gradients are averaged."""

    FULL = "full"
    """Its part of it; weights are gathered for as long as they are used."""


def check_processes(num_workers: int, sharding: str) -> Sharding:
    """The sharding that a user asked for by name.

    Raises:
        UserError: fewer than one worker, or sharding with nobody to share with.
        UnknownNameError: no such sharding.
    """
    if num_workers < 1:
        raise UserError(f"--workers {num_workers}: training needs at least 1 worker.")
    if sharding not in tuple(Sharding):
        raise UnknownNameError("sharding", sharding, Sharding)
    if sharding == Sharding.FULL and num_workers == 1:
        raise UserError(
            "--sharding full with 1 worker: there is nobody to share with. "
            "Give --workers 2 or more, or --sharding none."
        )
    return Sharding(sharding)
