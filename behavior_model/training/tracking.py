"""Follows a run's log from the driver: a progress line in the terminal, metrics in MLflow."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, Progress, TextColumn

from behavior_model.training.worker import PretrainingJob

POLL_S: Final = 0.5
EXPERIMENT: Final = "pretraining"

Sink = Callable[[dict[str, float]], None]


@contextmanager
def follow(path: Path, sinks: list[Sink]) -> Iterator[None]:
    """Hand every new line of a log to all sinks while the block runs, the last ones included."""
    start = path.stat().st_size if path.is_file() else 0
    done = threading.Event()

    def watch() -> None:
        position = start
        while True:
            finished = done.wait(POLL_S)
            position = _hand_on(path, position, sinks)
            if finished:
                return

    thread = threading.Thread(target=watch, name="pretraining-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _hand_on(path: Path, position: int, sinks: list[Sink]) -> int:
    """Read whole lines from a position on; returns where to go on."""
    if not path.is_file():
        return position
    with path.open("rb") as file:
        file.seek(position)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    for line in whole.splitlines():
        metrics: dict[str, float] = json.loads(line)
        for sink in sinks:
            sink(metrics)
    return position + len(whole)


@contextmanager
def progress_line() -> Iterator[Sink]:
    """One line in the terminal: share done, loss, events per second, time left."""
    columns = (
        TextColumn("pretraining"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("pretraining", total=1.0, note="starting")

        def show(metrics: dict[str, float]) -> None:
            minutes, seconds = divmod(int(metrics["seconds_left"]), 60)
            note = (
                f"loss {metrics['loss']:.3f}  {metrics['events_per_second']:,.0f} events/s  "
                f"{minutes}:{seconds:02d} left"
            )
            progress.update(task, completed=metrics["share_done"], note=note)

        yield show
        progress.update(task, completed=1.0)


@contextmanager
def mlflow_run(job: PretrainingJob) -> Iterator[Sink]:
    """A run in the workspace's MLflow store, with the job's parameters.

    MLflow reports its use to its makers from the import on, unless it is told not to before.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=job.workspace.mlflow_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    run_id = client.create_run(experiment_id, tags={"run_key": job.run_key}).info.run_id
    parameters = [Param(name, str(value)) for name, value in _flat(asdict(job)).items()]
    client.log_batch(run_id, params=parameters)

    def log(metrics: dict[str, float]) -> None:
        now_ms, step = int(time.time() * 1_000), int(metrics["step"])
        moments = [Metric(name, value, now_ms, step) for name, value in metrics.items()]
        client.log_batch(run_id, metrics=moments)

    try:
        yield log
    except BaseException:
        client.set_terminated(run_id, status="FAILED")
        raise
    client.set_terminated(run_id, status="FINISHED")


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, one in value.items():
        if isinstance(one, dict):
            flat |= _flat(one, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = one
    return flat
