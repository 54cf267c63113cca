"""`bfm doctor`: what this machine has and lacks, and how to get it."""

from __future__ import annotations

import typer

from pipelines.errors import EnvironmentProblemError
from serving.cli.console import print_table


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(doctor)


def doctor() -> None:
    """Say what this machine has and lacks, and how to get it."""
    from pipelines.flow.doctor import diagnose

    checks = diagnose()
    rows = [
        [check.name, "ok" if check.ok else "missing", check.found, "" if check.ok else check.remedy]
        for check in checks
    ]
    print_table("This machine", ["what", "state", "found", "what to do"], rows)
    lacking = [check.name for check in checks if not check.ok]
    if lacking:
        raise EnvironmentProblemError(
            f"{len(lacking)} thing(s) missing: {', '.join(lacking)}. See 'what to do' above."
        )
