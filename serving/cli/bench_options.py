"""Options that the benchmark's commands share; a wrong one is refused before torch is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def _readable(path: Path | None) -> Path | None:
    if path is not None:
        from behavior_model.benchmark.interaction_files import column_names

        column_names(path.resolve())
    return path


def _on_the_dial(size: str) -> str:
    from behavior_model.dial import parameters_of

    parameters_of(size)
    return size


def _parquet(name: str, text: str) -> Any:
    return typer.Option(name, callback=_readable, help=text)


InteractionsOption = Annotated[
    Path, _parquet("--interactions", "Parquet: user_id, item_id, and event_time or position.")
]
TimedInteractionsOption = Annotated[
    Path, _parquet("--interactions", "Parquet: user_id, item_id, event_time.")
]
ItemsOption = Annotated[Path | None, _parquet("--items", "Parquet: item_id, text. Optional.")]
TextedItemsOption = Annotated[Path, _parquet("--items", "Parquet: item_id, text.")]
SourceOption = Annotated[
    Path, _parquet("--source", "Interactions of the shop the core is trained on.")
]
SourceItemsOption = Annotated[
    Path, _parquet("--source-items", "Texts of that shop: item_id, text.")
]
FolderOption = Annotated[Path, typer.Option("--out", help="Folder for everything that is written.")]
SizeOption = Annotated[
    str,
    typer.Option(
        "--size", callback=_on_the_dial, help="tiny, small, base, large, or parameters: 1.6M."
    ),
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, help="Seed of all draws, of the first run where there are more."),
]
BudgetOption = Annotated[float, typer.Option("--budget-minutes", help="Wall time to aim at.")]
