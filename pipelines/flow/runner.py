"""Runs stages one after another: each can be killed, resumed, skipped and run twice.

A stage is done when its marker in `state/` holds the same fingerprint (its version, settings and
the outputs of the stages it needs) and its outputs still are what the marker says. A stage writes
its outputs atomically and its marker last, so a kill at any moment leaves a stage that runs again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import lake
from pipelines.company import CompanyConfig, load_company
from pipelines.contracts import EVENT_TIME, EVENTS
from pipelines.errors import UserError, WorkspaceError
from pipelines.flow.lock import workspace_lock
from pipelines.flow.markers import fingerprint_of, marker_of, write_marker
from pipelines.flow.memory import MemoryPeak, MemorySampler
from pipelines.workspace import Workspace, write_bytes_atomically, write_json_atomically

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SETTINGS_FILE: Final = "run.json"

Parts = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a user chooses about a run; remembered in the workspace.

    Args:
        company_path: Absolute path of `company.yaml`.
        as_of: The test cut (UTC). None: midnight before the last event that has happened, less one
            window.
        window_days: How far tasks look ahead.
        size: Size dial of the model.
        seed: Seed of everything random.
        num_workers: Training processes.
        sharding: Whether they share the model: "none" (each holds all of it) or "full".
        core: Workspace or bundle of the model that pretraining begins with.
        core_version: Its version when it was given: a core that is deleted later is missed by the
            next training alone.
    """

    company_path: Path
    as_of: datetime | None = None
    window_days: int = 28
    size: str = "tiny"
    seed: int = 0
    num_workers: int = 1
    sharding: str = "none"
    core: Path | None = None
    core_version: str | None = None

    def save(self, workspace: Workspace) -> None:
        """Remember the settings, and a copy of the company's description.

        Raises:
            CompanyConfigError: the description cannot be read.
            WorkspaceError: the workspace is another company's.
        """
        _refuse_other_company(workspace, load_company(self.company_path))
        row = {**asdict(self), "company_path": str(self.company_path)}
        row["as_of"] = None if self.as_of is None else self.as_of.isoformat()
        row["core"] = None if self.core is None else str(self.core)
        write_json_atomically(workspace.root / SETTINGS_FILE, row)
        write_bytes_atomically(workspace.company_path, self.company_path.read_bytes())

    def is_remembered(self, workspace: Workspace) -> bool:
        """Whether the workspace holds just these settings and the description as it is now."""
        held = workspace.company_path
        return (
            (workspace.root / SETTINGS_FILE).is_file()
            and self == RunSettings.load(workspace)
            and held.is_file()
            and self.company_path.is_file()
            and held.read_bytes() == self.company_path.read_bytes()
        )

    @classmethod
    def load(cls, workspace: Workspace) -> RunSettings:
        """The remembered settings.

        Raises:
            WorkspaceError: nothing was run here yet.
        """
        path = workspace.root / SETTINGS_FILE
        if not path.is_file():
            raise WorkspaceError(
                f"{workspace.root} is not a workspace (no {SETTINGS_FILE}). Make one with: "
                f"bfm run --company company.yaml --workspace {workspace.quoted}"
            )
        row = json.loads(path.read_text(encoding="utf-8"))
        as_of, core = row.pop("as_of"), row.pop("core", None)
        return cls(
            **{
                **row,
                "company_path": Path(row["company_path"]),
                "as_of": None if as_of is None else datetime.fromisoformat(as_of),
                "core": None if core is None else Path(core),
            }
        )


def _refuse_other_company(workspace: Workspace, company: CompanyConfig) -> None:
    if not workspace.company_path.is_file():
        return
    held = load_company(workspace.company_path).name
    if held != company.name:
        raise WorkspaceError(
            f"{workspace.root} holds the company '{held}', '{company.name}' came. "
            "Give each company a --workspace of its own."
        )


@dataclass(eq=False)
class StageContext:
    """What a stage is given: where to work, what was chosen, and one Spark session when asked.

    Args:
        workspace: Where to work.
        settings: What was chosen.
        say: Takes lines for the user.
        now: The present.
        keeps_vocabulary: Whether sequences must stay readable for the model that was trained.
    """

    workspace: Workspace
    settings: RunSettings
    say: Callable[[str], None] = print
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    keeps_vocabulary: bool = False
    _spark: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _session: SparkSession | None = None

    @cached_property
    def company(self) -> CompanyConfig:
        """The description of the company."""
        return load_company(self.settings.company_path)

    @cached_property
    def as_of(self) -> datetime:
        """The test cut; the default needs the events table.

        An event with a time to come (a typing error, a clock that is fast) does not move it,
        unless all are such: a simulated shop may lie in the future.
        """
        if self.settings.as_of is not None:
            return self.settings.as_of.astimezone(UTC)
        times = lake.read(self.workspace, EVENTS.name, [EVENT_TIME]).column(0)
        happened = times.filter(pc.less_equal(times, pa.scalar(self.now, times.type)))
        last: datetime = pc.max(happened if len(happened) else times).as_py()
        midnight = last.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=self.settings.window_days)

    @cached_property
    def retained_from(self) -> datetime | None:
        """Events before this midnight (UTC) are too old to be kept; None: all are kept."""
        days = self.company.retention_days
        if days is None:
            return None
        midnight = self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=days)

    @property
    def training_cut(self) -> datetime:
        """One window before the test cut: the vocabulary and the backbone see nothing after it."""
        return self.as_of - timedelta(days=self.settings.window_days)

    def spark(self) -> SparkSession:
        """The run's Spark session, started at the first call."""
        if self._session is None:
            from pipelines.flow.scratch import scratch_folder
            from pipelines.flow.spark import spark_session
            from pipelines.sources.registry import needed_jars
            from pipelines.sources.request import SourceRequest

            log_path = self.workspace.logs / "spark.log"
            log_path.parent.mkdir(parents=True, exist_ok=True)
            path = self.settings.company_path
            jar_sets = needed_jars(SourceRequest.of(one, path) for one in self.company.sources)
            scratch = self._spark.enter_context(scratch_folder(self.workspace))
            session = spark_session("bfm", jar_sets=jar_sets, scratch=scratch, log_path=log_path)
            self._session = self._spark.enter_context(session)
        return self._session

    def stop_spark(self) -> None:
        """Stop the session and its JVM, so that the next stage has the memory."""
        self._spark.close()
        self._session = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One room's work as a step of the line.

    Args:
        name: Name of the stage and of its command.
        version: Raised when the code changes what the stage makes.
        needs: Names of the stages whose outputs it reads.
        inputs: What else decides its outputs (settings, stamps of source files), as plain JSON.
        outputs: What stands on disk now, as plain JSON; raises WorkspaceError when it is missing.
        run: Makes the outputs, atomically; raises on failure.
        uses_spark: Whether it works in the run's Spark session.
        reads: Of a needed stage's outputs those that count, by name of the stage; all by default.
    """

    name: str
    version: int
    needs: tuple[str, ...]
    inputs: Callable[[StageContext], Parts]
    outputs: Callable[[StageContext], Parts]
    run: Callable[[StageContext], None]
    uses_spark: bool = False
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """What became of one stage in a run."""

    name: str
    skipped: bool
    seconds: float
    peak: MemoryPeak


def run_stages(
    stages: Sequence[Stage],
    context: StageContext,
    *,
    first: str | None = None,
    remember: bool = False,
) -> list[StageReport]:
    """Run what is not done yet, in order.

    Args:
        stages: All stages of the line in order.
        context: Where and with what.
        first: Run this stage alone (the stages before it must be done).
        remember: Keep the settings in the workspace. A run that is refused changes nothing there.

    Raises:
        CompanyConfigError: the description to remember cannot be read.
        WorkspaceError: another process works on this workspace, it is another company's, or an
            earlier stage is not done.
    """
    chosen = [stage for stage in stages if first is None or stage.name == first]
    with workspace_lock(context.workspace):
        if first is not None:
            for need in (need for stage in chosen for need in stage.needs):
                marker_of(context.workspace, need)
        if remember:
            context.settings.save(context.workspace)
        try:
            return [_run_one(stage, context) for stage in chosen]
        finally:
            context.stop_spark()


def table_stamp(workspace: Workspace, *names: str) -> Parts:
    """Identity and version of Delta tables: equal stamps mean equal tables.

    Raises:
        WorkspaceError: a table is missing.
    """
    stamps: dict[str, Any] = {}
    for name in names:
        table = lake.open_table(workspace, name)
        stamps[name] = {"id": str(table.metadata().id), "version": table.version()}
    return stamps


def file_stamp(*paths: Path) -> Parts:
    """SHA-256 of files, and of all files below folders.

    Raises:
        WorkspaceError: a path does not exist.
    """
    stamps: dict[str, str] = {}
    for path in paths:
        if not path.exists():
            raise WorkspaceError(f"{path} is missing; run the line again to make it.")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                stamps[str(file.relative_to(path.parent))] = _sha256(file)
    return stamps


def peak_of(workspace: Workspace) -> MemoryPeak:
    """Largest peaks over all stages that this workspace remembers."""
    peak = MemoryPeak()
    for path in sorted(workspace.state.glob("*.json")):
        row = json.loads(path.read_text(encoding="utf-8"))
        peak = peak.merged(MemoryPeak(**row["peak_memory_bytes"]))
    return peak


def _run_one(stage: Stage, context: StageContext) -> StageReport:
    fingerprint = fingerprint_of(stage, context)
    if _is_done(stage, context, fingerprint):
        context.say(f"{stage.name}: nothing to do")
        return StageReport(name=stage.name, skipped=True, seconds=0.0, peak=MemoryPeak())
    if not stage.uses_spark:
        context.stop_spark()
    context.say(f"{stage.name}: started")
    begun = time.monotonic()
    with MemorySampler() as sampler:
        stage.run(context)
    seconds = time.monotonic() - begun
    marker = {
        "fingerprint": fingerprint,
        "outputs": stage.outputs(context),
        "seconds": round(seconds, 3),
        "peak_memory_bytes": asdict(sampler.peak),
    }
    write_marker(context.workspace, stage.name, marker)
    gib = sampler.peak.total / 2**30
    context.say(f"{stage.name}: done in {seconds:.1f} s, peak memory {gib:.2f} GiB")
    return StageReport(name=stage.name, skipped=False, seconds=seconds, peak=sampler.peak)


def _is_done(stage: Stage, context: StageContext, fingerprint: str) -> bool:
    try:
        marker = marker_of(context.workspace, stage.name)
        return bool(
            marker["fingerprint"] == fingerprint and marker["outputs"] == stage.outputs(context)
        )
    except UserError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
