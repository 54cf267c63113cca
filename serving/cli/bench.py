"""`bfm bench`: the recipe as it stands on plain interaction files, beside strong baselines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli import bench_content, bench_studies
from serving.cli.bench_options import (
    BudgetOption,
    FolderOption,
    InteractionsOption,
    ItemsOption,
    SeedOption,
    SizeOption,
    TimedInteractionsOption,
)
from serving.cli.console import out, print_table

if TYPE_CHECKING:
    from behavior_model.benchmark.split import Splitter
    from behavior_model.evaluation.results import Result

NumSeedsOption = Annotated[
    int, typer.Option("--num-seeds", min=1, help="Runs to average; they share the budget.")
]
BaselinesOption = Annotated[
    bool, typer.Option("--baselines/--no-baselines", help="Whether to run the baselines too.")
]
BaselineMinutesOption = Annotated[
    float | None,
    typer.Option(
        "--baseline-minutes",
        help="Time of each baseline, beside the budget: SASRec and GRU4Rec train as long, others "
        "are left out if they need more. By default a tenth of the budget, within it.",
    ),
]

bench = typer.Typer(
    help="Benchmarks on plain interaction files, every baseline beside the model.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    bench_content.register(bench)
    bench_studies.register(bench)
    app.add_typer(bench, name="bench")


@bench.command("leave-one-out")
def leave_one_out(
    interactions: InteractionsOption,
    out_path: FolderOption,
    items: ItemsOption = None,
    size: SizeOption = "tiny",
    seed: SeedOption = 0,
    num_seeds: NumSeedsOption = 1,
    budget_minutes: BudgetOption = 30.0,
    baselines: BaselinesOption = True,
    baseline_minutes: BaselineMinutesOption = None,
) -> None:
    """Last item of each user is the test, all items are ranked, nothing is sampled."""
    from behavior_model.benchmark.split import leave_one_out as split

    _run(
        split,
        interactions=interactions,
        items=items,
        out_path=out_path,
        size=size,
        seeds=range(seed, seed + num_seeds),
        budget_minutes=budget_minutes,
        with_baselines=baselines,
        baseline_minutes=baseline_minutes,
    )


@bench.command("time-split")
def time_split(
    interactions: TimedInteractionsOption,
    out_path: FolderOption,
    items: ItemsOption = None,
    test_share: Annotated[
        float, typer.Option("--test-share", help="Share of all interactions, the last, to test on.")
    ] = 0.1,
    size: SizeOption = "tiny",
    seed: SeedOption = 0,
    num_seeds: NumSeedsOption = 1,
    budget_minutes: BudgetOption = 30.0,
    baselines: BaselinesOption = True,
    baseline_minutes: BaselineMinutesOption = None,
) -> None:
    """One time for all: first item of each user from then on is the test, all items are ranked."""
    from behavior_model.benchmark.split import time_split as split

    _run(
        partial(split, test_share=test_share),
        interactions=interactions,
        items=items,
        out_path=out_path,
        size=size,
        seeds=range(seed, seed + num_seeds),
        budget_minutes=budget_minutes,
        with_baselines=baselines,
        baseline_minutes=baseline_minutes,
    )


def _run(
    split: Splitter,
    *,
    interactions: Path,
    items: Path | None,
    out_path: Path,
    size: str,
    seeds: range,
    budget_minutes: float,
    with_baselines: bool,
    baseline_minutes: float | None,
) -> None:
    from behavior_model.benchmark.answers import Options
    from behavior_model.benchmark.full_ranking import run

    options = Options(
        interactions=interactions.resolve(),
        items=None if items is None else items.resolve(),
        out=out_path.resolve(),
        split=split,
        size=size,
        seeds=tuple(seeds),
        budget_minutes=budget_minutes,
        with_baselines=with_baselines,
        baseline_minutes=baseline_minutes,
    )
    _print_table(run(options, lambda line: out.print(line, markup=False)))
    out.print(f"Predictions and figures: {options.out}", markup=False)


def _print_table(results: Sequence[Result]) -> None:
    by_metric = {result.metric: result for result in results}
    columns = ("ndcg@10", "recall@10", "ndcg@5", "recall@5")
    first = by_metric[columns[0]]
    rows = [("model", [by_metric[c].model for c in columns])]
    rows += [
        (f"{kind}{name}", [getattr(by_metric[c], table)[name] for c in columns])
        for kind, table in (("alone: ", "parts"), ("baseline: ", "baselines"))
        for name in getattr(first, table)
    ]
    seeds = "one seed"
    if first.spread["seeds"] > 1:
        deviation = f"{first.spread['model']:.4f}"
        seeds = f"{first.spread['seeds']:.0f} seeds, standard deviation of NDCG@10 {deviation}"
    print_table(
        f"{first.task.capitalize()}, full ranking: {first.num_users:,} users, "
        f"{first.num_items:,} items, {first.num_events:,} interactions, "
        f"{seeds}, {first.seconds:.0f} s",
        ["", *columns],
        [[name, *(f"{value:.4f}" for value in values)] for name, values in rows],
    )
    out.print(str(first), markup=False)
