"""The fit of the scaling law on losses whose law is known."""

from itertools import product

import numpy as np
import pytest
from scipy.optimize import check_grad

from behavior_model.benchmark import scaling_law
from behavior_model.benchmark.scaling_law import (
    Runs,
    ScalingLaw,
    _objective,
    fit_scaling_law,
    interval,
    resampled_laws,
)

KNOWN = ScalingLaw(
    irreducible=1.69,
    parameter_scale=406.4,
    parameter_exponent=0.34,
    data_scale=410.7,
    data_exponent=0.28,
)
"""Hoffmann et al., 2022, table A3."""


def made_up(law: ScalingLaw, noise: float = 0.0) -> Runs:
    sizes, amounts = np.geomspace(1e5, 1e8, 5), np.geomspace(1e6, 1e10, 6)
    n, d = np.asarray(list(product(sizes, amounts))).T
    noise_R = np.random.default_rng(1).normal(0.0, noise, len(n))
    return Runs(num_parameters=n, num_events=d, losses=law.loss(n, d) * np.exp(noise_R))


def test_known_coefficients_are_found_again() -> None:
    law = fit_scaling_law(made_up(KNOWN))
    assert law.irreducible == pytest.approx(KNOWN.irreducible, rel=0.01)
    assert law.parameter_exponent == pytest.approx(KNOWN.parameter_exponent, rel=0.01)
    assert law.data_exponent == pytest.approx(KNOWN.data_exponent, rel=0.01)
    assert law.parameter_scale == pytest.approx(KNOWN.parameter_scale, rel=0.05)
    assert law.data_scale == pytest.approx(KNOWN.data_scale, rel=0.05)


def test_it_extrapolates_from_twelve_small_runs() -> None:
    n, d = np.asarray(list(product((1e5, 4e5, 1.6e6), (2e4, 4e4, 8e4, 1.6e5)))).T
    law = fit_scaling_law(Runs(num_parameters=n, num_events=d, losses=KNOWN.loss(n, d)))
    assert float(law.loss(1.6e8, 1.6e7)) == pytest.approx(float(KNOWN.loss(1.6e8, 1.6e7)), rel=0.02)


def test_one_wild_run_is_forgiven() -> None:
    runs = made_up(KNOWN)
    runs.losses[7] *= 2.0
    law = fit_scaling_law(runs)
    assert law.data_exponent == pytest.approx(KNOWN.data_exponent, rel=0.05)


def test_the_interval_covers_what_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_law, "NUM_RESAMPLES", 40)
    runs = made_up(KNOWN, noise=0.01)
    law = fit_scaling_law(runs)
    laws = resampled_laws(runs, law)
    assert laws == resampled_laws(runs, law)
    low, high = interval([one.data_exponent for one in laws])
    assert low < KNOWN.data_exponent < high
    low, high = interval([float(one.loss(1e9, 1e11)) for one in laws])
    assert low < float(KNOWN.loss(1e9, 1e11)) < high


def test_parameters_that_buy_nothing_have_no_exponent_below_zero() -> None:
    runs = made_up(KNOWN)
    worse = runs.losses.mean() * (runs.num_parameters / 1e6) ** 0.01
    law = fit_scaling_law(
        Runs(num_parameters=runs.num_parameters, num_events=runs.num_events, losses=worse)
    )
    assert law.parameter_exponent >= 0.0
    assert np.isfinite(law.loss(1e9, 1e11))


def test_the_gradient_is_that_of_the_objective() -> None:
    runs = made_up(KNOWN, noise=0.0005)
    at = np.log([1.7, 400.0, 1.0, 410.0, 1.0])
    at[2], at[4] = 0.34, 0.28
    error = check_grad(lambda x: _objective(x, runs)[0], lambda x: _objective(x, runs)[1], at)
    assert error < 1e-3 * np.linalg.norm(_objective(at, runs)[1])
