"""A Ray session for one command: local and quiet by default, a cluster where RAY_ADDRESS is set."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from pipelines.errors import EnvironmentProblemError

START_ATTEMPTS: Final = 3
OBJECT_STORE_BYTES: Final = 256 * 2**20
_QUIET: Final = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@contextmanager
def ray_session(num_cpus: int) -> Iterator[None]:
    """Start or join Ray for the length of a `with` block.

    A local session listens on loopback alone, wants a token that only its own processes know, and
    shows no dashboard. A session that is already there is used and left as it is.

    Args:
        num_cpus: Logical processors of a local session; one more than the workers need, so that
            reading has one too.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        # Ray's own switch for machines that are no part of a cluster: loopback on any system.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        yield
        return
    _read_environment_again()
    sigterm = _Sigterm()
    try:
        if address is not None:
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            _start_local(num_cpus)
        sigterm.watch()
        yield
    finally:
        ray.shutdown()
        sigterm.hand_back()


class _Sigterm:
    """SIGTERM while Ray runs, which takes the signal for itself when it starts.

    Whoever waits for Ray hears of no exception but `KeyboardInterrupt`: so that one ends the block,
    and after it the signal does what it did before.
    """

    def __init__(self) -> None:
        self._is_ours = threading.current_thread() is threading.main_thread()
        self._before = signal.getsignal(signal.SIGTERM)
        self._came = False

    def watch(self) -> None:
        """Once Ray has started."""
        if self._is_ours:
            signal.signal(signal.SIGTERM, self._interrupt)

    def hand_back(self) -> None:
        """Once Ray has ended, or could not start."""
        if self._is_ours:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            if self._came:
                signal.raise_signal(signal.SIGTERM)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        raise KeyboardInterrupt


def quiet_ray_data() -> None:
    """Let Ray Data speak of errors alone: what it plans and does is no news to who asked."""
    import ray.data  # sets its logger's level when it is imported first

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")
    ray.data.DataContext.get_current().enable_progress_bars = False


def _read_environment_again() -> None:
    """Make Ray's native half see this process's variables.

    It reads them once, when anything first imports Ray; a token set later would reach the daemons
    alone, and the driver would be refused by its own cluster.
    """
    import ray._raylet as native

    native.Config.initialize("")  # type: ignore[attr-defined]
    native.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def _start_local(num_cpus: int) -> None:
    """Start a session; Ray gives its own daemons 30 seconds, a busy machine may need another try.

    Raises:
        EnvironmentProblemError: it did not start, even so.
    """
    import ray

    reason = ""
    for _ in range(START_ATTEMPTS):
        try:
            ray.init(
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                logging_level=logging.WARNING,
                log_to_driver=False,
            )
        except Exception as error:  # Ray raises this very class when a daemon is late
            if "timed out during startup" not in str(error):
                raise
            reason = str(error)
            ray.shutdown()
        else:
            return
    raise EnvironmentProblemError(
        f"Ray did not start in {START_ATTEMPTS} attempts ({reason}). Close other heavy programs on "
        "this machine, or set RAY_ADDRESS to a running cluster, and run the command again."
    )
