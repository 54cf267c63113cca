"""A renewed bundle takes over while the counter answers; requests under way keep the old one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from behavior_model.bundle import Manifest, read_manifest
from behavior_model.predictor import Predictor
from pipelines.errors import BfmError, BundleError
from pipelines.workspace import Workspace

_log: Final = logging.getLogger("bfm.serving")


class Reloader:
    """Looks whether the workspace's bundle is still the one that answers.

    Args:
        workspace: Whose bundle is served.
        manifest: Of the bundle that answers.
        take: Takes a newly loaded predictor over.
    """

    def __init__(
        self, workspace: Workspace, manifest: Manifest, take: Callable[[Predictor], None]
    ) -> None:
        self._root = workspace.bundle
        self._serving = manifest
        self._refused = ""
        self._take = take

    def look(self) -> bool:
        """Load and hand over another bundle, if one is there; whether it was.

        One that is just being written is left for the next time. One whose event fields are others
        needs a restart, since the counter's contract names them.
        """
        try:
            found = read_manifest(self._root)
            if found.model_version in (self._serving.model_version, self._refused):
                return False
            if found.event_fields != self._serving.event_fields:
                self._refuse(found, "its event fields are others: restart bfm serve")
                return False
            loaded = Predictor.load(self._root)
        except (BundleError, OSError):
            return False
        except BfmError as error:
            self._refuse(found, str(error))
            return False
        self._take(loaded)
        self._serving = loaded.manifest
        _log.info("bundle %s answers now", loaded.manifest.model_version)
        return True

    def _refuse(self, found: Manifest, why: str) -> None:
        self._refused = found.model_version
        _log.warning("bundle %s is not served: %s", found.model_version, why)


@contextmanager
def looking(reloader: Reloader, every_s: float) -> Iterator[None]:
    """Look again and again in a thread of its own for the length of a `with` block."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every_s):
            try:
                reloader.look()
            except Exception:  # the old bundle goes on answering, and the next look may succeed
                _log.exception("looking for a renewed bundle failed")

    thread = threading.Thread(target=run, name="bundle-reloader", daemon=True)
    if every_s > 0:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
