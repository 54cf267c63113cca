"""The trainings of a scaling study and the law through them, as tables and as a plot.

Legend: N parameters of the transformer's body, D events trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from behavior_model.benchmark.scaling_law import (
    MIN_RUNS,
    Runs,
    ScalingLaw,
    fit_scaling_law,
    interval,
    resampled_laws,
)
from behavior_model.evaluation.study_page import StudyTable

MORE: Final = 100
NEGLIGIBLE_FALL: Final = 0.002
NEGLIGIBLE_END: Final = 0.01
"""Shares of the smallest loss below which a fall, or an irreducible loss, is none."""


@dataclass(frozen=True, kw_only=True)
class ScalingRow:
    """One training.

    Args:
        size: What was asked of the dial.
        num_parameters: N.
        share: Of the users that are not held out.
        num_events: D.
        nats: Mean cross-entropy over held-out users, the softmax over all items.
        ndcg: NDCG@10 over held-out users.
        seconds: Wall time, two trainings side by side.
    """

    size: str
    num_parameters: int
    share: float
    num_events: int
    nats: float
    ndcg: float
    seconds: float


@dataclass(frozen=True, eq=False, kw_only=True)
class ScalingStudy:
    """Runs and the law through them.

    Args:
        rows: One per training.
        law: Fitted on all of them.
        resampled: Laws of runs drawn with replacement.
    """

    rows: Sequence[ScalingRow]
    law: ScalingLaw
    resampled: Sequence[ScalingLaw]

    def coefficients(self) -> dict[str, tuple[float, float, float]]:
        """Each coefficient with the ends of its interval."""
        return {
            name: (value, *interval([getattr(one, name) for one in self.resampled]))
            for name, value in asdict(self.law).items()
        }

    def doubts(self) -> list[str]:
        """What the runs do not say, one sentence each; no prediction that needs it holds."""
        smallest_loss = min(row.nats for row in self.rows)
        n, d = (
            _ends([r.num_parameters for r in self.rows]),
            _ends([r.num_events for r in self.rows]),
        )
        falls = {
            "parameters": self.law.loss(n[0], d[1]) - self.law.loss(n[1], d[1]),
            "data": self.law.loss(n[1], d[0]) - self.law.loss(n[1], d[1]),
        }
        found = [
            f"What more {what} would buy is not identified: over these runs it buys nothing."
            for what, fall in falls.items()
            if fall < NEGLIGIBLE_FALL * smallest_loss
        ]
        if self.law.irreducible < NEGLIGIBLE_END * smallest_loss:
            found.append(
                "The irreducible loss is not identified: no bend shows in these runs, and what is "
                "said of far more continues a straight line."
            )
        return found

    def predictions(self) -> dict[str, tuple[float, float, float]]:
        """Loss beyond the largest run, with the ends of its interval."""
        largest = max(row.num_parameters for row in self.rows)
        most = max(row.num_events for row in self.rows)
        places = {
            "the largest run": (1, 1),
            f"{MORE} times the parameters": (MORE, 1),
            f"{MORE} times the data": (1, MORE),
            f"{MORE} times both": (MORE, MORE),
        }
        found = {}
        for name, (times_n, times_d) in places.items():
            losses = [
                float(law.loss(largest * times_n, most * times_d))
                for law in (self.law, *self.resampled)
            ]
            found[name] = (losses[0], *interval(losses[1:]))
        return found


def _ends(values: Sequence[int]) -> tuple[float, float]:
    return float(min(values)), float(max(values))


def study_of(rows: Sequence[ScalingRow]) -> ScalingStudy:
    """Fit the law to rows, more of them than it has coefficients."""
    assert len(rows) >= MIN_RUNS
    runs = runs_of(rows)
    law = fit_scaling_law(runs)
    return ScalingStudy(rows=rows, law=law, resampled=resampled_laws(runs, law))


def runs_of(rows: Sequence[ScalingRow]) -> Runs:
    """What the law is fitted on."""
    return Runs(
        num_parameters=np.asarray([row.num_parameters for row in rows], dtype=np.float64),
        num_events=np.asarray([row.num_events for row in rows], dtype=np.float64),
        losses=np.asarray([row.nats for row in rows]),
    )


def runs_table(study: ScalingStudy, epochs: int) -> StudyTable:
    """One line per training."""
    return StudyTable(
        title=f"Scaling, {epochs} epochs each: loss and NDCG@10 of held-out users",
        header=("parameters", "share of users", "events", "nats", "NDCG@10", "law", "seconds"),
        rows=[
            (
                f"{row.num_parameters:,}",
                f"{row.share:g}",
                f"{row.num_events:,}",
                f"{row.nats:.3f}",
                f"{row.ndcg:.4f}",
                f"{float(study.law.loss(row.num_parameters, row.num_events)):.3f}",
                f"{row.seconds:.0f}",
            )
            for row in study.rows
        ],
    )


def law_table(study: ScalingStudy) -> StudyTable:
    """Coefficients and predictions, each with its interval."""
    lines = {**study.coefficients(), **{f"nats at {k}": v for k, v in study.predictions().items()}}
    return StudyTable(
        title="L(N, D) = irreducible + parameter_scale / N ^ parameter_exponent "
        "+ data_scale / D ^ data_exponent",
        header=("", "fitted", "95 %, runs drawn with replacement"),
        rows=[
            (name.replace("_", " "), f"{value:.4g}", f"{low:.4g} to {high:.4g}")
            for name, (value, low, high) in lines.items()
        ],
    )


def loss_plot(study: ScalingStudy) -> Figure:
    """Loss against data, a colour per size: runs as dots, the law as lines."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    by_size: dict[int, list[ScalingRow]] = {}
    for row in study.rows:
        by_size.setdefault(row.num_parameters, []).append(row)
    for num_parameters, rows in by_size.items():
        events = np.asarray([row.num_events for row in rows], dtype=np.float64)
        (dots,) = axes.plot(
            events, [row.nats for row in rows], "o", label=f"{num_parameters / 1e6:.2g} million"
        )
        fine = np.geomspace(events.min(), events.max(), 50)
        axes.plot(fine, study.law.loss(num_parameters, fine), color=dots.get_color())
    axes.set_xscale("log")
    axes.set_xlabel("events trained on")
    axes.set_ylabel("loss on held-out users, nats")
    axes.legend(title="parameters", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
