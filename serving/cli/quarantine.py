"""`bfm quarantine`: why rows were refused, and how they come back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipelines.errors import UnknownNameError, UserError
from pipelines.workspace import Workspace
from serving.cli.console import out, print_table
from serving.cli.options import WorkspaceOption, existing_workspace

_EXAMPLE_LENGTH = 120


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(quarantine)


def quarantine(
    workspace: WorkspaceOption,
    table: Annotated[
        str | None, typer.Option("--table", help="Rows of this table of company.yaml alone.")
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", help="Rows that this rule refused alone.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="JSON lines to write the raw rows to.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Repaired JSON lines to take in; with --table.")
    ] = None,
) -> None:
    """List refused rows by reason, export them for repair, or take repaired ones in.

    Rows whose reason a change of company.yaml removes leave quarantine at the next `bfm ingest`.
    """
    if export is not None and replay is not None:
        raise UserError("--export writes a file and --replay reads one; give one of them.")
    place = existing_workspace(workspace)
    if table is not None:
        _require_table(place, table)
    if replay is not None:
        if table is None or rule is not None:
            raise UserError("--replay FILE needs --table NAME, the table its rows are of, alone.")
        _replay(place, replay, table)
    elif export is not None:
        from pipelines.quality.quarantine import export as write

        num = write(place, export, table, rule)
        out.print(
            f"{num:,} row(s) written to {export}. Repair them, then: bfm quarantine "
            f"--workspace {place.quoted} --replay {shlex.quote(str(export))} --table NAME"
        )
    else:
        _list(place, table, rule)


def _require_table(workspace: Workspace, table: str) -> None:
    """Refuse a name that neither company.yaml nor quarantine holds."""
    from pipelines.company import load_company
    from pipelines.flow.runner import RunSettings
    from pipelines.quality.quarantine import reasons

    known = {one.name for one in load_company(RunSettings.load(workspace).company_path).tables}
    known |= {one.table for one in reasons(workspace)}
    if table not in known:
        raise UnknownNameError("table", table, sorted(known))


def _list(workspace: Workspace, table: str | None, rule: str | None) -> None:
    from pipelines.quality.quarantine import reasons

    found = reasons(workspace, table, rule)
    if not found:
        out.print("No such row is in quarantine.")
        return
    print_table(
        "In quarantine",
        ["table", "rule", "rows", "example", "way out"],
        [
            [one.table, one.rule, f"{one.num_rows:,}", one.example[:_EXAMPLE_LENGTH], one.way_out]
            for one in found
        ],
    )
    out.print(
        "Correct company.yaml and run bfm ingest, or repair the rows: "
        "--export FILE.jsonl --table NAME, then --replay FILE.jsonl --table NAME."
    )


def _replay(workspace: Workspace, path: Path, table: str) -> None:
    from pipelines.flow.quarantine import replay
    from pipelines.flow.runner import RunSettings, StageContext

    context = StageContext(workspace, RunSettings.load(workspace), say=out.print)
    replayed = replay(context, path, table)
    out.print(str(replayed.ledger))
    out.print(
        f"{replayed.written.inserted:,} inserted, {replayed.written.updated:,} updated in "
        f"{replayed.ledger.into}; {replayed.released:,} row(s) left quarantine."
    )
