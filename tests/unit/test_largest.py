"""The largest values of rows: whole, in order, and the same ones however many are asked for."""

import numpy as np
import pytest

from behavior_model.largest import largest_columns


@pytest.mark.parametrize("count", [0, 1, 3, 7, 40, 60])
@pytest.mark.parametrize("num_values", [2, 5, 1_000])
def test_as_a_stable_sort_takes_them(count: int, num_values: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.integers(0, num_values, (20, 40)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = -np.inf
    expected = np.argsort(-values, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(largest_columns(values, count), expected)


def test_no_rows_have_no_columns() -> None:
    assert largest_columns(np.zeros((0, 4), np.float32), 3).shape == (0, 3)
