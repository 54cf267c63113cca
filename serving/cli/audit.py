"""`bfm audit`: what the model gives away about people, and whom it serves worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli.console import out, print_table
from serving.cli.options import WorkspaceOption, existing_workspace

if TYPE_CHECKING:
    from behavior_model.evaluation.study_page import StudyTable


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(audit)


def audit(
    workspace: WorkspaceOption,
    field: Annotated[
        list[str] | None,
        typer.Option("--field", help="Only this profile field; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of folds and resamples.")] = 0,
) -> None:
    """What the embedding tells of profiles, and which groups the answers serve worse."""
    from behavior_model.audit.report import PAGE_FILE, group_table, guess_table
    from behavior_model.audit.report import audit as audit_model
    from pipelines.contracts import USER_ID, SemanticType
    from pipelines.errors import UnknownNameError
    from pipelines.flow.runner import RunSettings, StageContext
    from serving.line import open_model

    place = existing_workspace(workspace)
    context = StageContext(place, RunSettings.load(place), say=out.print)
    known = [
        column.name
        for column in context.company.contract("profiles").columns
        if column.semantic is SemanticType.CATEGORICAL and column.name != USER_ID
    ]
    for name in field or ():
        if name not in known:
            raise UnknownNameError("profile field", name, known)
    found = audit_model(
        open_model(place),
        field or known,
        seed=seed,
        say=lambda line: out.print(line, markup=False),
    )
    _print(guess_table(found))
    _print(group_table(found))
    out.print(f"Figures and page: {place.reports / PAGE_FILE}", markup=False)


def _print(table: StudyTable) -> None:
    print_table(table.title, table.header, table.rows)
