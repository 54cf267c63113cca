"""Rotary attention on time (Su et al., 2021), with two clocks in place of a position number.

What is rotated by what: in each head the first quarter of the coordinate pairs of queries and keys
is rotated by the *visit clock*, the sum of log2(1 + minutes) over all gaps so far; the second
quarter by the *calendar clock*, days since the segment began; the other half is not rotated, so
that content can be matched and counted at any distance. Wavelengths of each clock are geometric.

Why it is causal: both clocks at a position are functions of times at or before it. Attention sees
differences of clocks alone, so where a segment begins does not matter, and all events of one basket
(one time) stand at the same place: their arbitrary order cannot be told from the rotation.

Legend: B rows, L row length, H heads, K head width.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

MIN_WAVELENGTH: Final = 2.0
MAX_WAVELENGTH: Final = 512.0


def frequencies(head_width: int) -> Tensor:
    """float32[K / 2, 2]: radians per unit of each clock for every coordinate pair."""
    quarter = head_width // 8
    share = torch.arange(quarter) / max(quarter - 1, 1)
    wavelengths = MIN_WAVELENGTH * (MAX_WAVELENGTH / MIN_WAVELENGTH) ** share
    table = torch.zeros(head_width // 2, 2)
    table[:quarter, 0] = 2 * math.pi / wavelengths
    table[quarter : 2 * quarter, 1] = 2 * math.pi / wavelengths
    return table


def rotation(clocks_BL2: Tensor, frequencies_K2: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32[B, 1, L, K / 2] each."""
    angles = (clocks_BL2 @ frequencies_K2.T).unsqueeze(1)
    return angles.cos(), angles.sin()


def rotate(x_BHLK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate coordinate pairs (i, i + K / 2), in the precision of `x_BHLK`."""
    cos, sin = cos.to(x_BHLK.dtype), sin.to(x_BHLK.dtype)
    first, second = x_BHLK.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
