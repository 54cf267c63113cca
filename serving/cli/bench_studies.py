"""`bfm bench ablations`, `scaling` and `fine-tune`: what the recipe, more of it, and labels buy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.bench_options import (
    FolderOption,
    InteractionsOption,
    ItemsOption,
    SeedOption,
    SizeOption,
)
from serving.cli.console import out, print_table
from serving.cli.options import WorkspaceOption, existing_workspace

if TYPE_CHECKING:
    from behavior_model.evaluation.study_page import StudyTable


def register(bench: typer.Typer) -> None:
    """Add the commands of this module to the group of benchmarks."""
    bench.command("ablations")(ablations)
    bench.command("scaling")(scaling)
    bench.command("fine-tune")(fine_tune)


def ablations(
    interactions: InteractionsOption,
    out_path: FolderOption,
    items: ItemsOption = None,
    size: SizeOption = "tiny",
    num_seeds: Annotated[int, typer.Option("--num-seeds", help="Trainings of each variant.")] = 3,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes of each training.")] = 10,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Only this one; may be repeated.")
    ] = None,
) -> None:
    """The recipe beside itself with one thing changed, on validation items."""
    from behavior_model.benchmark.ablations import PAGE_FILE, AblationOptions, ablation_table, run
    from behavior_model.benchmark.variants import VARIANTS

    options = AblationOptions(
        interactions=interactions.resolve(),
        items=None if items is None else items.resolve(),
        out=out_path.resolve(),
        size=size,
        num_seeds=num_seeds,
        epochs=epochs,
        variants=tuple(variant or VARIANTS),
    )
    rows = run(options, lambda line: out.print(line, markup=False))
    _print(ablation_table(options, rows))
    out.print(f"Figures and page: {options.out / PAGE_FILE}", markup=False)


def scaling(
    interactions: InteractionsOption,
    out_path: FolderOption,
    items: ItemsOption = None,
    sizes: Annotated[
        str, typer.Option("--sizes", help="Parameters of the transformer's body, with commas.")
    ] = "0.1M,0.4M,1.6M",
    epochs: Annotated[int, typer.Option("--epochs", help="Passes of each training.")] = 5,
) -> None:
    """Trainings by size and amount of data, and the law of their loss on held-out users."""
    from behavior_model.dial import parameters_of

    wanted = tuple(size.strip() for size in sizes.split(","))
    for size in wanted:
        parameters_of(size)
    from behavior_model.benchmark.scaling import PAGE_FILE, ScalingOptions, run
    from behavior_model.benchmark.scaling_study import law_table, runs_table

    options = ScalingOptions(
        interactions=interactions.resolve(),
        items=None if items is None else items.resolve(),
        out=out_path.resolve(),
        sizes=wanted,
        epochs=epochs,
    )
    study = run(options, lambda line: out.print(line, markup=False))
    _print(runs_table(study, epochs))
    _print(law_table(study))
    for doubt in study.doubts():
        out.print(doubt, markup=False)
    out.print(f"Figures and page: {options.out / PAGE_FILE}", markup=False)


def fine_tune(
    workspace: WorkspaceOption,
    out_path: FolderOption,
    task: Annotated[str, typer.Option("--task", help="A yes-or-no user task.")] = "churn",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the labels.")] = 2,
    seed: SeedOption = 0,
) -> None:
    """A head on the frozen embedding beside a backbone that is fine-tuned on the same labels."""
    from behavior_model.benchmark.fine_tuning import FIGURES_FILE, run, study_table
    from behavior_model.tasks import get_user_task
    from serving.line import open_model

    study = run(
        open_model(existing_workspace(workspace)),
        get_user_task(task),
        out_path.resolve(),
        epochs=epochs,
        seed=seed,
        say=lambda line: out.print(line, markup=False),
    )
    _print(study_table(study))
    out.print(f"Figures: {out_path.resolve() / FIGURES_FILE}", markup=False)


def _print(table: StudyTable) -> None:
    print_table(table.title, table.header, table.rows)
