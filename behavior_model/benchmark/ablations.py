"""What each part of the benchmark's recipe is worth: the recipe with one thing changed.

Every variant is trained without the last two items of each user and ranks all items for the second
last; no test item is looked at. Differences are paired by seed and by user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from behavior_model.benchmark.answers import Say
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.runs import run_all, study_recipe
from behavior_model.benchmark.split import BeforeLast
from behavior_model.benchmark.training import BenchmarkJob
from behavior_model.benchmark.validation import NUM_HIDDEN, Validation, require_validation
from behavior_model.benchmark.variants import FULL, VARIANTS
from behavior_model.evaluation.report import MODEL_COLOUR, PART_COLOUR
from behavior_model.evaluation.study_page import StudyTable, write_study_page
from behavior_model.metrics import Doubles, mean_with_interval
from pipelines.errors import UnknownNameError, UserError
from pipelines.workspace import write_json_atomically

MIN_SEEDS: Final = 2
FIGURES_FILE: Final = "ablations.json"
PAGE_FILE: Final = "ablations.html"


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """What the command was asked.

    Args:
        interactions: Parquet of interactions.
        items: Parquet of texts, if any.
        out: Folder of everything that is written.
        size: The dial.
        num_seeds: Trainings of each variant.
        epochs: Passes of each training.
        variants: Names of those that are run beside the full recipe.
    """

    interactions: Path
    items: Path | None
    out: Path
    size: str = "tiny"
    num_seeds: int = 3
    epochs: int = 10
    variants: tuple[str, ...] = tuple(VARIANTS)


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """A variant beside the full recipe, on validation.

    Args:
        variant: Its name.
        change: What is different about it.
        ndcg: NDCG@10, mean over seeds.
        ndcg_std: Standard deviation over seeds.
        recall: Recall@10, mean over seeds.
        nats: Cross-entropy over all items, mean over seeds.
        difference: NDCG@10 minus that of the full recipe, mean over seeds.
        difference_std: Standard deviation of the difference over seeds.
        interval: 95 per cent bootstrap interval of the difference over users, seeds averaged.
        seconds: Wall time of one training, two side by side, mean over seeds.
    """

    variant: str
    change: str
    ndcg: float
    ndcg_std: float
    recall: float
    nats: float
    difference: float
    difference_std: float
    interval: tuple[float, float]
    seconds: float


def run(options: AblationOptions, say: Say) -> list[AblationRow]:
    """Train every variant from every seed, and write figures and page.

    Raises:
        UserError: a file that cannot be used, an unknown size or variant, or too few seeds or
            epochs.
    """
    if options.num_seeds < MIN_SEEDS:
        raise UserError(
            f"--num-seeds {options.num_seeds}: a spread needs {MIN_SEEDS} seeds or more."
        )
    for name in options.variants:
        if name not in VARIANTS:
            raise UnknownNameError("variant", name, VARIANTS)
    jobs = variant_jobs(options, say)
    found = iter(run_all([job for seeds in jobs.values() for job in seeds], say))
    rows = ablation_rows({name: [next(found) for _ in seeds] for name, seeds in jobs.items()})
    write_json_atomically(options.out / FIGURES_FILE, _figures(options, rows))
    table = ablation_table(options, rows)
    write_study_page(
        options.out / PAGE_FILE,
        table.title,
        [table],
        notes=[f"{row.variant}: {row.change}" for row in rows],
        plots={"difference to the full recipe": _differences(rows)},
    )
    return rows


def variant_jobs(options: AblationOptions, say: Say) -> dict[str, list[BenchmarkJob]]:
    """The trainings of each variant, one per seed; a variant that changes nothing is left out."""
    full = read_interactions(options.interactions, options.items)
    require_validation(full, options.interactions)
    history = full.without_last(NUM_HIDDEN)
    job = BenchmarkJob(
        interactions=options.interactions,
        items=options.items,
        cutoff=BeforeLast(NUM_HIDDEN),
        folder=options.out,
        text_cache=options.out / "text_cache",
        recipe=study_recipe(options.size, history, options.epochs),
        seed=0,
    )
    if not history.has_texts:
        job = replace(job, with_texts=False)
    jobs: dict[str, list[BenchmarkJob]] = {}
    for name, variant in VARIANTS.items():
        if name not in (FULL, *options.variants):
            continue
        changed = variant(job)
        if name != FULL and changed == job:
            say(f"variant '{name}' left out: on these files the full recipe is just that")
            continue
        stem = name.replace(" ", "-")
        jobs[name] = [
            replace(changed, seed=seed, folder=options.out / "runs" / f"{stem}-{seed}")
            for seed in range(options.num_seeds)
        ]
    return jobs


def ablation_rows(validations: Mapping[str, Sequence[Validation]]) -> list[AblationRow]:
    """One row per variant; the full recipe is among them and each has the same seeds."""
    full = np.stack([one.ndcg for one in validations[FULL]])
    return [_row(name, seeds, full) for name, seeds in validations.items()]


def _row(name: str, seeds: Sequence[Validation], full_SU: Doubles) -> AblationRow:
    ndcg_SU = np.stack([one.ndcg for one in seeds])
    differences_SU = ndcg_SU - full_SU
    difference, interval = mean_with_interval(differences_SU.mean(axis=0))
    return AblationRow(
        variant=name,
        change=(VARIANTS[name].__doc__ or "").strip(),
        ndcg=float(ndcg_SU.mean()),
        ndcg_std=float(ndcg_SU.mean(axis=1).std(ddof=1)),
        recall=float(np.mean([one.recall.mean() for one in seeds])),
        nats=float(np.mean([one.nats.mean() for one in seeds])),
        difference=difference,
        difference_std=float(differences_SU.mean(axis=1).std(ddof=1)),
        interval=interval,
        seconds=float(np.mean([one.seconds for one in seeds])),
    )


def ablation_table(options: AblationOptions, rows: Sequence[AblationRow]) -> StudyTable:
    """The rows as text."""
    return StudyTable(
        title=f"Ablations on validation, full ranking, the transformer alone: {options.size}, "
        f"{options.epochs} epochs, {options.num_seeds} seeds",
        header=("variant", "NDCG@10", "std", "difference", "std", "95 %", "nats", "seconds"),
        rows=[
            (
                row.variant,
                f"{row.ndcg:.4f}",
                f"{row.ndcg_std:.4f}",
                *_difference_cells(row),
                f"{row.nats:.3f}",
                f"{row.seconds:.0f}",
            )
            for row in rows
        ],
    )


def _difference_cells(row: AblationRow) -> tuple[str, str, str]:
    if row.variant == FULL:
        return "", "", ""
    low, high = row.interval
    return f"{row.difference:+.4f}", f"{row.difference_std:.4f}", f"{low:+.4f} to {high:+.4f}"


def _differences(rows: Sequence[AblationRow]) -> Figure:
    others = [row for row in rows if row.variant != FULL][::-1]
    figure = Figure(figsize=(7.0, 0.8 + 0.4 * len(others)), layout="constrained")
    axes = figure.subplots()
    names = [row.variant for row in others]
    axes.barh(names, [row.difference for row in others], color=PART_COLOUR)
    axes.hlines(names, *zip(*(row.interval for row in others), strict=True), color="black")
    axes.axvline(0.0, color=MODEL_COLOUR)
    axes.set_title("NDCG@10 on validation minus that of the full recipe", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _figures(options: AblationOptions, rows: Sequence[AblationRow]) -> dict[str, Any]:
    return {
        "split": "validation, the second last interaction of each user",
        "size": options.size,
        "epochs": options.epochs,
        "num_seeds": options.num_seeds,
        "variants": [asdict(row) for row in rows],
    }
