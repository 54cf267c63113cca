"""`bfm erase`: a person leaves a workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.errors import UserError
from serving.cli.console import out, print_table
from serving.cli.options import WorkspaceOption, existing_workspace

if TYPE_CHECKING:
    from pipelines.flow.erasure_requests import ErasureRequest


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(erase)


def erase(
    workspace: WorkspaceOption,
    user: Annotated[
        str | None, typer.Option("--user", help="Id of the user, as the events table holds it.")
    ] = None,
    grace_days: Annotated[
        int, typer.Option("--grace-days", min=0, help="Days until the data goes; 0 is now.")
    ] = 0,
    due: Annotated[
        bool, typer.Option("--due", help="Carry out the requests whose time of grace is over.")
    ] = False,
) -> None:
    """Erase a user from every table, file, feature, embedding, index and log of a workspace.

    The user is neither served nor taken in again from the first moment.
    """
    if (user is None) != due:
        raise UserError("Give either --user ID, or --due alone.")
    if due and grace_days:
        raise UserError("--grace-days belongs to --user ID; --due carries out what is due now.")
    from serving.erasure import erase as erase_user
    from serving.erasure import erase_due

    place = existing_workspace(workspace)
    if user is not None:
        _say(erase_user(place, user, grace_days=grace_days))
        return
    done = erase_due(place)
    for request in done:
        _say(request)
    out.print(f"{len(done)} request(s) carried out.")


def _say(request: ErasureRequest) -> None:
    if request.erased is None:
        out.print(
            f"Request {request.request_id}: the user is not served or taken in any more. The data "
            f"goes when `bfm erase --due` is run after {request.due:%Y-%m-%d %H:%M} UTC."
        )
        return
    rows = [[place, f"{count:,}"] for place, count in request.removed.items() if count]
    if rows:
        print_table(f"Erased by request {request.request_id}", ["where", "removed"], rows)
    else:
        out.print(
            f"Request {request.request_id}: nothing of this user was found. The user is kept out "
            "from now on."
        )
    out.print("Exports and copies outside of the workspace are yours to delete.")
    if request.trained_with:
        out.print(
            f"Model version(s) {', '.join(request.trained_with)} learned from this user among all; "
            "the next training does not."
        )
