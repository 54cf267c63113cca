"""Which files of a folder Spark can read at once: those of one shape, below one set of partitions.

Spark takes `key=value` folders for columns, and of a folder without them it reads the files at its
top alone, in silence. Here nothing that lies below a folder is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame

_RECURSIVE: Final = {"recursiveFileLookup": "true"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Files that are read at once.

    Args:
        files: All of them, by name.
        paths: What Spark is given to read them.
        options: What it is told with that.
    """

    files: tuple[Path, ...]
    paths: tuple[str, ...]
    options: dict[str, str]


def groups_of(
    path: Path, files: Iterable[Path], shape: Callable[[Path], Hashable] = lambda file: None
) -> list[Group]:
    """Files by their partitions and their shape, in the order of their names.

    Args:
        path: The file or folder that the source names.
        files: Files below it.
        shape: What files that are read at once have in common.
    """
    root = Path(os.path.abspath(path))
    found: dict[tuple[Path, tuple[str, ...], Hashable], list[Path]] = {}
    for file in sorted(Path(os.path.abspath(file)) for file in files):
        found.setdefault((*_partitions(file, root), shape(file)), []).append(file)
    if len(found) == 1:
        ((_, keys, _), members) = next(iter(found.items()))
        options = {} if keys else _RECURSIVE
        return [Group(files=tuple(members), paths=(str(path),), options=options)]
    return [
        Group(files=tuple(members), paths=tuple(map(str, members)), options={"basePath": str(base)})
        for (base, _, _), members in found.items()
    ]


def union(frames: Sequence[DataFrame]) -> DataFrame:
    """Rows of all frames; a column that one lacks is missing there."""
    return reduce(lambda left, right: left.unionByName(right, True), frames)


def _partitions(file: Path, root: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder that holds the outermost `key=value` folder above a file, and all keys."""
    folders = file.relative_to(root).parts[:-1]
    keyed = [index for index, name in enumerate(folders) if "=" in name]
    base = root.joinpath(*folders[: keyed[0]]) if keyed else root
    return base, tuple(folders[index].partition("=")[0] for index in keyed)
