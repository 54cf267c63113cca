"""Chances to buy from the largest categories, judged at the test cut beside baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from behavior_model.baselines.propensity import HAND_MADE, PROPENSITY_BASELINES
from behavior_model.context import ModelContext
from behavior_model.evaluation.comparison import Comparison, Statistic, compare
from behavior_model.evaluation.measurement import Measurement
from behavior_model.evaluation.results import Result
from behavior_model.heads.propensity import LEVEL, PropensityHead
from behavior_model.memory.purchases import Bools, Doubles
from behavior_model.metrics import expected_calibration_error, macro_auc

TASK: Final = "category_propensity"
NUM_RESAMPLES: Final = 300
MAX_DRAWN_USERS: Final = 5_000
"""Users of each resample at most: every one ranks and sorts all of their chances again."""

Metric = Callable[[Bools, Doubles], float]


def fit_and_judge(context: ModelContext, folder: Path, *, seed: int) -> list[Result]:
    """Fit the head, save it, and judge what was saved."""
    started = time.perf_counter()
    PropensityHead.fit(context, seed=seed).save(folder)
    head = PropensityHead.load(folder, context.vocabulary)
    measured = Measurement(
        context=context,
        task=TASK,
        seed=seed,
        num_items=len(head.targets),
        seconds=time.perf_counter() - started,
    )
    return _judge(measured, head, seed)


def _judge(measured: Measurement, head: PropensityHead, seed: int) -> list[Result]:
    context = measured.context
    moment = context.test_time
    states = context.states(moment)
    found = head.predict(context.histories(moment), states, moment).scores
    labels = LEVEL.bought(context.test_futures, head.targets)
    baselines = {
        name: score(context, head.targets, seed=seed)
        for name, score in PROPENSITY_BASELINES.items()
    }
    earlier = context.futures(context.validation_time)
    before = LEVEL.bought(earlier, head.targets).mean(axis=0)
    transformer = states.category_logits[:, head.targets].astype(np.float64)

    def compared(name: str, metric: Metric, beside: Mapping[str, Doubles]) -> Comparison:
        def figure_of(scores: Doubles) -> Statistic:
            return lambda users: metric(labels[users], scores[users])

        return compare(
            name,
            figure_of(found),
            {baseline: figure_of(scores) for baseline, scores in beside.items()},
            len(labels),
            num_resamples=NUM_RESAMPLES,
            max_drawn=MAX_DRAWN_USERS,
        )

    chances = {
        "majority": np.full(labels.shape, before.mean()),
        "rate of the window before": np.tile(before, (len(labels), 1)),
        HAND_MADE: baselines[HAND_MADE],
    }
    return [
        measured.result(
            "macro_auc",
            "test",
            compared("macro_auc", macro_auc, baselines),
            num_users=len(labels),
            parts={"transformer": macro_auc(labels, transformer)},
        ),
        measured.result("ece", "test", compared("ece", _ece, chances), num_users=len(labels)),
    ]


def _ece(labels: Bools, chances: Doubles) -> float:
    return expected_calibration_error(labels.ravel().astype(np.float64), chances.ravel())
