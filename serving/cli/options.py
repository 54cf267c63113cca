"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.errors import UserError
from pipelines.workspace import Workspace

WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", help="Folder of one company's lake, model and reports.")
]
CompanyOption = Annotated[
    str | None,
    typer.Option(
        "--company",
        help="company.yaml, or 'complete-journey' for the built-in example. "
        "A workspace remembers its own.",
    ),
]
AsOfOption = Annotated[
    str | None,
    typer.Option("--as-of", help="The cut, ISO 8601 with an offset, e.g. 2017-10-01T00:00:00Z."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Parquet file to write.")]


def parse_time(text: str | None) -> datetime | None:
    """A moment with its offset, in UTC.

    Raises:
        UserError: not ISO 8601, or without an offset.
    """
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"--as-of '{text}' is not a time. Give ISO 8601 with an offset, "
            "for example 2017-10-01T00:00:00Z."
        ) from error
    if moment.tzinfo is None:
        raise UserError(f"--as-of '{text}' has no time zone. Write {moment.isoformat()}Z for UTC.")
    return moment.astimezone(UTC)


def existing_workspace(path: Path) -> Workspace:
    """The workspace at a path that holds one.

    Raises:
        UserError: nothing was made there.
    """
    workspace = Workspace(path)
    if not (workspace.state.is_dir() or (workspace.root / "streams").is_dir()):
        raise UserError(
            f"{workspace.root} is not a workspace. Make one with: "
            f"bfm run --company company.yaml --workspace {path}"
        )
    return workspace
