"""`evaluation.json`: one result per task, metric and split, beside its baselines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from behavior_model.evaluation.comparison import ERRORS, strongest
from behavior_model.metrics import Interval
from pipelines.errors import WorkspaceError
from pipelines.workspace import write_json_atomically

SCHEMA_VERSION: Final = 1
MAX_WIDTH: Final = 0.2
"""Of an interval that still says something; an AUC of .75 needs thirty outcomes for it, one of .9
sixteen (Hanley and McNeil, 1982)."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure of the model with everything that is needed to read it.

    Args:
        task: Task name.
        metric: Metric name, for example "ndcg@10".
        split: "test" or "validation"; a slice is named after a slash ("test/active").
        cut: Prediction time, ISO 8601.
        model: The model's figure.
        interval: 95 per cent bootstrap interval over those judged.
        baselines: Figure per baseline on the same split.
        parts: Figure per part of the model (transformer alone, each memory alone).
        num_users: Users judged; search: queries; tagging and likeness, where products are judged:
            users behind them.
        num_items: Items or categories that could be ranked; tagging: products judged; 0 for user
            tasks.
        num_events: Events of history that the model could see.
        seed: Seed of the run.
        seconds: Wall time of fitting the head, of rankings and likeness until it has answered;
            without baselines.
        peak_memory_bytes: Peak resident memory of the process that evaluated.
        spread: Standard deviation over seeds per name, where a method has randomness.
        gain_interval: 95 per cent bootstrap interval of the model's figure less the strongest
            baseline's, both judged on the same draws; None without baselines.
    """

    task: str
    metric: str
    split: str
    cut: str
    model: float
    interval: Interval
    baselines: Mapping[str, float]
    num_users: int
    num_items: int
    num_events: int
    seed: int
    seconds: float
    peak_memory_bytes: int
    parts: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    gain_interval: Interval | None = None

    def __str__(self) -> str:
        low, high = self.interval
        text = f"{self.task}: {self.metric} {self.model:.4f} [{low:.3f}, {high:.3f}]"
        name, value = self.best_baseline
        if not math.isnan(value):
            text += f", {self.model - value:+.4f}{self.gain_range} to {name}"
        return f"{text} ({self.split}, {self.num_users:,} users)"

    @property
    def gain_range(self) -> str:
        """The interval of the gain as text; empty where there is none."""
        if self.gain_interval is None:
            return ""
        low, high = self.gain_interval
        return f" [{low:+.3f}, {high:+.3f}]"

    @property
    def is_error(self) -> bool:
        """Whether the smaller figure is the better one."""
        return self.metric in ERRORS

    @property
    def best_baseline(self) -> tuple[str, float]:
        """Name and figure of the strongest baseline (the smallest for errors such as ECE)."""
        name = strongest(self.metric, self.baselines)
        return ("none", math.nan) if name is None else (name, self.baselines[name])

    @property
    def is_vague(self) -> bool:
        """Whether so few are judged that the figure could as well be another."""
        return self.interval[1] - self.interval[0] > MAX_WIDTH


def main_results(results: Iterable[Result]) -> list[Result]:
    """The first figure of each task and split: a task names its main metric first."""
    first: dict[tuple[str, str], Result] = {}
    for result in results:
        first.setdefault((result.task, result.split), result)
    return list(first.values())


def write_evaluation(path: Path, results: Iterable[Result]) -> None:
    """Write results under the contract's schema. A figure that is not a number becomes null."""
    rows = [_without_nan(asdict(result)) for result in results]
    write_json_atomically(path, {"schema_version": SCHEMA_VERSION, "results": rows})


def read_evaluation(path: Path) -> list[Result]:
    """Read what `write_evaluation` wrote.

    Raises:
        WorkspaceError: nothing was evaluated yet.
    """
    if not path.is_file():
        raise WorkspaceError(f"{path}: nothing evaluated yet. Run: bfm evaluate --workspace DIR")
    rows = json.loads(path.read_text(encoding="utf-8"))["results"]
    return [Result(**{**row, **_figures(row)}) for row in rows]


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """A result's figures with NaN for null and pairs for lists."""
    by_name = {name: row.get(name, {}).items() for name in ("baselines", "parts", "spread")}
    pairs = [name for name in ("interval", "gain_interval") if row.get(name) is not None]
    return {
        "model": _number(row["model"]),
        **{name: {key: _number(one) for key, one in ones} for name, ones in by_name.items()},
        **{name: tuple(map(_number, row[name])) for name in pairs},
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return value
