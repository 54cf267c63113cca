"""Tables to disk: every file says that it is simulated, and the same rows give the same bytes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

LABEL: Final = {"simulated": "true", "by": "bfm simulate"}
COMPRESSION: Final = "zstd"


class Folder:
    """A folder of Parquet files. Counts the rows of every table; holds none of them.

    Use it in a `with` block: tables that grow are complete when it ends.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.num_rows: Counter[str] = Counter()
        self._growing: dict[str, pq.ParquetWriter] = {}

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in self._growing.values():
            writer.close()

    def write_part(self, name: str, block: int, rows: pa.Table, *, prefix: str = "part") -> None:
        """Write one file of a table that is a folder of files."""
        path = self.root / name / f"{prefix}-{block:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writer(path, rows.schema) as writer:
            writer.write_table(rows)
        self.num_rows[name] += len(rows)

    def append(self, name: str, rows: pa.Table) -> None:
        """Add rows to a table that is one file."""
        if name not in self._growing:
            path = self.root / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._growing[name] = _writer(path, rows.schema)
        self._growing[name].write_table(rows)
        self.num_rows[name] += len(rows)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    writer = pq.ParquetWriter(path, schema, compression=COMPRESSION, store_schema=False)
    writer.add_key_value_metadata(LABEL)
    return writer
