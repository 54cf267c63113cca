"""The size dial: a body as large as asked, and a path through the named sizes."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from behavior_model.dial import (
    SIZES,
    Shape,
    body_parameters,
    parameters_of,
    shape_for,
)
from behavior_model.model.transformer import Transformer
from pipelines.errors import UnknownNameError, UserError

ASKED = np.geomspace(100_000, 300_000_000, 400).round().astype(int).tolist()


def built_parameters(shape: Shape) -> int:
    with torch.device("meta"):
        body = Transformer(shape.width, shape.num_layers, shape.num_heads, 0.0)
    return sum(parameter.numel() for parameter in body.parameters())


@pytest.mark.parametrize("asked", [100_000, 300_000, 1_300_000, 9_999_999, 64_000_000, 300_000_000])
def test_a_built_body_is_as_large_as_asked(asked: int) -> None:
    shape = shape_for(asked)
    assert built_parameters(shape) == shape.num_parameters
    assert shape.num_parameters == pytest.approx(asked, rel=0.15)


def test_no_size_in_between_is_missed() -> None:
    built = [shape_for(asked).num_parameters for asked in ASKED]
    assert np.abs(np.asarray(built) / ASKED - 1).max() <= 0.15


def test_the_dial_turns_one_way() -> None:
    for smaller, larger in pairwise(shape_for(asked) for asked in ASKED):
        assert smaller.num_parameters <= larger.num_parameters
        assert smaller.num_layers <= larger.num_layers
    for smaller, larger in pairwise(shape_for(10**exponent) for exponent in (5, 6, 7, 8)):
        assert smaller.width < larger.width
        assert smaller.num_heads <= larger.num_heads
        assert smaller.num_negatives < larger.num_negatives
        assert smaller.batch_tokens < larger.batch_tokens
        assert smaller.learning_rate > larger.learning_rate


@pytest.mark.parametrize("asked", ASKED[::20])
def test_heads_are_between_32_and_64_wide(asked: int) -> None:
    shape = shape_for(asked)
    assert shape.width % shape.num_heads == 0
    assert 32 <= shape.width // shape.num_heads <= 64
    assert (shape.width // shape.num_heads) % 2 == 0
    assert 32 <= shape.width / shape.num_layers <= 128


@pytest.mark.parametrize(
    ("size", "width", "layers", "heads"),
    [("tiny", 128, 2, 4), ("small", 256, 3, 8), ("base", 512, 6, 8), ("large", 1_024, 12, 16)],
)
def test_named_sizes_are_points_on_the_dial(size: str, width: int, layers: int, heads: int) -> None:
    shape = shape_for(SIZES[size])
    assert (shape.width, shape.num_layers, shape.num_heads) == (width, layers, heads)
    assert shape.num_parameters == SIZES[size] == body_parameters(width, layers)


def test_tiny_is_what_was_measured() -> None:
    shape = shape_for(parameters_of("tiny"))
    assert (shape.num_negatives, shape.batch_tokens, shape.learning_rate) == (2_048, 2_048, 1e-3)


def test_a_size_is_a_name_or_a_number_of_millions() -> None:
    assert parameters_of("1.6M") == 1_600_000
    assert parameters_of("base") == SIZES["base"]
    with pytest.raises(UnknownNameError, match="Did you mean 'small'"):
        parameters_of("smal")
    with pytest.raises(UnknownNameError, match="Unknown size 'nanM'"):
        parameters_of("nanM")
    with pytest.raises(UserError, match=r"--size 900M: the dial goes from 0\.08M to 350M"):
        parameters_of("900M")
