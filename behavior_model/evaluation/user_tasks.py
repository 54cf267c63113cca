"""User tasks judged at the test cut, beside one-feature and hand-made baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from behavior_model.context import ModelContext
from behavior_model.evaluation.comparison import Statistic, compare
from behavior_model.evaluation.contract import FitAndJudge
from behavior_model.evaluation.measurement import Measurement
from behavior_model.evaluation.results import Result
from behavior_model.heads.calibration import calibrate_outcome, calibrate_rate
from behavior_model.heads.scorers import TreeScorer, signed_root
from behavior_model.heads.user_inputs import InputKind, LabelledRows, labelled_rows
from behavior_model.heads.user_task import NUM_FOLDS, UserTaskHead, fit_rows, fold_of
from behavior_model.memory.purchases import NEVER_DAYS
from behavior_model.metrics import (
    auc,
    average_precision,
    expected_calibration_error,
)
from behavior_model.tasks import (
    TaskKind,
    UserTask,
    answers_without_head,
    get_user_task,
    make_labels,
    past_at,
)
from behavior_model.user_features import (
    FREQUENCY,
    RECENCY,
    SPEND,
    feature_matrix,
    user_features,
)

Doubles = npt.NDArray[np.float64]
Chosen = npt.NDArray[np.bool_] | npt.NDArray[np.int64]

NUM_RESAMPLES: Final = 300
ONE_FEATURE: Final = {"recency": RECENCY, "basket frequency": FREQUENCY, "recent spend": SPEND}


def of(name: str) -> FitAndJudge:
    """What fits, saves and judges the user task of that name.

    Raises:
        UnknownNameError: no such task.
    """
    return partial(fit_and_judge, get_user_task(name))


def fit_and_judge(
    task: UserTask, context: ModelContext, folder: Path, *, seed: int
) -> list[Result]:
    """Fit the fused head, save it, and judge it beside its parts and baselines."""
    started = time.perf_counter()
    rows = labelled_rows(context, task, InputKind.FUSED)
    heads = {
        kind: fit_rows(rows.only(kind), task, kind, context.vocabulary, seed=seed)
        for kind in InputKind
    }
    heads[InputKind.FUSED].save(folder)
    measured = Measurement(
        context=context,
        task=task.name,
        seed=seed,
        seconds=time.perf_counter() - started,
    )
    return _judge(measured, context, task, heads, rows, seed)


@dataclass(frozen=True, eq=False)
class _Answer:
    """What one method says of U users: a ranking and, on the scale of the labels, a value."""

    ranking: Doubles
    value: Doubles

    def only(self, chosen: Chosen) -> _Answer:
        return _Answer(self.ranking[chosen], self.value[chosen])


Answers = Mapping[str, _Answer]
Metric = Callable[[Doubles, _Answer], float]


def _judge(
    measured: Measurement,
    context: ModelContext,
    task: UserTask,
    heads: Mapping[InputKind, UserTaskHead],
    rows: LabelledRows,
    seed: int,
) -> list[Result]:
    moment = context.test_time
    past = past_at(context, moment)
    labels = make_labels(task, past, context.test_futures)
    states = context.states(moment)
    parts = {}
    for kind, head in heads.items():
        scores = head.predict(past.histories, states, moment).scores
        parts[f"{kind} alone"] = _Answer(scores, scores)
    model = parts.pop(f"{InputKind.FUSED} alone")
    if (chance := answers_without_head(task, states)) is not None:
        parts["backbone without a head"] = _Answer(chance, chance)
    baselines = _baselines(context, task, rows, seed)
    asked = ~np.isnan(labels)
    there = past.num_purchases() if past.sells else past.count()
    active = asked & (there > 0)
    slices = (
        {"test": asked} if active.sum() == asked.sum() else {"test": asked, "test/active": active}
    )
    results = []
    for split, chosen in slices.items():
        if len(np.unique(labels[chosen])) < 2:
            continue  # where all users end alike, nothing can be told apart
        results += _results(
            measured,
            split,
            labels[chosen],
            model.only(chosen),
            {name: answer.only(chosen) for name, answer in parts.items()},
            {name: answer.only(chosen) for name, answer in baselines.items()},
            _metrics(task.kind),
        )
    return results


def _results(
    measured: Measurement,
    split: str,
    labels: Doubles,
    model: _Answer,
    parts: Answers,
    baselines: Answers,
    metrics: Mapping[str, Metric],
) -> list[Result]:
    def figure_of(metric: Metric, answer: _Answer) -> Statistic:
        return lambda users: metric(labels[users], answer.only(users))

    return [
        measured.result(
            name,
            split,
            compare(
                name,
                figure_of(metric, model),
                {baseline: figure_of(metric, answer) for baseline, answer in baselines.items()},
                len(labels),
                num_resamples=NUM_RESAMPLES,
            ),
            num_users=len(labels),
            parts={part: metric(labels, answer) for part, answer in parts.items()},
        )
        for name, metric in metrics.items()
    ]


def _metrics(kind: TaskKind) -> dict[str, Metric]:
    if kind is TaskKind.BINARY:
        return {
            "auc": lambda labels, answer: auc(labels, answer.ranking),
            "average_precision": _average_precision,
            "ece": lambda labels, answer: expected_calibration_error(labels, answer.value),
        }
    return {
        "spearman": lambda labels, answer: _spearman(labels, answer.ranking),
        "r2": lambda labels, answer: float(
            1.0 - np.mean((labels - answer.value) ** 2) / max(np.var(labels), 1e-12)
        ),
    }


def _average_precision(labels: Doubles, answer: _Answer) -> float:
    if not labels.any():
        return float("nan")
    return average_precision(labels, answer.ranking)


def _spearman(labels: Doubles, ranking: Doubles) -> float:
    if np.ptp(ranking) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(spearmanr(labels, ranking).statistic)


def _baselines(
    context: ModelContext, task: UserTask, rows: LabelledRows, seed: int
) -> dict[str, _Answer]:
    """Answers for all users, learned on the same earlier windows as the model.

    Calibrated there too, but for the chances of boosted trees, whose loss is proper as it is.
    """
    histories = context.histories(context.test_time)
    times = np.full(len(histories), context.test_time, dtype=np.int64)
    features = user_features(context.vocabulary, histories, times)
    constant = np.full(len(histories), rows.labels.mean())
    answers = {"majority": _Answer(constant, constant)}
    for label, name in ONE_FEATURE.items():
        before = rows.inputs.statistics[:, list(features).index(name)]
        answers[label] = _one_feature(task, rows, before, features[name], seed)
    answers["hand-made features, LightGBM"] = _boosted(task, rows, feature_matrix(features), seed)
    return answers


def _one_feature(
    task: UserTask, rows: LabelledRows, before: Doubles, now: Doubles, seed: int
) -> _Answer:
    known, current = (np.nan_to_num(values, nan=NEVER_DAYS) for values in (before, now))
    sign = 1.0 if _spearman(rows.labels, known) >= 0 else -1.0
    if task.kind is TaskKind.BINARY:
        _, users = np.unique(rows.user_ids, return_inverse=True)
        curve = calibrate_rate(sign * known, rows.labels, users, rows.times, seed=seed)
    else:
        curve = calibrate_outcome(sign * known, rows.labels)
    return _Answer(sign * current, curve.apply(sign * current)[0])


def _boosted(task: UserTask, rows: LabelledRows, now: Doubles, seed: int) -> _Answer:
    binary, inputs = task.kind is TaskKind.BINARY, rows.inputs.statistics
    targets = rows.labels if binary else signed_root(rows.labels)
    raw = TreeScorer.fit(inputs, targets, binary=binary, seed=seed).raw(now)
    if binary:
        return _Answer(raw, 1.0 / (1.0 + np.exp(-raw)))
    known, folds = np.empty(len(targets)), fold_of(rows.user_ids)
    for fold in range(NUM_FOLDS):
        out = folds == fold
        trees = TreeScorer.fit(inputs[~out], targets[~out], binary=False, seed=seed)
        known[out] = trees.raw(inputs[out])
    return _Answer(raw, calibrate_outcome(known, rows.labels).apply(raw)[0])
