"""Calibrations: monotone, ordered, and intervals that cover what they claim to cover."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from behavior_model.heads import calibration
from behavior_model.heads.calibration import Calibration, calibrate_outcome, calibrate_rate
from behavior_model.heads.familiarity import UNFAMILIAR_BELOW, Familiarity
from behavior_model.metrics import bootstrap_intervals, expected_calibration_error
from behavior_model.user_draw import drawn_users

NUM_USERS, NUM_TIMES = 500, 4


def rate_of(raw: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(1.5 * raw - 1)))  # the raw score is off in scale and level


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    users = np.tile(np.arange(NUM_USERS), NUM_TIMES)
    times = np.repeat(np.arange(NUM_TIMES), NUM_USERS)
    raw = generator.normal(size=len(users))
    labels = (generator.random(len(raw)) < rate_of(raw)).astype(float)
    return raw, labels, users, times


def test_rates_are_calibrated_and_ordered() -> None:
    curve = calibrate_rate(*drawn(0), seed=0)
    raw = drawn(1)[0]
    score, lower, upper = curve.apply(raw)
    assert np.abs(score - rate_of(raw)).mean() < 0.03
    assert np.abs(1 / (1 + np.exp(-raw)) - rate_of(raw)).mean() > 0.1
    assert (lower <= score).all()
    assert (score <= upper).all()
    assert (np.diff(score[np.argsort(raw)]) >= 0).all()
    assert ((lower >= 0) & (upper <= 1)).all()


def test_prediction_times_without_rows_are_no_times() -> None:
    raw, labels, users, _ = drawn(0)
    one, other = (
        calibrate_rate(raw, labels, users, np.full(len(raw), time), seed=0) for time in (0, 40)
    )
    np.testing.assert_array_equal(one.scores, other.scores)


def test_a_draw_that_meets_no_row_is_made_again() -> None:
    """Two users, each at a time of their own: half of the draws meet nobody."""
    raw = np.asarray([0.0, 1.0])
    curve = calibrate_rate(raw, raw, np.arange(2), np.arange(2), seed=0)
    assert ((curve.lowers <= curve.scores) & (curve.scores <= curve.uppers)).all()


def test_many_rows_are_calibrated_on_a_sample_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    raw, labels, users, times = drawn(0)
    everybody = calibrate_rate(raw, labels, users, times, seed=3)
    monkeypatch.setattr(calibration, "MAX_ROWS", 200 * NUM_TIMES)
    chosen = np.isin(users, drawn_users(np.arange(NUM_USERS), 200, seed=3))
    assert chosen.sum() == 200 * NUM_TIMES
    alone = calibrate_rate(raw[chosen], labels[chosen], users[chosen], times[chosen], seed=3)
    sampled = calibrate_rate(raw, labels, users, times, seed=3)
    np.testing.assert_array_equal(sampled.scores, alone.scores)
    widths = [(one.uppers - one.lowers).mean() for one in (everybody, sampled)]
    assert widths[0] < widths[1]


def test_users_are_drawn_once_each_and_stay_in_order() -> None:
    users = np.arange(10, 60)
    assert drawn_users(users, 50, seed=0) is users
    some = drawn_users(users, 20, seed=0)
    assert len(some) == 20
    assert (np.diff(some) > 0).all()
    np.testing.assert_array_equal(some, drawn_users(users, 20, seed=0))
    assert (some != drawn_users(users, 20, seed=1)).any()


def test_scores_that_were_few_are_not_answered_by_their_far_neighbours() -> None:
    """Those who left long ago are few among earlier rows, with scores between the two crowds."""
    rng = np.random.default_rng(0)
    stay, left, between = (
        rng.normal(m, s, n) for m, s, n in ((-6, 1, 700), (9, 1, 270), (3, 1, 30))
    )
    raw = np.concatenate([stay, left, between])
    labels = np.repeat([0.0, 1.0], [700, 300])
    users, times = np.arange(1_000), np.arange(1_000) % 5
    fitted = calibrate_rate(raw, labels, users, times, seed=0)
    scores, lowers, uppers = fitted.apply(np.asarray([2.0, 3.0, 4.0]))
    assert scores.min() > 0.95
    assert (lowers < scores).all(), "thirty rows leave some doubt"
    assert uppers == pytest.approx(1.0, abs=0.01)


def test_draws_of_fewer_users_make_a_wider_interval() -> None:
    values = np.random.default_rng(0).normal(size=2_000)
    sizes: list[int] = []

    def mean(users: npt.NDArray[np.int64]) -> list[float]:
        sizes.append(len(users))
        return [float(values[users].mean())]

    (whole,) = bootstrap_intervals(2_000, mean, num_resamples=100)
    assert bootstrap_intervals(2_000, mean, num_resamples=100, max_drawn=5_000) == [whole]
    assert set(sizes) == {2_000}
    ((low, high),) = bootstrap_intervals(2_000, mean, num_resamples=100, max_drawn=200)
    assert sizes[-1] == 200
    assert low < whole[0] < whole[1] < high


def test_the_interval_covers_the_true_rate() -> None:
    raw = np.linspace(-1.5, 1.5, 60)
    covered = []
    for seed in range(6):
        _, lower, upper = calibrate_rate(*drawn(seed), seed=seed).apply(raw)
        covered.append(((lower <= rate_of(raw)) & (rate_of(raw) <= upper)).mean())
        assert (upper - lower).mean() < 0.25  # and says something
    assert np.mean(covered) > 0.9


def test_the_outcome_interval_covers_nine_in_ten() -> None:
    generator = np.random.default_rng(0)
    raw = generator.normal(size=6_000)
    values = np.exp(raw) * generator.gamma(2.0, size=6_000)
    curve = calibrate_outcome(raw[:3_000], values[:3_000])
    score, lower, upper = curve.apply(raw[3_000:])
    inside = ((values[3_000:] >= lower) & (values[3_000:] <= upper)).mean()
    assert 0.87 < inside < 0.95
    assert ((lower <= score) & (score <= upper)).all()


@pytest.mark.parametrize(("num_rows", "least_r2"), [(60, 0.2), (170, 0.3)])
def test_outcomes_of_few_rows_are_told_apart(num_rows: int, least_r2: float) -> None:
    """A company of ten users has some sixty rows."""
    inside, explained = [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        raw = generator.normal(size=num_rows + 2_000)
        values = 20 * np.exp(0.8 * raw) * generator.lognormal(0, 0.6, len(raw))
        curve = calibrate_outcome(raw[:num_rows], values[:num_rows])
        score, lower, upper = curve.apply(raw[num_rows:])
        new = values[num_rows:]
        inside.append(((new >= lower) & (new <= upper)).mean())
        explained.append(1 - np.mean((new - score) ** 2) / np.var(new))
    assert np.mean(explained) > least_r2
    assert 0.87 < np.mean(inside) < 0.96


def test_the_outcome_interval_covers_where_outcomes_of_high_scores_lie_apart() -> None:
    generator = np.random.default_rng(0)
    raw = generator.random(20_000)
    values = raw + (1 + 5 * raw) * generator.normal(size=len(raw))
    _, lower, upper = calibrate_outcome(raw[:10_000], values[:10_000]).apply(raw[10_000:])
    inside = (values[10_000:] >= lower) & (values[10_000:] <= upper)
    assert 0.88 < inside.mean() < 0.92
    assert 0.86 < inside[raw[10_000:] > 0.9].mean() < 0.94


def test_a_calibration_survives_its_tensors() -> None:
    curve = calibrate_rate(*drawn(0), seed=0)
    again = Calibration.from_tensors(dict(curve.to_tensors()))
    np.testing.assert_array_equal(
        curve.apply(np.arange(-3.0, 3.0)), again.apply(np.arange(-3.0, 3.0))
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_the_unlike_are_flagged_and_the_like_are_not(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(6, 6))
    seen = generator.normal(size=(4_000, 6)) @ mixing
    familiarity = Familiarity.fit(seen, np.arange(4_000) % 5 == 0)
    like = generator.normal(size=(2_000, 6)) @ mixing
    flagged = (familiarity.apply(like) < UNFAMILIAR_BELOW).mean()
    assert flagged < 0.03
    assert (familiarity.apply(like * 6) < UNFAMILIAR_BELOW).mean() > 0.8


def test_the_interval_of_an_error_holds_the_error() -> None:
    """Every resample of a calibrated answer has a larger ECE than the whole."""
    rng = np.random.default_rng(0)
    chances = rng.uniform(0.05, 0.4, 2_000)
    labels = (rng.uniform(size=2_000) < chances).astype(np.float64)

    def ece(users: npt.NDArray[np.int64]) -> list[float]:
        return [expected_calibration_error(labels[users], chances[users])]

    (value,) = ece(np.arange(2_000))
    (plain,) = bootstrap_intervals(2_000, ece, num_resamples=200)
    ((low, high),) = bootstrap_intervals(2_000, ece, num_resamples=200, is_error=True)
    assert low <= value <= high
    assert (low, high) < plain


def test_equal_scores_have_one_answer_that_is_their_mean() -> None:
    rng = np.random.default_rng(0)
    raw = np.concatenate([np.zeros(1_200), rng.uniform(1, 2, 1_800)])
    values = 10 * raw + rng.exponential(5.0, len(raw))
    curve = calibrate_outcome(raw, values)
    score, lower, upper = curve.apply(np.zeros(1))
    assert score[0] == pytest.approx(values[:1_200].mean())
    assert lower[0] < score[0] < upper[0]
    constant = calibrate_outcome(np.ones(1_000), values[:1_000])
    assert constant.apply(np.asarray([0.0, 1.0, 2.0]))[0] == pytest.approx(values[:1_000].mean())


def test_equal_probabilities_have_one_rate_whatever_the_order_of_users() -> None:
    labels = np.sort(np.random.default_rng(0).random(1_000) < 0.3).astype(np.float64)
    constant = np.full(1_000, labels.mean())
    assert expected_calibration_error(labels, constant) == pytest.approx(0.0, abs=1e-12)
    steps = np.repeat([0.2, 0.8], 500)
    gap = abs(labels[:500].mean() - 0.2) / 2 + abs(labels[500:].mean() - 0.8) / 2
    assert expected_calibration_error(labels, steps) == pytest.approx(gap)
