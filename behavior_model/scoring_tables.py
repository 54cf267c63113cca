"""The tables of the public contract that batch scoring and export write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from behavior_model.heads.propensity import Propensities
from behavior_model.predictor import Ranking
from pipelines.contracts import ITEM_ID, QUERY, USER_ID
from pipelines.workspace import write_bytes_atomically

RANK: Final = "rank"
SCORE: Final = "score"
TAG: Final = "tag"


def _ranked(asked: str, found: str) -> pa.Schema:
    columns = [(asked, pa.string()), (found, pa.string()), (RANK, pa.int32())]
    return pa.schema([*columns, (SCORE, pa.float64())])


RANKED_SCHEMA: Final = _ranked(USER_ID, ITEM_ID)
SEARCHED_SCHEMA: Final = _ranked(QUERY, ITEM_ID)
TAGGED_SCHEMA: Final = _ranked(ITEM_ID, TAG)
_WITH_INTERVAL: Final = [(SCORE, pa.float64()), ("lower", pa.float64()), ("upper", pa.float64())]
PREDICTED_SCHEMA: Final = pa.schema([(USER_ID, pa.string()), *_WITH_INTERVAL])
PROPENSITY_SCHEMA: Final = pa.schema(
    [(USER_ID, pa.string()), (ITEM_ID, pa.string()), *_WITH_INTERVAL]
)
EMBEDDED_SCHEMA: Final = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32()))])


def ranked_table(asked: Sequence[str], ranking: Ranking, schema: pa.Schema) -> pa.Table:
    """Ranked lists, one row per place; rank 1 is best.

    Args:
        asked: What each list answers.
        ranking: The lists.
        schema: One of the ranked schemas above.
    """
    lengths = [len(ids) for ids in ranking.ids]
    columns: list[list[Any]] = [
        [one for one, length in zip(asked, lengths, strict=True) for _ in range(length)],
        [one for ids in ranking.ids for one in ids],
        [rank for length in lengths for rank in range(1, length + 1)],
        [value for scores in ranking.scores for value in scores],
    ]
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def propensity_table(user_ids: Sequence[str], found: Propensities) -> pa.Table:
    """One row per user and category."""
    num_users, num_categories = found.scores.shape
    columns = [
        pa.array([user for user in user_ids for _ in range(num_categories)], type=pa.string()),
        pa.array(found.categories * num_users, type=pa.string()),
        *(pa.array(values.ravel()) for values in (found.scores, found.lowers, found.uppers)),
    ]
    return pa.table(columns, schema=PROPENSITY_SCHEMA)


def embedding_table(ids: Sequence[str], rows: npt.NDArray[np.float32]) -> pa.Table:
    """Columns id, embedding from float32[n, D]."""
    flat = pa.array(np.ascontiguousarray(rows, dtype=np.float32).reshape(-1))
    width = rows.shape[1] if len(rows) else 0
    offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * width)
    lists = pa.ListArray.from_arrays(offsets, flat)
    return pa.table([pa.array(ids, type=pa.string()), lists], schema=EMBEDDED_SCHEMA)


def write_table(out: Path, rows: pa.Table) -> None:
    """Write a parquet file, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    write_bytes_atomically(out, sink.getvalue())
