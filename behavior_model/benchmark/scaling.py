"""What more parameters and more data buy: trainings on a grid of both, and the law through them.

A tenth of the users is held out of every training and judged in all of them: the loss is that of
their validation item, given what they took before it. Data grows by users, each amount holding the
smaller ones. Batch and negatives are the same everywhere, so that size and data alone differ; shape
and learning rate follow the dial. Legend: N parameters of the body, D events trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from behavior_model.benchmark.answers import Say
from behavior_model.benchmark.interaction_files import TEXT, read_interactions
from behavior_model.benchmark.interactions import POSITION, Interactions, Longs
from behavior_model.benchmark.runs import run_all, study_recipe
from behavior_model.benchmark.scaling_study import (
    ScalingRow,
    ScalingStudy,
    law_table,
    loss_plot,
    runs_table,
    study_of,
)
from behavior_model.benchmark.split import BeforeLast
from behavior_model.benchmark.training import BenchmarkJob
from behavior_model.benchmark.validation import NUM_HIDDEN, Validation, require_validation
from behavior_model.dial import parameters_of, shape_for
from behavior_model.evaluation.study_page import write_study_page
from behavior_model.recipes import Recipe
from pipelines.contracts import ITEM_ID, USER_ID
from pipelines.errors import UserError
from pipelines.workspace import write_bytes_atomically, write_json_atomically

HELD_OUT_SHARE: Final = 0.1
SHARES: Final = (0.125, 0.25, 0.5, 1.0)
"""Of the users that are not held out."""

BATCH_TOKENS: Final = 512
NUM_NEGATIVES: Final = 1_024
MIN_SIZES: Final = 2
FIGURES_FILE: Final = "scaling.json"
PAGE_FILE: Final = "scaling.html"
PLOT_FILE: Final = "scaling.svg"


@dataclass(frozen=True, kw_only=True)
class ScalingOptions:
    """What the command was asked.

    Args:
        interactions: Parquet of interactions.
        items: Parquet of texts, if any.
        out: Folder of everything that is written.
        sizes: Points on the dial.
        epochs: Passes of each training over its own data.
    """

    interactions: Path
    items: Path | None
    out: Path
    sizes: tuple[str, ...] = ("0.1M", "0.4M", "1.6M")
    epochs: int = 5


def run(options: ScalingOptions, say: Say) -> ScalingStudy:
    """Train the whole grid, fit the law, and write figures, plot and page.

    Raises:
        UserError: a file that cannot be used, an unknown size, or too few sizes or epochs.
    """
    if len({shape_for(parameters_of(size)) for size in options.sizes}) < MIN_SIZES:
        raise UserError(
            f"--sizes {','.join(options.sizes)}: a law needs {MIN_SIZES} sizes that differ, "
            "for example 0.1M,0.4M,1.6M."
        )
    options = replace(options, sizes=tuple(dict.fromkeys(options.sizes)))
    full = read_interactions(options.interactions, options.items)
    jobs = scaling_jobs(options, full)
    found = run_all([job for _, _, job in jobs], say)
    rows = [
        _row(size, share, job, one) for (size, share, job), one in zip(jobs, found, strict=True)
    ]
    study = study_of(sorted(rows, key=lambda row: (row.num_parameters, row.num_events)))
    _write(options, study)
    return study


def split_users(full: Interactions) -> tuple[Longs, Mapping[float, Longs]]:
    """Positions of the held-out users, and of those that each share trains on."""
    shuffled = np.random.default_rng(0).permutation(len(full))
    num_held_out = max(round(HELD_OUT_SHARE * len(full)), 1)
    held_out, others = shuffled[:num_held_out], shuffled[num_held_out:]
    by_share = {share: np.sort(others[: round(share * len(others))]) for share in SHARES}
    return np.sort(held_out), by_share


def scaling_jobs(
    options: ScalingOptions, full: Interactions
) -> list[tuple[str, float, BenchmarkJob]]:
    """Size, share and training, the longest first; writes the files that they read."""
    data = options.out / "data"
    held_out, by_share = split_users(full)
    _write_items(data / "items.parquet", full)
    _write_interactions(data / "held_out.parquet", full.select(held_out))
    for users in (held_out, *by_share.values()):
        require_validation(full.select(users), options.interactions)
    jobs = []
    for share, users in sorted(by_share.items(), reverse=True):
        learners = full.select(users)
        path = data / f"share-{share:g}.parquet"
        _write_interactions(path, learners)
        for size in sorted(options.sizes, key=parameters_of, reverse=True):
            job = BenchmarkJob(
                interactions=path,
                items=data / "items.parquet",
                asked=data / "held_out.parquet",
                cutoff=BeforeLast(NUM_HIDDEN),
                folder=options.out / "runs" / f"{size}-{share:g}",
                text_cache=options.out / "text_cache",
                recipe=_recipe(size, learners.without_last(NUM_HIDDEN), options.epochs),
                seed=0,
            )
            jobs.append((size, share, job))
    return jobs


def _recipe(size: str, history: Interactions, epochs: int) -> Recipe:
    recipe = study_recipe(size, history, epochs)
    training = replace(recipe.training, batch_tokens=BATCH_TOKENS, num_negatives=NUM_NEGATIVES)
    return replace(recipe, training=training)


def _row(size: str, share: float, job: BenchmarkJob, found: Validation) -> ScalingRow:
    return ScalingRow(
        size=size,
        num_parameters=shape_for(parameters_of(size)).num_parameters,
        share=share,
        num_events=job.history().num_events,
        nats=float(found.nats.mean()),
        ndcg=float(found.ndcg.mean()),
        seconds=found.seconds,
    )


def _write_items(path: Path, full: Interactions) -> None:
    """All items, so that every training ranks the same ones."""
    _write_parquet(path, {ITEM_ID: full.item_ids, TEXT: pa.array(full.texts, pa.string())})


def _write_interactions(path: Path, part: Interactions) -> None:
    places = np.arange(part.num_events) - np.repeat(part.offsets[:-1], part.lengths)
    columns = {
        USER_ID: part.user_ids.take(pa.array(part.users)),
        ITEM_ID: part.item_ids.take(pa.array(part.items)),
        POSITION: pa.array(places),
    }
    _write_parquet(path, columns)


def _write_parquet(path: Path, columns: Mapping[str, pa.Array]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    write_bytes_atomically(path, sink.getvalue().to_pybytes())


def _write(options: ScalingOptions, study: ScalingStudy) -> None:
    facts: dict[str, Any] = {
        "epochs": options.epochs,
        "held_out_share": HELD_OUT_SHARE,
        "runs": [asdict(row) for row in study.rows],
        "law": study.coefficients(),
        "doubts": study.doubts(),
        "predictions": study.predictions(),
    }
    write_json_atomically(options.out / FIGURES_FILE, facts)
    plot = loss_plot(study)
    plot.savefig(options.out / PLOT_FILE)
    runs = runs_table(study, options.epochs)
    write_study_page(
        options.out / PAGE_FILE,
        runs.title,
        [runs, law_table(study)],
        notes=study.doubts(),
        plots={"loss against data": plot},
    )
