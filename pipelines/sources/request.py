"""What a reader is asked for, and what a reader is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlparse

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipelines.company import LookupConfig, SourceConfig, TableConfig, resolve_path
from pipelines.errors import CompanyConfigError, SourceError

MALFORMED_ROW: Final = "_malformed_row"
"""Column in which a reader puts the text of a row that it could not take apart."""


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """One raw table of a company.

    Args:
        table: Name of the table in `company.yaml`.
        source: Its `source` block.
        company_path: The `company.yaml` that relative paths start from.
        section: Where the table stands in it: `tables` or `lookups`.
        needed_columns: Source columns that no file may lack.
    """

    table: str
    source: SourceConfig
    company_path: Path
    section: str = "tables"
    needed_columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: TableConfig | LookupConfig, company_path: Path) -> SourceRequest:
        """The request behind a table of `company.yaml`."""
        if isinstance(table, LookupConfig):
            return cls(
                table=table.name,
                source=table.source,
                company_path=company_path,
                section="lookups",
            )
        needed = [name for one in table.columns for name in table.columns[one].source_columns]
        return cls(
            table=table.name,
            source=table.source,
            company_path=company_path,
            needed_columns=tuple(dict.fromkeys(needed)),
        )

    @property
    def place(self) -> str:
        """File and key, for messages."""
        return f"{self.company_path}: {self.section}.{self.table}"

    @property
    def where(self) -> str:
        """The path as given, else the format, for messages."""
        return self.source.path or f"source '{self.source.format}'"

    def path(self) -> Path:
        """The existing file or folder that the source names.

        Raises:
            CompanyConfigError: no path is given.
            SourceError: nothing is there.
        """
        if self.source.path is None:
            raise CompanyConfigError(
                f"{self.place}.source.path is missing; format '{self.source.format}' reads a file "
                "or a folder"
            )
        path = resolve_path(self.source.path, self.company_path)
        if not path.exists():
            raise SourceError(
                f"{self.place}.source.path: nothing at {path}. Paths are relative to the folder "
                "of company.yaml; correct the path or put the file there."
            )
        return path

    def refuse_without_needed(self, columns: Sequence[str], path: Path) -> None:
        """Refuse one of several files when it lacks a column that the contract needs.

        Args:
            columns: Columns of the file.
            path: The file, for the message.

        Raises:
            SourceError: it lacks one.
        """
        absent = [name for name in self.needed_columns if name not in columns]
        if absent:
            known = ", ".join(name for name in columns if name != MALFORMED_ROW)
            raise SourceError(
                f"{self.place}: {path}: no column '{absent[0]}', which tables.{self.table}.columns "
                f"needs. It has: {known}. Correct the file or the description and run again; a "
                "stream goes on there."
            )

    def needed(self, option: str) -> str:
        """An option that the format cannot do without.

        Raises:
            CompanyConfigError: it is not given, or is empty.
        """
        value = str(self.source.options.get(option, ""))
        if not value:
            raise CompanyConfigError(
                f"{self.place}.source.options.{option} is missing; format "
                f"'{self.source.format}' needs it."
            )
        return value

    def secret(self, option: str, what: str) -> str:
        """What the environment variable holds that an option names; empty where it names none.

        Args:
            option: Its value is the variable's name, so that no secret stands in the description.
            what: What the variable should hold, for the message.

        Raises:
            CompanyConfigError: that variable is not set.
        """
        name = str(self.source.options.get(option, ""))
        if name and name not in os.environ:
            raise CompanyConfigError(
                f"{self.place}.source.options.{option}: the environment variable '{name}' is not "
                f"set. Set it to {what}."
            )
        return os.environ.get(name, "") if name else ""


Stamp = list[list[str | int]]


def _no_jars(request: SourceRequest) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A kind of source.

    Args:
        read: Makes the raw rows as a DataFrame.
        stamp: What decides whether the rows are new, told without Spark: equal stamps mean equal
            rows.
        options: Names that `source.options` may hold.
        reread: Whether reading the rows again is cheaper than keeping them.
        jars: Names of the sets of Java libraries that reading needs.
    """

    read: Callable[[SparkSession, SourceRequest], DataFrame]
    stamp: Callable[[SourceRequest], Stamp]
    options: tuple[str, ...] = ()
    reread: bool = False
    jars: Callable[[SourceRequest], tuple[str, ...]] = _no_jars


def stamp_of_files(paths: Iterable[Path]) -> Stamp:
    """Name, size and modification time of every file."""
    stats = [(path, path.stat()) for path in sorted(paths)]
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]


def stamp_of_now(request: SourceRequest) -> Stamp:
    """For what cannot be told without asking a server: always new. Equal rows change nothing."""
    return [[request.source.format, time.time_ns()]]


def reason_of(error: Exception) -> str:
    """What Spark or the Java library behind it said, in one line: the first cause."""
    cause = getattr(error, "_cause", None) or error  # that of a stream's query
    java: Any = getattr(cause, "java_exception", None) or getattr(cause, "_origin", None)
    while java is not None and java.getCause() is not None:
        java = java.getCause()
    text = str(error) if java is None else str(java.toString())
    return text.strip().splitlines()[0].rstrip(".")


def quoted(name: str) -> Column:
    """A source column by its exact name, dots and spaces included."""
    return F.col("`" + name.replace("`", "``") + "`")


def path_of(uri: str) -> Path:
    """The local file behind a URI, as Spark names files."""
    return Path(unquote(urlparse(uri).path))


def files_below(path: Path) -> list[Path]:
    """The file itself, or all visible files below a folder."""
    if path.is_file():
        return [path]
    return [p for p in path.rglob("*") if p.is_file() and _is_visible(p.relative_to(path))]


def _is_visible(path: Path) -> bool:
    """Whether Spark reads it: `_delta_log` is hidden, `_day=1` is a partition."""
    return not any(
        part.startswith(".") or (part.startswith("_") and "=" not in part) for part in path.parts
    )
