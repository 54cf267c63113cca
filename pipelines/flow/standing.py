"""How a stage stood before something that is no reason to work again; an erasure keeps it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a stage stood before a change.

    Args:
        marker: Hash of its marker, whose outputs were as it says.
        inputs: Hash of its inputs when nothing was to do for it, else None.
    """

    marker: str
    inputs: str | None
