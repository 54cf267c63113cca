"""Which ranked items are true, whatever the number of true items of each user."""

from collections.abc import Callable

import numpy as np
import pytest

from behavior_model.metrics import Doubles, hits_at_k, ndcg_at_k, recall_at_k

Metric = Callable[..., Doubles]


def test_hits_are_those_of_a_look_at_each_list() -> None:
    rng = np.random.default_rng(0)
    ranked = np.stack([rng.permutation(30)[:8] for _ in range(200)])
    ranked[::7, 5:] = -1
    truths = [rng.permutation(40)[: rng.integers(0, 6)] for _ in range(200)]
    expected = np.stack(
        [np.isin(row, truth) for row, truth in zip(ranked[:, :5], truths, strict=True)]
    )
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(hits_at_k(ranked, truths, 5), expected)
    assert not hits_at_k(ranked, truths, 10)[:, 8:].any()
    assert hits_at_k(ranked[:0], [], 5).shape == (0, 5)


def test_what_fills_a_truth_is_nobodys_hit() -> None:
    ranked = np.asarray([[2, -1], [0, -1]])
    truths = [np.asarray([0]), np.asarray([-1])]
    assert not hits_at_k(ranked, truths, 2).any()


def test_lists_and_users_are_as_many() -> None:
    with pytest.raises(ValueError, match="2 lists and 1 users"):
        hits_at_k(np.zeros((2, 3), dtype=np.int64), [np.zeros(1, dtype=np.int64)], 3)


@pytest.mark.parametrize("metric", [ndcg_at_k, recall_at_k])
def test_a_truth_of_fillers_alone_is_judged_like_none(metric: Metric) -> None:
    ranked = np.asarray([[2, 0], [2, 0], [0, 1]])
    truths = [np.asarray([-1, -1]), np.zeros(0, dtype=np.int64), np.asarray([0, -1])]
    np.testing.assert_array_equal(metric(ranked, truths, 2), [np.nan, np.nan, 1.0])
