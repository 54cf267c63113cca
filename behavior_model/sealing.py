"""From a workspace's checkpoints and heads to a sealed bundle and its embeddings."""

from __future__ import annotations

import tempfile
from pathlib import Path

from behavior_model.bundle import BundleParts, Manifest, write_bundle
from behavior_model.context import ModelContext
from behavior_model.embedding import item_embeddings
from behavior_model.item_index import ItemIndex
from pipelines import lake
from pipelines.company import load_company
from pipelines.contracts import CATALOGUE, EVENTS, SemanticType
from pipelines.errors import WorkspaceError
from pipelines.tokens.binning import DAY_US
from pipelines.workspace import Workspace


def seal(context: ModelContext) -> Manifest:
    """Write the workspace's bundle: vocabulary, backbone, items, index and every fitted head.

    Raises:
        WorkspaceError: no head was fitted yet.
        BundleError: a part is missing.
    """
    workspace = context.workspace
    heads = {folder.name: folder for folder in _folders(workspace.heads)}
    if not heads:
        raise WorkspaceError(
            f"{workspace.heads}: no fitted heads. Fit them with: bfm heads --workspace DIR"
        )
    with tempfile.TemporaryDirectory(dir=workspace.root, prefix=".index.") as scratch:
        ItemIndex.build(item_embeddings(context.backbone, context.content)).save(Path(scratch))
        parts = BundleParts(
            vocabulary=context.vocabulary,
            as_of_us=context.as_of_us,
            training_cut_us=context.training_cut_us,
            window_days=context.window_us // DAY_US,
            event_fields=event_fields(workspace),
            backbone=workspace.checkpoints / "backbone",
            items=workspace.checkpoints / "items",
            index=Path(scratch),
            heads=heads,
            catalogue=lake.read(workspace, CATALOGUE.name),
        )
        return write_bundle(workspace.bundle, parts)


def event_fields(workspace: Workspace) -> dict[str, SemanticType]:
    """The company's own event fields and what they mean."""
    contract = load_company(workspace.company_path).contract("events")
    known = set(EVENTS.column_names)
    return {
        column.name: column.semantic
        for column in contract.columns
        if column.name not in known and column.semantic is not None
    }


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
