"""A figure of the model beside its baselines', with what chance could have made of both.

The gain over the strongest baseline is drawn pair by pair: both answer the same drawn users, so
that what makes some users harder than others weighs nothing (Efron and Tibshirani, 1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.metrics import NUM_RESAMPLES, Doubles, Interval, bootstrap_intervals

Longs = npt.NDArray[np.int64]
Statistic = Callable[[Longs], float]
"""Takes int64[D], the positions of those who are drawn; gives a figure."""

ERRORS: Final = frozenset({"ece"})
"""Metrics of which the smaller figure is the better one."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One figure of a model and its baselines.

    Args:
        model: The model's figure.
        interval: Its 95 per cent bootstrap interval over those judged.
        baselines: Figure per baseline.
        gain_interval: The same of the model's figure less the strongest baseline's; None without
            baselines.
    """

    model: float
    interval: Interval
    baselines: Mapping[str, float]
    gain_interval: Interval | None


def strongest(metric: str, baselines: Mapping[str, float]) -> str | None:
    """Name of the best baseline of those that have a figure; None where none has."""
    pick = min if metric in ERRORS else max
    known = [name for name, figure in baselines.items() if not math.isnan(figure)]
    return pick(known, key=lambda name: baselines[name], default=None)


def compare(
    metric: str,
    model: Statistic,
    baselines: Mapping[str, Statistic],
    num_judged: int,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    max_drawn: int | None = None,
) -> Comparison:
    """Figures over all who are judged, and intervals over those drawn with replacement.

    Args:
        metric: Its name; that of an error is in `ERRORS`.
        model: The model's figure of any who are drawn.
        baselines: The same, by name.
        num_judged: How many can be drawn.
        seed: Seed of the draws.
        num_resamples: Number of draws.
        max_drawn: Most that are drawn at once, as `bootstrap_intervals` takes it.
    """
    everybody = np.arange(num_judged)
    figures = {name: figure(everybody) for name, figure in baselines.items()}
    best = strongest(metric, figures)

    def drawn(some: Longs) -> tuple[float, ...]:
        value = model(some)
        return (value,) if best is None else (value, value - baselines[best](some))

    interval, *gain = bootstrap_intervals(
        num_judged,
        drawn,
        seed=seed,
        num_resamples=num_resamples,
        max_drawn=max_drawn,
        is_error=metric in ERRORS,
    )
    if metric in ERRORS:
        interval = max(interval[0], 0.0), max(interval[1], 0.0)
    return Comparison(
        model=model(everybody),
        interval=interval,
        baselines=figures,
        gain_interval=gain[0] if gain else None,
    )


def compare_means(
    metric: str, model: Doubles, baselines: Mapping[str, Doubles], *, seed: int = 0
) -> Comparison:
    """The same for a figure that each of U judged has alone; those without one are left out.

    Args:
        metric: Its name.
        model: float64[U]; NaN for those who cannot be judged.
        baselines: float64[U] by name, NaN for the same.
        seed: Seed of the draws.

    Raises:
        ValueError: nobody can be judged.
    """
    has = ~np.isnan(model)
    if not has.any():
        raise ValueError("no user has a value; there is nothing to take a mean of")

    def mean_of(values: Doubles) -> Statistic:
        return lambda drawn: float(values[drawn].mean())

    return compare(
        metric,
        mean_of(model[has]),
        {name: mean_of(values[has]) for name, values in baselines.items()},
        int(has.sum()),
        seed=seed,
    )
