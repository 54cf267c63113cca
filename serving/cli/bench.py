"""`bfm bench`: the recipe as it stands on plain interaction files, beside strong baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli import bench_studies
from serving.cli.console import out, print_table

bench = typer.Typer(
    help="Benchmarks on plain interaction files, every baseline beside the model.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    bench_studies.register(bench)
    app.add_typer(bench, name="bench")


@bench.command("leave-one-out")
def leave_one_out(
    interactions: Annotated[
        Path,
        typer.Option(
            "--interactions", help="Parquet: user_id, item_id, and event_time or position."
        ),
    ],
    out_path: Annotated[Path, typer.Option("--out", help="Folder for predictions and figures.")],
    items: Annotated[
        Path | None, typer.Option("--items", help="Parquet: item_id, text. Optional.")
    ] = None,
    size: Annotated[
        str, typer.Option("--size", help="tiny, small, base, large, or parameters: 1.6M.")
    ] = "tiny",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first run.")] = 0,
    num_seeds: Annotated[
        int, typer.Option("--num-seeds", min=1, help="Runs to average; they share the budget.")
    ] = 1,
    budget_minutes: Annotated[
        float, typer.Option("--budget-minutes", help="Wall time to aim at.")
    ] = 30.0,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Whether to run the baselines too.")
    ] = True,
) -> None:
    """Last item of each user is the test, all items are ranked, nothing is sampled."""
    from behavior_model.benchmark.judgement import Options
    from behavior_model.benchmark.leave_one_out import run

    options = Options(
        interactions=interactions.resolve(),
        items=None if items is None else items.resolve(),
        out=out_path.resolve(),
        size=size,
        seeds=tuple(range(seed, seed + num_seeds)),
        budget_minutes=budget_minutes,
        with_baselines=baselines,
    )
    results = run(options, lambda line: out.print(line, markup=False))
    by_metric = {result.metric: result for result in results}
    columns = ("ndcg@10", "recall@10", "ndcg@5", "recall@5")
    first = by_metric[columns[0]]
    rows = [("model", [by_metric[c].model for c in columns])]
    rows += [
        (f"{kind}{name}", [getattr(by_metric[c], table)[name] for c in columns])
        for kind, table in (("alone: ", "parts"), ("baseline: ", "baselines"))
        for name in getattr(first, table)
    ]
    print_table(
        f"Leave-one-out, full ranking: {first.num_users:,} users, {first.num_items:,} items, "
        f"{first.num_events:,} interactions, {num_seeds} seed(s), spread of NDCG@10 "
        f"{first.spread['model']:.4f}, {first.seconds:.0f} s",
        ["", *columns],
        [[name, *(f"{value:.4f}" for value in values)] for name, values in rows],
    )
    out.print(f"Predictions and figures: {options.out}", markup=False)
