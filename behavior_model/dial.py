"""One dial for size: from a number of parameters to everything that grows with it.

What is counted is the transformer's body; tables of items grow with the catalogue, not with the
dial. Depth and width grow together (about 85 of width per layer, between the 64 to 128 that Kaplan
et al., 2020, find equally good), the learning rate falls with width (Yang et al., 2022), batch and
negatives grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

from pipelines.errors import UnknownNameError, UserError

SIZES: Final = {
    "tiny": 402_048,
    "small": 2_410_240,
    "base": 18_979_328,
    "large": 151_806_976,
}
"""Names for points on the dial, in parameters."""

FEED_FORWARD_ROUNDING: Final = 32
SMALLEST: Final = 80_000
LARGEST: Final = 350_000_000
MILLION: Final = 1_000_000
WIDTH_PER_LAYER: Final = 256 / 3
MIN_LAYERS: Final = 2
MAX_LAYERS: Final = 20
MAX_HEADS: Final = 24
SMALLEST_HEAD: Final = 32
LARGEST_HEAD: Final = 64
MOST_SMALLEST_HEADS: Final = 8
"""Heads multiply at width 32 up to eight, then grow to width 64, then multiply again."""

TOKENS_PER_WIDTH: Final = 16
RATE_TIMES_WIDTH: Final = 0.128


@dataclass(frozen=True, kw_only=True, order=True)
class Shape:
    """A point on the dial.

    Args:
        num_parameters: Of the transformer's body.
        width: D.
        num_layers: Transformer blocks.
        num_heads: H.
    """

    num_parameters: int
    width: int
    num_layers: int
    num_heads: int

    @property
    def batch_tokens(self) -> int:
        """Positions of one step."""
        return TOKENS_PER_WIDTH * self.width

    @property
    def num_negatives(self) -> int:
        """Shared negative items of a step."""
        return TOKENS_PER_WIDTH * self.width

    @property
    def learning_rate(self) -> float:
        """Peak of the schedule."""
        return RATE_TIMES_WIDTH / self.width


def parameters_of(size: str) -> int:
    """Parameters that a size asks for: a name, or a number of millions such as "1.6M".

    Raises:
        UnknownNameError: neither a name nor a number.
        UserError: a number beyond the ends of the dial.
    """
    if size in SIZES:
        return SIZES[size]
    try:
        asked = float(size.removesuffix("M")) * MILLION if size.endswith("M") else math.nan
    except ValueError:
        asked = math.nan
    if math.isnan(asked):
        raise UnknownNameError("size", size, SIZES)
    if not SMALLEST <= asked <= LARGEST:
        raise UserError(
            f"--size {size}: the dial goes from {SMALLEST / MILLION:g}M to "
            f"{LARGEST / MILLION:g}M parameters. Give a size in between, or one of "
            f"{', '.join(SIZES)}."
        )
    return round(asked)


def shape_for(num_parameters: int) -> Shape:
    """The shape whose body comes nearest, within 15 per cent."""
    return min(_rungs(), key=lambda shape: abs(math.log(shape.num_parameters / num_parameters)))


def body_parameters(width: int, num_layers: int) -> int:
    """Parameters of `Transformer(width, num_layers, ...)`: matrices of each block, and norms."""
    attention = 4 * width**2
    feed_forward = 3 * width * feed_forward_width(width)
    return num_layers * (attention + feed_forward + 2 * width) + width


def feed_forward_width(width: int) -> int:
    """Two thirds of the usual four widths, rounded up: a gated block has one matrix more."""
    return -(-(8 * width // 3) // FEED_FORWARD_ROUNDING) * FEED_FORWARD_ROUNDING


@cache
def _rungs() -> tuple[Shape, ...]:
    """All shapes of the dial; those that a deeper shape would suit better are left out."""
    shapes = (
        Shape(
            num_parameters=body_parameters(width, num_layers),
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
        )
        for width, num_heads in _widths()
        for num_layers in range(MIN_LAYERS, MAX_LAYERS + 1)
    )
    return tuple(sorted(s for s in shapes if s.num_layers == _fitting_layers(s.num_parameters)))


def _fitting_layers(num_parameters: int) -> int:
    """A block has about 12 D^2 parameters, so a body has about 12 D^3 / WIDTH_PER_LAYER."""
    width = math.cbrt(num_parameters * WIDTH_PER_LAYER / 12)
    return max(MIN_LAYERS, round(width / WIDTH_PER_LAYER))


def _widths() -> Iterator[tuple[int, int]]:
    """(width, heads)."""
    for num_heads in range(2, MAX_HEADS + 1):
        for head_width in range(SMALLEST_HEAD, LARGEST_HEAD + 1, _head_step(num_heads)):
            width = num_heads * head_width
            small = min(width // SMALLEST_HEAD, MOST_SMALLEST_HEADS)
            if num_heads == max(small, math.ceil(width / LARGEST_HEAD)):
                yield width, num_heads


def _head_step(num_heads: int) -> int:
    """Fine where one step is a large share of the width; eights where accelerators want them."""
    if num_heads < MOST_SMALLEST_HEADS:
        return 2
    return 4 if num_heads == MOST_SMALLEST_HEADS else 8
