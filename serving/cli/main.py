"""`bfm`: the one console command, and the composition root of all rooms.

Each command imports what it needs when it runs, so that `bfm --help` and `bfm doctor` start at once
and work on a machine that lacks half of it.
"""

from __future__ import annotations

import sys

import typer

from serving.cli import (
    answers,
    audit,
    bench,
    demo,
    erase,
    machine,
    quarantine,
    refresh,
    rooms,
    simulate,
    stream,
)
from serving.cli.console import guarded

app = typer.Typer(
    name="bfm",
    help="One behavioural foundation model per business: raw events in, answers out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for module in (
    rooms,
    refresh,
    stream,
    quarantine,
    answers,
    audit,
    erase,
    bench,
    machine,
    demo,
    simulate,
):
    module.register(app)


def main() -> None:
    """Run one command. Exit codes: 0 done, 2 the user's input is wrong, 1 anything else."""
    sys.exit(guarded(app))


if __name__ == "__main__":
    main()
