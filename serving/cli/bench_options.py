"""Options that the benchmark's commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

InteractionsOption = Annotated[
    Path,
    typer.Option("--interactions", help="Parquet: user_id, item_id, and event_time or position."),
]
ItemsOption = Annotated[
    Path | None, typer.Option("--items", help="Parquet: item_id, text. Optional.")
]
TextedItemsOption = Annotated[Path, typer.Option("--items", help="Parquet: item_id, text.")]
FolderOption = Annotated[Path, typer.Option("--out", help="Folder for everything that is written.")]
SizeOption = Annotated[
    str, typer.Option("--size", help="tiny, small, base, large, or parameters: 1.6M.")
]
SeedOption = Annotated[
    int,
    typer.Option("--seed", min=0, help="Seed of all draws, of the first run where there are more."),
]
BudgetOption = Annotated[float, typer.Option("--budget-minutes", help="Wall time to aim at.")]
