"""The model beside its baselines: who is strongest, and what chance could have made of the gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from behavior_model.evaluation.comparison import Comparison, compare, compare_means, strongest
from behavior_model.evaluation.results import (
    Result,
    main_results,
    read_evaluation,
    write_evaluation,
)
from behavior_model.metrics import expected_calibration_error, mean_with_interval
from pipelines.workspace import Workspace

NUM_USERS = 400


def test_the_strongest_has_the_largest_figure_and_of_errors_the_smallest() -> None:
    figures = {"popularity": 0.2, "trees": 0.3}
    assert strongest("auc", figures) == "trees"
    assert strongest("ece", figures) == "popularity"
    assert strongest("auc", {}) is None
    assert strongest("auc", {"unknown": np.nan, **figures}) == "trees"


def test_a_small_gain_of_every_user_is_sure_where_users_differ_much() -> None:
    """Intervals of the two figures alone overlap nearly wholly."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=NUM_USERS)
    compared = compare_means(
        "ndcg@10", hard + 0.01, {"trees": hard, "popularity": np.zeros(NUM_USERS)}
    )
    assert compared.interval[1] - compared.interval[0] > 0.04
    assert compared.gain_interval == pytest.approx((0.01, 0.01))
    assert compared.baselines == {"trees": pytest.approx(hard.mean()), "popularity": 0.0}
    assert (compared.model, compared.interval) == mean_with_interval(hard + 0.01)


def test_a_gain_by_chance_has_an_interval_on_both_sides_of_zero() -> None:
    rng = np.random.default_rng(1)
    compared = compare_means("ndcg@10", rng.normal(size=30), {"trees": rng.normal(size=30)})
    assert compared.gain_interval is not None
    assert compared.gain_interval[0] < 0 < compared.gain_interval[1]


def test_users_without_a_value_count_nowhere() -> None:
    model, trees = np.asarray([0.5, np.nan, 1.0]), np.asarray([0.25, np.nan, 0.75])
    compared = compare_means("ndcg@10", model, {"trees": trees})
    assert (compared.model, compared.baselines) == (0.75, {"trees": 0.5})
    with pytest.raises(ValueError, match="nothing to take a mean of"):
        compare_means("ndcg@10", np.full(3, np.nan), {})


def test_of_errors_a_gain_is_below_zero() -> None:
    rng = np.random.default_rng(2)
    chances = rng.uniform(0.05, 0.4, 2_000)
    labels = (rng.uniform(size=2_000) < chances).astype(np.float64)
    compared = compare(
        "ece",
        lambda users: expected_calibration_error(labels[users], chances[users]),
        {"half": lambda users: expected_calibration_error(labels[users], 0 * chances[users] + 0.5)},
        2_000,
        num_resamples=100,
    )
    assert 0 <= compared.interval[0] <= compared.model <= compared.interval[1]
    assert compared.gain_interval is not None
    assert compared.gain_interval[1] < 0


def result_of(compared: Comparison, metric: str = "auc", split: str = "test") -> Result:
    return Result(
        task="churn",
        metric=metric,
        split=split,
        cut="2017-10-01",
        model=compared.model,
        interval=compared.interval,
        baselines=compared.baselines,
        gain_interval=compared.gain_interval,
        num_users=2,
        num_items=0,
        num_events=2,
        seed=0,
        seconds=1.0,
        peak_memory_bytes=1,
    )


def test_what_is_written_is_read(workspace: Workspace) -> None:
    alone = result_of(compare_means("auc", np.asarray([0.0, 1.0]), {}))
    beside = result_of(compare_means("auc", np.ones(2), {"recency": np.zeros(2)}))
    path = workspace.evaluation_path
    write_evaluation(path, [alone, beside])
    assert read_evaluation(path) == [alone, beside]
    lacking = replace(beside, model=np.nan, baselines={"recency": np.nan}, gain_interval=None)
    write_evaluation(path, [lacking])
    (read,) = read_evaluation(path)
    assert np.isnan(read.model)
    assert np.isnan(read.baselines["recency"])
    assert read.best_baseline[0] == "none"
    assert alone.is_vague, "of two users anything can be said"
    assert alone.gain_interval is None
    assert not beside.is_vague


def test_a_figure_says_in_a_line_what_it_is_worth() -> None:
    alone = result_of(compare_means("auc", np.ones(2), {}))
    assert str(alone) == "churn: auc 1.0000 [1.000, 1.000] (test, 2 users)"
    beside = result_of(compare_means("auc", np.ones(2), {"recency": np.full(2, 0.75)}))
    assert ", +0.2500 [+0.250, +0.250] to recency (test" in str(beside)


def test_the_first_figure_of_a_task_and_split_is_the_main_one() -> None:
    compared = compare_means("auc", np.ones(2), {})
    results = [
        result_of(compared, metric, split)
        for split in ("test", "test/active")
        for metric in ("auc", "ece")
    ]
    assert main_results(results) == [results[0], results[2]]
