"""A renewed bundle takes over while the counter answers; requests under way keep the old one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from behavior_model.bundle import Manifest, read_manifest
from behavior_model.predictor import Predictor
from pipelines.errors import BfmError, BundleError, SchemaVersionError
from pipelines.workspace import Workspace
from serving.readiness import is_published_for

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
        self._workspace = workspace
        self._serving = manifest
        self._refused = ""
        self._said = ("", "")
        self._take = take
        self.unreadable: str | None = None
        """Why the last bundle that was found can never be taken over; None while it may be."""

    def look(self) -> bool:
        """Load and hand over another bundle, if one is there; whether it was.

        One that cannot be read may be just being written, and one whose users are not on the shelf
        yet would know nobody: both are left for the next time. One of a version that this code does
        not read is refused once. One whose event fields are others needs a restart, since the
        counter's contract names them.
        """
        try:
            found = read_manifest(self._workspace.bundle)
        except SchemaVersionError as error:
            self.unreadable = str(error)
            self._say_once("of the workspace", f"is not served: {error}")
            return False
        except (BundleError, OSError) as error:
            self._say_once("of the workspace", f"cannot be read, the next look may: {error}")
            return False
        if found.model_version in (self._serving.model_version, self._refused):
            return False
        self.unreadable = None
        if found.event_fields != self._serving.event_fields:
            self._refuse(found, "its event fields are others: restart bfm serve")
            return False
        loaded = self._load(found)
        if loaded is None:
            return False
        self._take(loaded)
        self._serving = loaded.manifest
        _log.info("bundle %s answers now", loaded.manifest.model_version)
        return True

    def _load(self, found: Manifest) -> Predictor | None:
        """The bundle that was found, if the shelf knows its users and it stayed the same."""
        if not is_published_for(self._workspace, found):
            self._say_once(found.model_version, "waits until the shelf is published for it")
            return None
        try:
            loaded = Predictor.load(self._workspace.bundle)
            loaded.warm()
            after = read_manifest(self._workspace.bundle)
        except SchemaVersionError as error:
            self.unreadable = str(error)
            self._refuse(found, self.unreadable)
            return None
        except (BundleError, OSError) as error:
            self._say_once(found.model_version, f"cannot be read, the next look may: {error}")
            return None
        except BfmError as error:
            self.unreadable = str(error)
            self._refuse(found, self.unreadable)
            return None
        # parts are read one by one: no part of another bundle may be served under this version
        return loaded if loaded.manifest == found == after else None

    def _refuse(self, found: Manifest, why: str) -> None:
        self._refused = found.model_version
        self._say_once(found.model_version, f"is not served: {why}")

    def _say_once(self, version: str, what: str) -> None:
        """Write a warning, but not the last one again."""
        if self._said != (version, what):
            self._said = (version, what)
            _log.warning("bundle %s %s", version, what)


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
