"""Which rows of `token_sequences` hold: an increment adds rows beside older ones of its users."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.contracts import GENERATION, USER_ID


@dataclass(frozen=True, eq=False, kw_only=True)
class Generations:
    """The generation that holds, of users with more than one row.

    Args:
        user_ids: Their ids.
        newest: The generation that holds for each.
    """

    user_ids: pa.StringArray
    newest: pa.Int64Array

    @classmethod
    def of(cls, rows: pa.Table) -> Generations:
        """Found in all rows of the users asked about.

        Args:
            rows: With `USER_ID`, and with `GENERATION` once any increment added rows.
        """
        if GENERATION not in rows.column_names:
            return cls(user_ids=pa.array([], pa.string()), newest=pa.array([], pa.int64()))
        keys = pa.table({USER_ID: rows.column(USER_ID), GENERATION: _generation(rows)})
        found = keys.group_by(USER_ID).aggregate([(GENERATION, "max"), (GENERATION, "count")])
        several = found.filter(pc.greater(found.column(f"{GENERATION}_count"), 1))
        return cls(
            user_ids=several.column(USER_ID).combine_chunks().cast(pa.string()),
            newest=several.column(f"{GENERATION}_max").combine_chunks(),
        )

    def holding(self, rows: pa.Table) -> pa.Table:
        """The rows that hold, without their generation, in their order."""
        if GENERATION not in rows.column_names:
            return rows
        return self.kept(rows).drop_columns([GENERATION])

    def kept(self, rows: pa.Table) -> pa.Table:
        """The rows that hold, with their generation, in their order."""
        place = pc.index_in(rows.column(USER_ID).cast(pa.string()), value_set=self.user_ids)
        holds = pc.equal(_generation(rows), self.newest.take(place.combine_chunks()))
        return rows.filter(pc.fill_null(holds, True))


def _generation(rows: pa.Table) -> pa.ChunkedArray:
    """Rows that were made with all others came first."""
    return pc.fill_null(rows.column(GENERATION), 0)
