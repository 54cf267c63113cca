"""Markers of finished stages, and how they outlive a change that is no reason to work again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError, WorkspaceError
from pipelines.flow.standing import Standing
from pipelines.workspace import Workspace, write_json_atomically

if TYPE_CHECKING:
    from pipelines.flow.runner import Stage, StageContext


def fingerprint_of(stage: Stage, context: StageContext) -> str:
    """What a stage's outputs depend on: its version, its inputs, the outputs of what it needs."""
    return _hash(
        {
            "stage": stage.name,
            "version": stage.version,
            "inputs": stage.inputs(context),
            "needs": {name: _read_outputs(stage, context.workspace, name) for name in stage.needs},
        }
    )


def _read_outputs(stage: Stage, workspace: Workspace, name: str) -> dict[str, Any]:
    outputs: dict[str, Any] = marker_of(workspace, name)["outputs"]
    parts = stage.reads.get(name)
    return outputs if parts is None else {part: outputs.get(part) for part in parts}


def marker_of(workspace: Workspace, name: str) -> dict[str, Any]:
    """The marker of a finished stage.

    Raises:
        WorkspaceError: the stage has not finished here.
    """
    path = _marker_path(workspace, name)
    if not path.is_file():
        raise WorkspaceError(
            f"{workspace.root}: stage '{name}' has not finished here. Run it first: "
            f"bfm {name} --workspace {workspace.quoted}"
        )
    marker: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return marker


def write_marker(workspace: Workspace, name: str, marker: Mapping[str, Any]) -> None:
    """Say that a stage has finished."""
    write_json_atomically(_marker_path(workspace, name), marker)


def forget_marker(workspace: Workspace, name: str) -> None:
    """Let a stage run again, although nothing that it reads has changed."""
    _marker_path(workspace, name).unlink(missing_ok=True)


def standings(
    stages: Sequence[Stage], context: StageContext, earlier: Mapping[str, Standing]
) -> dict[str, Standing]:
    """The stages whose outputs are as their markers say, by name.

    Args:
        stages: All stages of the line in order.
        context: Where and with what.
        earlier: Standings before a change that was cut short; they hold for unchanged markers.
    """
    found: dict[str, Standing] = {}
    for stage in stages:
        with contextlib.suppress(UserError):
            marker = marker_of(context.workspace, stage.name)
            known = earlier.get(stage.name)
            if known and known.marker == _hash(marker):
                found[stage.name] = known
            elif marker["outputs"] == stage.outputs(context):
                inputs = _inputs_if_done(stage, context, marker)
                found[stage.name] = Standing(marker=_hash(marker), inputs=inputs)
    return found


def reissue(stages: Sequence[Stage], context: StageContext, before: Mapping[str, Standing]) -> None:
    """Give stages whose outputs were changed on purpose the markers of their outputs now.

    What was done stays done. A stage that was not, or that ran or was given other inputs since
    `before`, is left to run again.

    Args:
        stages: All stages of the line in order.
        context: Where and with what.
        before: Their standings before the change.
    """
    for stage in stages:
        standing = before.get(stage.name)
        if standing is None:
            continue
        marker = marker_of(context.workspace, stage.name)
        if _hash(marker) != standing.marker:
            continue
        marker["outputs"] = stage.outputs(context)
        if standing.inputs is not None and standing.inputs == _inputs(stage, context):
            marker["fingerprint"] = fingerprint_of(stage, context)
        write_marker(context.workspace, stage.name, marker)


def _inputs_if_done(stage: Stage, context: StageContext, marker: Mapping[str, Any]) -> str | None:
    try:
        done = marker["fingerprint"] == fingerprint_of(stage, context)
    except UserError:
        return None
    return _inputs(stage, context) if done else None


def _inputs(stage: Stage, context: StageContext) -> str | None:
    try:
        return _hash(stage.inputs(context))
    except UserError:
        return None


def _hash(parts: Mapping[str, Any]) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _marker_path(workspace: Workspace, name: str) -> Path:
    return workspace.state / f"{name}.json"
