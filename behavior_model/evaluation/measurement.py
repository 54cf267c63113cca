"""What every result says about its run: seconds, memory, numbers of users, items and events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from behavior_model.context import ModelContext
from behavior_model.evaluation.comparison import Comparison
from behavior_model.evaluation.results import Result
from behavior_model.peak_memory import peak_memory_bytes
from pipelines.clock import from_micros


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Facts that all results of one evaluation share.

    Args:
        context: Whose test cut is judged at.
        task: Task name.
        seed: Seed of the run.
        num_items: Items that could be ranked, 0 for user tasks.
        seconds: From the start of fitting until the model has answered, without its baselines.
    """

    context: ModelContext
    task: str
    seed: int
    num_items: int = 0
    seconds: float

    def result(
        self,
        metric: str,
        split: str,
        compared: Comparison,
        *,
        num_users: int,
        parts: Mapping[str, float] | None = None,
        spread: Mapping[str, float] | None = None,
    ) -> Result:
        """A result that carries this measurement's facts."""
        cut = from_micros(self.context.as_of_us)
        return Result(
            task=self.task,
            metric=metric,
            split=split,
            cut=cut.isoformat(),
            model=compared.model,
            interval=compared.interval,
            baselines=compared.baselines,
            gain_interval=compared.gain_interval,
            parts=parts or {},
            spread=spread or {},
            num_users=num_users,
            num_items=self.num_items,
            num_events=self.context.histories(self.context.test_time).num_events,
            seed=self.seed,
            seconds=self.seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )
