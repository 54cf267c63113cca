"""`bfm stream`: events go into the lake as they come."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from pipelines.workspace import Workspace
from serving.cli.console import out, print_table
from serving.cli.options import CompanyOption, WorkspaceOption
from serving.cli.rooms import company_path


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(stream)


def stream(
    workspace: WorkspaceOption,
    company: CompanyOption = None,
    table: Annotated[
        list[str] | None,
        typer.Option("--table", help="A table of events; all folders and topics by default."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Take in what is there, then end.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", min=0.1, help="Least seconds between two batches.")
    ] = 5.0,
) -> None:
    """Take new files of a folder and messages of a topic in as they come; Ctrl-C ends it.

    It goes on where it ended, also after a kill: no event is lost, none counts twice.
    """
    from pipelines.flow.lock import workspace_lock
    from pipelines.flow.runner import StageContext
    from pipelines.flow.stream import run_streams
    from serving.line import settings_for

    place, chosen = Workspace(workspace), {"company_path": company_path(company)}
    settings = settings_for(place, **chosen)
    if not settings.is_remembered(place):
        with workspace_lock(place):  # a run may have remembered others meanwhile
            settings = settings_for(place, **chosen)
            settings.save(place)
    context = StageContext(place, settings, say=out.print)
    asked_to_stop = threading.Event()
    try:
        context.spark()  # a session that starts takes the handler of SIGINT for itself
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: asked_to_stop.set())
        done = run_streams(
            context,
            names=table or (),
            once=once,
            interval_s=interval,
            stopped=asked_to_stop.is_set,
        )
    finally:
        context.stop_spark()
    print_table(
        "Since the first start",
        [
            "table",
            "rows in",
            "accepted",
            "quarantined",
            "duplicates",
            "expired",
            "inserted",
            "late",
        ],
        [
            [
                name,
                *(
                    f"{count:,}"
                    for count in (
                        one.input_rows,
                        one.accepted,
                        one.quarantined,
                        one.duplicates,
                        one.expired,
                        one.inserted,
                        one.late,
                    )
                ),
            ]
            for name, one in done.items()
        ],
    )
