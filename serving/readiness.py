"""Whether bundle and shelf of a replica are of one training."""

from __future__ import annotations

from typing import Final

from behavior_model.bundle import Manifest, read_manifest
from feature_store.published import Published, seconds_since_publish
from pipelines.errors import BundleError
from pipelines.workspace import Workspace

_LOOKS: Final = 2
_LOAD_S: Final = 60.0
"""A replica may take so many looks, and so long to load a bundle, before it counts as left
behind."""


def is_published_for(workspace: Workspace, manifest: Manifest) -> bool:
    """Whether the shelf holds users as the bundle's training encodes them; true where nobody
    wrote down whose they are."""
    published = Published.load(workspace)
    return published is None or published.model_version == manifest.lineage


def mismatch(
    workspace: Workspace, answers: Manifest, reload_seconds: float, unreadable: str | None = None
) -> str | None:
    """Why known users are answered as unknown ones for longer than it takes to reload, or None.

    A replica with the bundle of before stays ready while a publish goes on and while its reloader
    has not looked yet, so that not all replicas are taken away at once.

    Args:
        workspace: Whose bundle and shelf are served.
        answers: Of the bundle that answers.
        reload_seconds: How often this replica looks for another bundle; 0: never.
        unreadable: Why the bundle that is there now can never be taken over; None while it may be.
    """
    published = Published.load(workspace)
    if published is None or published.model_version == answers.lineage:
        return None
    if _lineage_on_disk(workspace) == answers.lineage:
        return "The shelf is not published for this bundle yet: run bfm publish, or wait for it."
    if published.is_under_way:
        return None
    if unreadable is not None:
        return (
            "The shelf is of another bundle, which this release cannot read: make it again. Until "
            "then leave this replica running; a restart would find no bundle that it can read."
        )
    patience_s = _LOOKS * reload_seconds + _LOAD_S if reload_seconds else 0.0
    if seconds_since_publish(workspace) <= patience_s:
        return None
    return "The shelf is of another bundle, which this replica has not taken over: restart it."


def _lineage_on_disk(workspace: Workspace) -> str | None:
    try:
        return read_manifest(workspace.bundle).lineage
    except (BundleError, OSError):  # it is just being written
        return None
