"""`bfm simulate`: a shop with known truth, of any size."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli.bench_options import FolderOption
from serving.cli.console import out, print_table


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(simulate)


def simulate(
    out_path: FolderOption,
    events: Annotated[int, typer.Option("--events", help="Events to aim at.")] = 100_000,
    users: Annotated[
        int | None, typer.Option("--users", help="Customers; by default 150 events a year each.")
    ] = None,
    items: Annotated[int | None, typer.Option("--items", help="Rows of the catalogue.")] = None,
    days: Annotated[int, typer.Option("--days", help="Days from 2024-01-01 on.")] = 365,
    markets: Annotated[int, typer.Option("--markets", help="Countries, up to 8.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Seed of all draws.")] = 0,
    dirty: Annotated[
        bool, typer.Option("--dirty", help="Plant broken, repeated and late order lines.")
    ] = False,
) -> None:
    """Simulate a shop with known truth: for tests and scale, never for claims of quality."""
    from pipelines.simulation.plan import SimulationOptions
    from pipelines.simulation.run import simulate as run

    folder = out_path.expanduser().resolve()
    options = SimulationOptions(
        out=folder,
        num_events=events,
        num_users=users,
        num_items=items,
        num_days=days,
        num_markets=markets,
        seed=seed,
        dirty=dirty,
    )
    simulated = run(options, lambda line: out.print(line, markup=False))
    rows = [
        [f"{kind}/{name}", f"{num:,}"]
        for kind, tables in (("raw", simulated.num_rows), ("truth", simulated.num_truth_rows))
        for name, num in sorted(tables.items())
    ]
    rows += [[f"planted: {kind}", f"{num:,}"] for kind, num in simulated.num_dirty.items()]
    print_table(f"SIMULATED shop: {simulated.num_events:,} events", ["table", "rows"], rows)
    out.print(
        "No customer, product or company in it is real: a figure from it says nothing of quality "
        f"on real data.\nDescriptions: {simulated.company} and {simulated.staff}. "
        f"Truth: {folder / 'truth'}",
        markup=False,
    )
