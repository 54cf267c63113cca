"""From a workspace's checkpoints and heads to a sealed bundle and its embeddings."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from behavior_model.bundle import Manifest, open_bundle
from behavior_model.bundle_writer import BundleParts, write_bundle
from behavior_model.context import ModelContext
from behavior_model.embedding import item_embeddings
from behavior_model.item_index import ItemIndex
from behavior_model.scoring import ITEM, USER, export
from behavior_model.scoring_tables import embedding_table, write_table
from pipelines import lake
from pipelines.company import load_company
from pipelines.contracts import EVENTS, SemanticType
from pipelines.errors import WorkspaceError
from pipelines.tokens.binning import DAY_US, FIRST_IDX
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
            catalogue=lake.read_catalogue(workspace),
        )
        return write_bundle(workspace.bundle, parts)


def write_embeddings(context: ModelContext, users: Path, items: Path) -> tuple[int, int]:
    """Write what `bfm export` writes, at the test cut; gives the numbers of users and items.

    In this process, because states that the heads asked for need not be computed again. Where
    RAY_ADDRESS names a cluster, it does the work.

    Args:
        context: Whose bundle was sealed.
        users: Parquet file for `id, embedding` of users with any history before the test cut.
        items: The same of all items.
    """
    if os.environ.get("RAY_ADDRESS"):
        workspace, moment = context.workspace, context.as_of_us
        num_users = export(workspace, USER, users, as_of_us=moment)
        return num_users, export(workspace, ITEM, items, as_of_us=moment)
    parts = [context.states(context.as_of_us)]
    flagged = context.flagged_states(context.as_of_us)
    parts += [] if flagged is None else [flagged]
    ids = [user for part in parts for user in part.user_ids]
    write_table(users, embedding_table(ids, np.concatenate([part.embedding for part in parts])))
    index = ItemIndex.load(open_bundle(context.workspace.bundle).index)
    rows = index.item_embeddings()[FIRST_IDX:, :-1]
    write_table(items, embedding_table(list(context.vocabulary.items), rows))
    return len(ids), len(rows)


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
