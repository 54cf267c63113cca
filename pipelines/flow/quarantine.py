"""Replaying repaired rows into a workspace, while nothing else works there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.flow.lock import lake_lock, workspace_lock
from pipelines.flow.runner import StageContext

if TYPE_CHECKING:
    from pipelines.stages.replay import Replayed


def replay(context: StageContext, path: Path, table: str) -> Replayed:
    """Take a file of repaired rows in; see `pipelines.stages.replay`.

    Raises:
        WorkspaceError: another process works on this workspace.
    """
    from pipelines.stages import replay as stage

    with workspace_lock(context.workspace), lake_lock(context.workspace):
        try:
            return stage.replay(
                context.spark(),
                context.workspace,
                context.company,
                context.settings.company_path,
                path,
                table,
            )
        finally:
            context.stop_spark()
