"""Batches made one ahead of the step that uses them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def made_ahead(make: Callable[[int], Batch], start: int, stop: int) -> Generator[Batch, None, None]:
    """`make(start)` to `make(stop - 1)`; the next is made in a thread while one is used."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: Future[Batch] | None = None
        for i in range(start, stop):
            ready = ahead if ahead is not None else pool.submit(make, i)
            ahead = pool.submit(make, i + 1) if i + 1 < stop else None
            yield ready.result()
