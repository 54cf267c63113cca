"""Speed of a training over a few steps, for the benchmarks beside this file."""

from __future__ import annotations

import time

from behavior_model.training.loop import TrainingRun


def events_per_processor_second(run: TrainingRun, *, warm_steps: int, steps: int) -> float:
    """Processor time, so that a busy machine disturbs the figure little."""
    events, started = 0, 0.0
    for report in run.steps():
        if report.progress.global_step == warm_steps:
            started = time.process_time()
        elif report.progress.global_step > warm_steps:
            events += report.num_events
        if report.progress.global_step == warm_steps + steps:
            break
    return events / (time.process_time() - started)
