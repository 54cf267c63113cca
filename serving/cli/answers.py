"""Commands that answer from a finished workspace: `bfm score`, `bfm export`, `bfm serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.clock import to_micros
from pipelines.errors import UserError
from pipelines.workspace import Workspace
from serving.cli.console import out
from serving.cli.options import (
    AsOfOption,
    OutOption,
    WorkspaceOption,
    existing_workspace,
    parse_time,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(score)
    app.command()(export)
    app.command()(serve)


def score(
    task: Annotated[str, typer.Argument(help="recommendation, churn, search, tagging, ...")],
    workspace: WorkspaceOption,
    out_path: OutOption,
    k: Annotated[int, typer.Option("--k", min=1, max=1000, help="Length of ranked lists.")] = 10,
    as_of: AsOfOption = None,
) -> None:
    """Score every user with any history before --as-of; many in parallel on Ray.

    By default as of the last refresh of the shelf, else of the cut.
    """
    from behavior_model.scoring import score as score_task

    place = existing_workspace(workspace)
    _require_file(out_path)
    rows = score_task(place, task, out_path, k=k, as_of_us=moment_of(place, as_of))
    out.print(f"{rows:,} rows of '{task}' written to {out_path}")


def export(
    entity: Annotated[
        str, typer.Option("--entity", help="user or item; users compare among themselves.")
    ],
    workspace: WorkspaceOption,
    out_path: OutOption,
    as_of: AsOfOption = None,
) -> None:
    """Write embeddings of all users or items: columns id, embedding.

    By default as of the last refresh of the shelf, else of the cut.
    """
    from behavior_model.scoring import export as export_entity

    place = existing_workspace(workspace)
    _require_file(out_path)
    rows = export_entity(place, entity, out_path, as_of_us=moment_of(place, as_of))
    out.print(f"{rows:,} {entity} embeddings written to {out_path}")


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"--out {path} is a folder. Give a file, such as {path / 'out.parquet'}.")


def moment_of(workspace: Workspace, as_of: str | None) -> int:
    """Prediction time, UTC microseconds."""
    from behavior_model.bundle import read_manifest
    from feature_store.refreshed import Refreshed
    from feature_store.settings import Shelf

    given = parse_time(as_of)
    if given is not None:
        return to_micros(given)
    known_us, refreshed = (
        read_manifest(workspace.bundle).knows_until_us,
        Refreshed.load(Shelf(workspace)),
    )
    return max(known_us, refreshed.as_of_us if refreshed else 0)


def serve(
    workspace: WorkspaceOption,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve the workspace's bundle over HTTP."""
    from serving.app import serve as serve_workspace

    serve_workspace(existing_workspace(workspace), host=host, port=port)
