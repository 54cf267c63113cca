"""`bfm run` and each room alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipelines.errors import UserError
from pipelines.sources import complete_journey
from pipelines.workspace import Workspace
from serving.cli.console import out
from serving.cli.options import (
    AsOfOption,
    CompanyOption,
    WorkspaceOption,
    existing_workspace,
    parse_time,
)

if TYPE_CHECKING:
    from pipelines.flow.runner import StageContext

BUILT_IN_COMPANY: Final = "complete-journey"
LINE_HELP: Final = (
    "Rooms 1 to 7: raw tables in, a checked lake, a trained model and a filled shelf out."
)
ROOM_HELP: Final = {
    "ingest": "Rooms 1 and 2: read the company's tables, check them, merge them into the lake.",
    "tokenize": "Rooms 3 and 4: fit the vocabulary, encode sequences, cut labels.",
    "pretrain": "Room 5: train the backbone on the sequences, on Ray; goes on where it was killed.",
    "heads": "Room 6: fit the heads on labels whose windows end by the cut.",
    "evaluate": "Room 6: judge every head beside its baselines; writes reports/.",
    "embed": "Embed all users and items and seal the bundle.",
    "publish": "Room 7: put embeddings, features and user state on the shelf (Feast).",
}

SizeOption = Annotated[
    str | None, typer.Option("--size", help="Size dial: tiny, small, base or large.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]
WindowOption = Annotated[
    int | None,
    typer.Option("--window-days", min=1, max=365, help="Days that tasks look ahead; at first 28."),
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", help="Training processes; each wants a processor.")
]
ShardingOption = Annotated[
    str | None,
    typer.Option(
        "--sharding",
        help="What a training process holds of the model: none (all of it, gradients are averaged) "
        "or full (a part of weights, gradients and optimiser).",
    ),
]
CoreOption = Annotated[
    Path | None,
    typer.Option(
        "--core",
        help="Workspace or bundle of another company, or an earlier model of this one, that "
        "pretraining begins with; of the same --size. 'none': from the beginning again.",
    ),
]


TRAINING_ROOMS: Final = ("pretrain", "heads")
ROOMS_BEFORE_THE_CUT: Final = ("ingest", "tokenize")
"""They make the sequences, of whatever cut."""
ROOMS_WITHOUT_CUT: Final = ("evaluate", "publish")
"""They tell and copy what is there; a cut that moves with the data does not concern them."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run", help=LINE_HELP)(_training_command(None))
    for name, help_text in ROOM_HELP.items():
        app.command(name, help=help_text)(_command_of(name))


def _command_of(name: str) -> Callable[..., None]:
    if name == "pretrain":
        return _training_command(name)
    return _publish if name == "publish" else _room_command(name)


def run_line(
    workspace: Workspace,
    company: str | None,
    size: str | None,
    as_of: str | None,
    seed: int | None,
    *,
    window_days: int | None = None,
    workers: int | None = None,
    sharding: str | None = None,
    core: Path | None = None,
    only: str | None = None,
) -> None:
    """Run the line, or one room of it, and say what became of each room."""
    from pipelines.flow.runner import StageContext, run_stages
    from serving.line import NO_CORE, line, load_own_tasks, settings_for

    settings = settings_for(
        workspace,
        company_path=company_path(company),
        size=size,
        as_of=parse_time(as_of),
        seed=seed,
        window_days=window_days,
        num_workers=workers,
        sharding=sharding,
        core=core if core in (None, NO_CORE) else core.expanduser().resolve(),
    )
    if only is not None:
        _refuse_what_trains(workspace, only, size=size, seed=seed)
    context = StageContext(workspace, settings, say=out.print)
    if context.company.tasks is not None:
        load_own_tasks(context)  # what is wrong with them is told before anything is trained
    if only is not None:
        _refuse_another_cut(context, only, given=as_of is not None)
    reports = run_stages(line(), context, first=only, remember=True)
    seconds = sum(report.seconds for report in reports)
    skipped = sum(report.skipped for report in reports)
    out.print(
        f"{len(reports) - skipped} room(s) run, {skipped} with nothing to do, {seconds:.1f} s. "
        f"Workspace: {workspace.root}"
    )


def _refuse_what_trains(workspace: Workspace, room: str, **given: str | int | None) -> None:
    """A room that does not train would only save another size or seed, for the next training to be
    surprised by.

    Raises:
        UserError: the workspace remembers another value.
    """
    from pipelines.flow.runner import SETTINGS_FILE, RunSettings

    if room in TRAINING_ROOMS or not (workspace.root / SETTINGS_FILE).is_file():
        return
    remembered = RunSettings.load(workspace)
    for name, value in given.items():
        known = getattr(remembered, name)
        if value not in (None, known):
            raise UserError(
                f"--{name} {value}: '{room}' does not train, and this workspace's model has "
                f"{name} {known}. To train another: bfm run --{name} {value} "
                f"--workspace {workspace.quoted}"
            )


def _refuse_another_cut(context: StageContext, room: str, *, given: bool) -> None:
    """A room alone works on sequences and a model that were made for one cut: of another one they
    would hold the future.

    Raises:
        UserError: the cut is not that of the token sequences.
    """
    from pipelines.flow.tokenized import MadeFrom

    made = MadeFrom.load(context.workspace)
    if made is None or room in ROOMS_BEFORE_THE_CUT:
        return
    if room in ROOMS_WITHOUT_CUT and not given:
        return
    if context.as_of != datetime.fromisoformat(made.as_of):
        raise UserError(
            f"'{room}' as of {context.as_of.isoformat()}: sequences and labels here were made as "
            f"of {made.as_of}, and what was learned from them may know what came between. For the "
            f"one: bfm run --as-of {context.as_of.isoformat()} --workspace "
            f"{context.workspace.quoted}. For the other: bfm {room} --as-of {made.as_of} "
            f"--workspace {context.workspace.quoted}"
        )


def _training_command(only: str | None) -> Callable[..., None]:
    """The whole line, or the one room that has workers."""

    def command(
        workspace: WorkspaceOption,
        company: CompanyOption = None,
        size: SizeOption = None,
        as_of: AsOfOption = None,
        seed: SeedOption = None,
        window_days: WindowOption = None,
        workers: WorkersOption = None,
        sharding: ShardingOption = None,
        core: CoreOption = None,
    ) -> None:
        run_line(
            Workspace(workspace),
            *(company, size, as_of, seed),
            window_days=window_days,
            workers=workers,
            sharding=sharding,
            core=core,
            only=only,
        )

    return command


def _room_command(name: str) -> Callable[..., None]:
    def command(
        workspace: WorkspaceOption,
        company: CompanyOption = None,
        size: SizeOption = None,
        as_of: AsOfOption = None,
        seed: SeedOption = None,
    ) -> None:
        run_line(Workspace(workspace), company, size, as_of, seed, only=name)

    return command


def _publish(
    workspace: WorkspaceOption,
    company: CompanyOption = None,
    size: SizeOption = None,
    as_of: AsOfOption = None,
    seed: SeedOption = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Write all rows, as into an online store that was lost or emptied."
        ),
    ] = False,
) -> None:
    from serving.line import forget_publish

    if again:
        place = existing_workspace(workspace)
        parse_time(as_of), company_path(company)  # refused before anything is forgotten
        _refuse_what_trains(place, "publish", size=size, seed=seed)
        forget_publish(place)
    run_line(Workspace(workspace), company, size, as_of, seed, only="publish")


def company_path(company: str | None) -> Path | None:
    """The file behind `--company`.

    Raises:
        UserError: no such file.
    """
    if company is None:
        return None
    if company == BUILT_IN_COMPANY:
        return Path(complete_journey.__file__).with_name("company.yaml")
    path = Path(company).expanduser().resolve()
    if not path.is_file():
        raise UserError(
            f"--company {company}: no such file. Give the path of a company.yaml, "
            f"or '{BUILT_IN_COMPANY}' for the built-in example."
        )
    return path
