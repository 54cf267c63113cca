"""`bfm refresh`: new events reach the answers without a training."""

from __future__ import annotations

import typer

from pipelines.clock import from_micros
from pipelines.tokens.binning import DAY_US
from serving.cli.console import out
from serving.cli.options import AsOfOption, WorkspaceOption, existing_workspace, parse_time


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(refresh)


def refresh(workspace: WorkspaceOption, as_of: AsOfOption = None) -> None:
    """Take in what is new and bring the answers up to it, without a training.

    Memories (what is bought by many, again and together) are counted anew, products that came
    after the training are searched, likened and recommended, and users with new, corrected or
    deleted events are embedded and published again. Run it every night, and train again
    (`bfm run --as-of TIME`) when the model has become old.
    """
    from serving.refresh import refresh as refresh_shelf

    done = refresh_shelf(existing_workspace(workspace), as_of=parse_time(as_of), say=out.print)
    age = (done.as_of_us - done.trained_to_us) / DAY_US
    gone = f", {done.num_removed:,} taken off" if done.num_removed else ""
    out.print(
        f"Shelf as of {from_micros(done.as_of_us):%Y-%m-%d %H:%M:%S} UTC: "
        f"{done.num_embedded:,} of {done.num_users:,} users embedded and published{gone}. "
        f"Bundle {done.model_version}{' with renewed memories' if done.is_renewed else ''}; its "
        f"weights learned from events up to {age:,.0f} day(s) before."
    )
    if done.num_new_items:
        out.print(
            f"{done.num_new_items:,} item(s) came after the training: known by what is written "
            "about them and by who takes them."
        )
