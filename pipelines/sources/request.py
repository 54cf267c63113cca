"""What a reader is asked for, and what a reader is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession

from pipelines.company import SourceConfig, TableConfig, resolve_path
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
    """

    table: str
    source: SourceConfig
    company_path: Path

    @classmethod
    def of(cls, table: TableConfig, company_path: Path) -> SourceRequest:
        """The request behind a table of `company.yaml`."""
        return cls(table=table.name, source=table.source, company_path=company_path)

    @property
    def place(self) -> str:
        """File and key, for messages."""
        return f"{self.company_path}: tables.{self.table}"

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


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A kind of source.

    Args:
        read: Makes the raw rows as a DataFrame.
        files: The files behind them, without Spark.
        options: Names that `source.options` may hold.
        reread: Whether reading the rows again is cheaper than keeping them.
    """

    read: Callable[[SparkSession, SourceRequest], DataFrame]
    files: Callable[[SourceRequest], list[Path]]
    options: tuple[str, ...] = ()
    reread: bool = False


def files_below(path: Path) -> list[Path]:
    """The file itself, or all visible files below a folder."""
    if path.is_file():
        return [path]
    return [p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".", "_"))]
