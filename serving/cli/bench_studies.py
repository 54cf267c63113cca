"""`bfm bench ablations` and `bfm bench scaling`: what the recipe is made of, what more buys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from serving.cli.console import out, print_table

InteractionsOption = Annotated[
    Path,
    typer.Option("--interactions", help="Parquet: user_id, item_id, and event_time or position."),
]
ItemsOption = Annotated[
    Path | None, typer.Option("--items", help="Parquet: item_id, text. Optional.")
]
FolderOption = Annotated[
    Path, typer.Option("--out", help="Folder for figures and page; what is done is kept there.")
]


def register(bench: typer.Typer) -> None:
    """Add the commands of this module to the group of benchmarks."""
    bench.command("ablations")(ablations)


def ablations(
    interactions: InteractionsOption,
    out_path: FolderOption,
    items: ItemsOption = None,
    size: Annotated[str, typer.Option("--size", help="tiny, small, base or large.")] = "tiny",
    num_seeds: Annotated[int, typer.Option("--num-seeds", help="Trainings of each variant.")] = 3,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes of each training.")] = 10,
) -> None:
    """The recipe beside itself with one thing changed, on validation items."""
    from behavior_model.benchmark.ablations import PAGE_FILE, AblationOptions, run

    options = AblationOptions(
        interactions=interactions.resolve(),
        items=None if items is None else items.resolve(),
        out=out_path.resolve(),
        size=size,
        num_seeds=num_seeds,
        epochs=epochs,
    )
    rows = run(options, lambda line: out.print(line, markup=False))
    print_table(
        f"Ablations on validation, full ranking, the transformer alone: {size}, {epochs} epochs, "
        f"{num_seeds} seeds",
        ["variant", "NDCG@10", "std", "difference", "std of it", "95 %, users", "nats", "s"],
        [
            [
                row.variant,
                f"{row.ndcg:.4f}",
                f"{row.ndcg_std:.4f}",
                f"{row.difference:+.4f}",
                f"{row.difference_std:.4f}",
                f"{row.interval[0]:+.4f} to {row.interval[1]:+.4f}",
                f"{row.nats:.3f}",
                f"{row.seconds:.0f}",
            ]
            for row in rows
        ],
    )
    out.print(f"Figures and page: {options.out / PAGE_FILE}", markup=False)
