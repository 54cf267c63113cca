"""How loss falls with parameters and data: L(N, D) = E + A / N^alpha + B / D^beta.

The parametric form and its fit are those of Hoffmann et al., 2022 (approach 3): the Huber loss of
log residuals, minimised from many starts; intervals come from runs drawn with replacement, as
Besiroglu et al., 2024, do it. Legend: R runs, N parameters, D events trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from scipy.optimize import minimize
from scipy.special import huber, logsumexp, softmax
from threadpoolctl import threadpool_limits

from behavior_model.metrics import Doubles

HUBER_DELTA: Final = 1e-3
MIN_RUNS: Final = 6
"""One more than there are coefficients."""

START_EXPONENTS: Final = (0.1, 0.5, 1.0)
START_SHARES: Final = (0.3, 0.7, 0.95)
"""Of the smallest loss, that a start takes for irreducible."""

LARGEST_EXPONENT: Final = 3.0
MAX_ITERATIONS: Final = 300
NUM_RESAMPLES: Final = 100


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """Fitted coefficients.

    Args:
        irreducible: E, nats.
        parameter_scale: A.
        parameter_exponent: alpha; 0 where parameters buy nothing.
        data_scale: B.
        data_exponent: beta; 0 where data buys nothing.
    """

    irreducible: float
    parameter_scale: float
    parameter_exponent: float
    data_scale: float
    data_exponent: float

    def loss(self, num_parameters: Doubles | float, num_events: Doubles | float) -> Doubles:
        """Nats at N parameters and D events, of any shape."""
        by_parameters = self.parameter_scale * np.power(num_parameters, -self.parameter_exponent)
        by_data = self.data_scale * np.power(num_events, -self.data_exponent)
        return np.asarray(self.irreducible + by_parameters + by_data, dtype=np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Runs:
    """What was measured.

    Args:
        num_parameters: float64[R].
        num_events: float64[R].
        losses: float64[R], nats.
    """

    num_parameters: Doubles
    num_events: Doubles
    losses: Doubles

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, rows: Sequence[int]) -> Runs:
        """Some of the runs, in that order."""
        chosen = {name: values[list(rows)] for name, values in vars(self).items()}
        return Runs(**chosen)


def fit_scaling_law(runs: Runs) -> ScalingLaw:
    """The law of the best of many starts."""
    starts = [
        _start(runs, share, alpha, beta)
        for share, alpha, beta in product(START_SHARES, START_EXPONENTS, START_EXPONENTS)
    ]
    return _law(_descend(runs, starts))


def resampled_laws(runs: Runs, law: ScalingLaw) -> list[ScalingLaw]:
    """Laws of runs drawn with replacement, each from the law of all of them and a few other starts.

    Args:
        runs: What was measured.
        law: Fitted on all of it.
    """
    generator = np.random.default_rng(0)
    exponent = START_EXPONENTS[0]
    starts = [_start(runs, share, exponent, exponent) for share in START_SHARES]
    starts.append(_coefficients(law))
    draws = (generator.integers(0, len(runs), len(runs)) for _ in range(NUM_RESAMPLES))
    return [_law(_descend(runs.take(drawn.tolist()), starts)) for drawn in draws]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 per cent percentile interval."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _descend(runs: Runs, starts: Sequence[Doubles]) -> Doubles:
    exponents = (0.0, LARGEST_EXPONENT)
    bounds = [(None, None), (None, None), exponents, (None, None), exponents]
    with threadpool_limits(1):  # a handful of numbers: threads only wait for one another
        found = [
            minimize(
                _objective,
                start,
                args=(runs,),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": MAX_ITERATIONS},
            )
            for start in starts
        ]
    return np.asarray(min(found, key=lambda one: one.fun).x, dtype=np.float64)


def _objective(coefficients: Doubles, runs: Runs) -> tuple[float, Doubles]:
    """Sum of Huber losses over runs, and its gradient.

    Args:
        coefficients: float64[5]: log E, log A, alpha, log B, beta.
        runs: What was measured.
    """
    log_e, log_a, alpha, log_b, beta = coefficients
    log_n, log_d = np.log(runs.num_parameters), np.log(runs.num_events)
    terms_3R = np.stack([np.full(len(runs), log_e), log_a - alpha * log_n, log_b - beta * log_d])
    residuals_R = logsumexp(terms_3R, axis=0) - np.log(runs.losses)
    slopes_R = np.clip(residuals_R, -HUBER_DELTA, HUBER_DELTA)
    by_e, by_a, by_b = softmax(terms_3R, axis=0) * slopes_R
    gradient = [by_e.sum(), by_a.sum(), -(by_a @ log_n), by_b.sum(), -(by_b @ log_d)]
    scale = HUBER_DELTA**-2  # the losses are tiny, the optimiser's tolerances are absolute
    return float(huber(HUBER_DELTA, residuals_R).sum() * scale), np.asarray(gradient) * scale


def _start(runs: Runs, share: float, alpha: float, beta: float) -> Doubles:
    """A start that halves what is not irreducible between parameters and data."""
    irreducible = share * runs.losses.min()
    half = np.log((np.median(runs.losses) - irreducible) / 2)
    log_n, log_d = np.log(np.median(runs.num_parameters)), np.log(np.median(runs.num_events))
    return np.asarray([np.log(irreducible), half + alpha * log_n, alpha, half + beta * log_d, beta])


def _law(coefficients: Doubles) -> ScalingLaw:
    log_e, log_a, alpha, log_b, beta = map(float, coefficients)
    return ScalingLaw(
        irreducible=float(np.exp(log_e)),
        parameter_scale=float(np.exp(log_a)),
        parameter_exponent=alpha,
        data_scale=float(np.exp(log_b)),
        data_exponent=beta,
    )


def _coefficients(law: ScalingLaw) -> Doubles:
    return np.asarray(
        [
            np.log(law.irreducible),
            np.log(law.parameter_scale),
            law.parameter_exponent,
            np.log(law.data_scale),
            law.data_exponent,
        ]
    )
