"""Peak memory of this process and everything it started, sampled while a stage runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final

import psutil

SAMPLE_INTERVAL_S: Final = 0.25


@dataclass(frozen=True, kw_only=True)
class MemoryPeak:
    """Peaks in bytes of resident memory.

    Args:
        driver: This process.
        jvm: Java children together.
        workers: All other children together.
        total: All at one moment; at most the sum of the others.
    """

    driver: int = 0
    jvm: int = 0
    workers: int = 0
    total: int = 0

    def merged(self, other: MemoryPeak) -> MemoryPeak:
        """The larger of each figure."""
        return MemoryPeak(
            driver=max(self.driver, other.driver),
            jvm=max(self.jvm, other.jvm),
            workers=max(self.workers, other.workers),
            total=max(self.total, other.total),
        )


class MemorySampler:
    """Context manager: `peak` holds the largest samples seen inside it."""

    def __init__(self) -> None:
        self.peak = MemoryPeak()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True, name="memory-sampler")

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.peak = self.peak.merged(sample())

    def _loop(self) -> None:
        while not self._done.wait(SAMPLE_INTERVAL_S):
            self.peak = self.peak.merged(sample())


def sample() -> MemoryPeak:
    """Resident memory of this process and its descendants now."""
    me = psutil.Process()
    driver = me.memory_info().rss
    jvm = workers = 0
    for child in me.children(recursive=True):
        try:
            resident = child.memory_info().rss
            if child.name().startswith("java"):
                jvm += resident
            else:
                workers += resident
        except psutil.Error:
            continue
    return MemoryPeak(driver=driver, jvm=jvm, workers=workers, total=driver + jvm + workers)
