"""The whole line: rooms 1 to 7 as stages, composed here because this layer may know them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from behavior_model.recipes import check_size
from behavior_model.training.processes import check_processes
from pipelines import lake
from pipelines.clock import to_micros
from pipelines.contracts import EVENT_TIME, EVENTS, USER_FLAGS
from pipelines.erasure import scrub_sqlite
from pipelines.errors import UserError
from pipelines.flow.lock import workspace_lock
from pipelines.flow.markers import fingerprint_of, forget_marker
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import (
    SETTINGS_FILE,
    Parts,
    RunSettings,
    Stage,
    StageContext,
    file_stamp,
)
from pipelines.flow.tokenized import JUDGED, LEARNED
from pipelines.tokens.binning import DAY_US
from pipelines.workspace import Workspace

if TYPE_CHECKING:
    from behavior_model.context import ModelContext

EVALUATION_PAGE: Final = "evaluation.html"
USER_EMBEDDINGS: Final = "user.parquet"
ITEM_EMBEDDINGS: Final = "item.parquet"
VOCABULARY_FILE: Final = "vocabulary.json"
NO_CORE: Final = Path("none")
"""Given as `--core`: train from the beginning again."""


def settings_for(workspace: Workspace, **given: Any) -> RunSettings:
    """Settings of a run: what is given now, else what the workspace remembers.

    Raises:
        UnknownNameError: no such size.
        UserError: a new workspace without a company, training processes that cannot be, or a core
            that is not there or lies inside the workspace.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if (workspace.root / SETTINGS_FILE).is_file():
        settings = replace(RunSettings.load(workspace), **chosen)
    elif "company_path" in chosen:
        settings = RunSettings(**chosen)
    else:
        raise UserError(
            f"{workspace.root} is a new workspace: give --company company.yaml, or "
            "--company complete-journey for the built-in example."
        )
    check_size(settings.size)
    check_processes(settings.num_workers, settings.sharding)
    if chosen.get("core") == NO_CORE:
        return replace(settings, core=None, core_version=None)
    if settings.core is not None and settings.core.is_relative_to(workspace.root):
        raise UserError(
            f"--core {settings.core} lies in this workspace, whose training would replace it. Copy "
            f"it first: cp -r {workspace.bundle} DIR, then --core DIR."
        )
    if "core" in chosen:
        return replace(settings, core_version=_core_version(chosen["core"]))
    return settings


def line() -> tuple[Stage, ...]:
    """All stages in order."""
    model = _ModelRooms()
    return (
        *ROOMS,
        Stage(
            name="pretrain",
            version=1,
            needs=("tokenize",),
            reads={"tokenize": (VOCABULARY_FILE, USER_FLAGS.name, LEARNED)},
            inputs=_pretrain_inputs,
            outputs=_checkpoint_stamps,
            run=model.pretrain,
        ),
        _heads_stage(
            lambda context: {**_seed_and_cut(context), **_task_stamp(context)}, model.heads
        ),
        Stage(
            name="evaluate",
            version=1,
            needs=("heads",),
            inputs=lambda context: {},
            outputs=lambda context: file_stamp(
                context.workspace.evaluation_path, context.workspace.reports / EVALUATION_PAGE
            ),
            run=model.evaluate,
        ),
        Stage(
            name="embed",
            version=1,
            needs=("heads",),
            inputs=_seed_and_cut,
            outputs=lambda context: file_stamp(
                context.workspace.bundle, context.workspace.embeddings
            ),
            run=model.embed,
        ),
        Stage(
            name="publish",
            version=1,
            needs=("tokenize", "embed"),
            inputs=_publish_inputs,
            outputs=_publish_outputs,
            run=_publish,
        ),
    )


def _heads_stage(
    inputs: Callable[[StageContext], Parts], run: Callable[[StageContext], None]
) -> Stage:
    return Stage(
        name="heads",
        version=4,
        needs=("tokenize", "pretrain"),
        reads={"tokenize": (VOCABULARY_FILE, USER_FLAGS.name, JUDGED)},
        inputs=inputs,
        outputs=lambda context: file_stamp(context.workspace.heads),
        run=run,
    )


class _ModelRooms:
    """Rooms 5 and 6. They share one model context, so that states are embedded once a run."""

    def __init__(self) -> None:
        self._context: ModelContext | None = None

    def pretrain(self, context: StageContext) -> None:
        from behavior_model.recipes import after_core, recipe_for
        from behavior_model.stage_heads import heads
        from behavior_model.stage_pretrain import pretrain
        from behavior_model.tasks import try_own_tasks
        from pipelines.tokens.vocabulary import Vocabulary

        if _tasks_path(context) is not None:
            opened = _open(context)
            heads()  # refuses a task that has the name of another head
            try_own_tasks(opened)
        vocabulary = Vocabulary.load(context.workspace.vocabulary_path)
        before_cut = (EVENT_TIME, "<", context.training_cut)
        events = lake.read(context.workspace, EVENTS.name, [EVENT_TIME], filters=[before_cut])
        recipe = recipe_for(context.settings.size, num_events=events.num_rows)
        if context.settings.core is not None:
            recipe = after_core(recipe)
        result = pretrain(
            context.workspace,
            vocabulary,
            recipe,
            to_micros(context.training_cut),
            context.settings.window_days * DAY_US,
            context.settings.seed,
            context.settings.num_workers,
            context.settings.sharding,
            context.settings.core,
            context.say,
        )
        context.say(
            f"  {result.num_steps:,} steps, {result.events_per_second:,.0f} events/s, "
            f"item texts {result.content_seconds:.0f} s"
        )

    def heads(self, context: StageContext) -> None:
        from behavior_model.stage_heads import fit_all

        fit_all(
            self._model(context),
            seed=context.settings.seed,
            say=context.say,
            made_from=fingerprint_of(_heads_stage(_seed_and_cut, self.heads), context),
        )

    def evaluate(self, context: StageContext) -> None:
        from behavior_model.evaluation.report import write_page
        from behavior_model.evaluation.results import main_results, write_evaluation
        from behavior_model.stage_heads import read_results

        workspace = context.workspace
        load_own_tasks(context)
        results = read_results(workspace)
        page = workspace.reports / EVALUATION_PAGE
        write_evaluation(workspace.evaluation_path, results)
        write_page(page, results, company=context.company.name)
        for result in main_results(results):
            context.say(f"  {result}")
        context.say(f"  all {len(results)} figures, with plots: {page}")

    def embed(self, context: StageContext) -> None:
        from behavior_model.sealing import seal, write_embeddings

        model = self._model(context)
        manifest = seal(model)
        folder = context.workspace.embeddings
        users, items = write_embeddings(model, folder / USER_EMBEDDINGS, folder / ITEM_EMBEDDINGS)
        context.say(f"  bundle {manifest.model_version}: {users:,} users, {items:,} items embedded")

    def _model(self, context: StageContext) -> ModelContext:
        if self._context is None:
            self._context = _open(context)
        return self._context


def open_model(workspace: Workspace) -> ModelContext:
    """The model context of a finished workspace, at the cut that its bundle was made for.

    Raises:
        BundleError: no bundle yet.
    """
    from behavior_model.bundle import read_manifest
    from behavior_model.context import ModelContext

    manifest = read_manifest(workspace.bundle)
    load_own_tasks(StageContext(workspace, RunSettings.load(workspace)))
    return ModelContext.open(
        workspace, as_of_us=manifest.as_of_us, window_days=manifest.window_days
    )


def _open(context: StageContext) -> ModelContext:
    from behavior_model.context import ModelContext

    load_own_tasks(context)
    return ModelContext.open(
        context.workspace,
        as_of_us=to_micros(context.as_of),
        window_days=context.settings.window_days,
    )


def _publish_outputs(context: StageContext) -> Parts:
    from feature_store.published import published_path

    return file_stamp(context.workspace.features / "offline", published_path(context.workspace))


def _publish(context: StageContext) -> None:
    from behavior_model.bundle import open_bundle
    from feature_store.offline import published_ids
    from feature_store.publish import publish
    from feature_store.settings import Shelf
    from feature_store.tables import USER_STATE
    from serving.delivered import remove_delivered

    workspace = context.workspace
    shelf, manifest = Shelf(workspace), open_bundle(workspace.bundle).manifest
    publication = publish(
        workspace,
        as_of_us=manifest.as_of_us,
        user_embeddings=workspace.embeddings / USER_EMBEDDINGS,
        item_embeddings=workspace.embeddings / ITEM_EMBEDDINGS,
        model_version=manifest.lineage,
    )
    written = ", ".join(f"{name} {rows:,}" for name, rows in publication.written.items())
    context.say(f"  online: {written}")
    remove_delivered(workspace, manifest.as_of_us, context.say)
    if context.retained_from is not None:
        holders = published_ids(shelf, USER_STATE, since_us=manifest.as_of_us)
        expire_features(workspace, to_micros(context.retained_from), holders, context.say)


def forget_publish(workspace: Workspace) -> None:
    """Let the next publish fill the online store from nothing: it was lost, or is another one.

    Raises:
        WorkspaceError: another process works on this workspace.
    """
    from feature_store.publish import begin_again
    from feature_store.settings import Shelf

    with workspace_lock(workspace):
        begin_again(Shelf(workspace))
        forget_marker(workspace, "publish")


def expire_features(
    workspace: Workspace, oldest_us: int, holders: Set[str], say: Callable[[str], None]
) -> None:
    """What shelf and counter keep goes by the age at which events leave the lake.

    Args:
        workspace: With a shelf.
        oldest_us: Older rows and live events go.
        holders: As `feature_store.retention.expire` takes them.
        say: Takes lines for the user.
    """
    from feature_store.retention import expire
    from feature_store.settings import Shelf
    from serving.live_events import LiveEvents

    say(f"  features: {expire(Shelf(workspace), oldest_us, holders):,} expired (retention_days)")
    if workspace.live_events_path.is_file():
        with closing(LiveEvents(workspace.live_events_path)) as events:
            say(f"  live events: {events.remove_before(oldest_us):,} expired (retention_days)")
        scrub_sqlite(workspace.live_events_path)


def _core_version(core: Path) -> str:
    """The training that a core comes from; a refresh of it changes nothing that begins there."""
    from behavior_model.bundle import read_manifest
    from behavior_model.core import bundle_at

    if not core.is_dir():
        raise UserError(
            f"--core {core}: no such folder. Give a workspace that bfm run has finished, a copy of "
            f"its bundle, or '{NO_CORE}' to train from the beginning."
        )
    return read_manifest(bundle_at(core)).lineage


def _pretrain_inputs(context: StageContext) -> Parts:
    core, version = context.settings.core, context.settings.core_version
    begun: dict[str, str] = {}
    if core is not None:
        begun["core"] = version if version and not core.is_dir() else _core_version(core)
    return {**_seed_and_cut(context), "size": context.settings.size, **begun}


def _publish_inputs(context: StageContext) -> Parts:
    """Another online store is filled anew; the embedded one goes with the workspace."""
    from feature_store.settings import Shelf, ShelfSettings

    settings = Shelf(context.workspace).settings
    embedded = settings == ShelfSettings.model_construct()
    return {
        **_seed_and_cut(context),
        **({} if embedded else {"online_store": settings.identity}),
    }


def _seed_and_cut(context: StageContext) -> Mapping[str, Any]:
    return {"seed": context.settings.seed, "as_of": context.as_of.isoformat()}


def load_own_tasks(context: StageContext) -> None:
    """Register the company's own questions about users.

    Raises:
        CompanyConfigError: their file is missing or wrong.
    """
    from behavior_model.tasks import load_tasks

    load_tasks(_tasks_path(context))


def _tasks_path(context: StageContext) -> Path | None:
    return context.company.tasks_path(context.settings.company_path)


def _task_stamp(context: StageContext) -> Parts:
    """The file of the company's own tasks, where there is one."""
    path = _tasks_path(context)
    return {} if path is None or not path.is_file() else {"tasks": file_stamp(path)}


def _checkpoint_stamps(context: StageContext) -> Parts:
    checkpoints = context.workspace.checkpoints
    return file_stamp(checkpoints / "backbone", checkpoints / "items")
