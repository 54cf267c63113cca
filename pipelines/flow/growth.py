"""Items that came after the vocabulary was fitted: known from now on, without a new vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from pipelines import lake
from pipelines.contracts import CATEGORY, EVENTS, ITEM_ID, USER_ID
from pipelines.erasure import without_suppressed
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace


def grow(workspace: Workspace, version: int, vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary with all items of catalogue and events, saved before it encodes anything.

    Args:
        workspace: Where catalogue and events are.
        version: Of the events.
        vocabulary: Fitted, or grown before.
    """
    catalogue = lake.read_catalogue(workspace)
    categories = dict(
        zip(
            catalogue.column(ITEM_ID).to_pylist(),
            catalogue.column(CATEGORY).to_pylist(),
            strict=True,
        )
    )
    taken = _distinct(workspace, version)
    grown = vocabulary.grown_by({**dict.fromkeys(taken), **categories})
    if grown.num_added > vocabulary.num_added:
        grown.save(workspace.grown_vocabulary_path)
    return grown


def takers(workspace: Workspace, version: int, items: Sequence[str]) -> list[str]:
    """Users with an event of any of these items, sorted; erased ones are left out."""
    if not items:
        return []
    wanted = pa.array(items, type=pa.string())
    parts = [
        rows.filter(pc.is_in(rows.column(ITEM_ID), value_set=wanted)).select([USER_ID])
        for rows in _events(workspace, version, [USER_ID, ITEM_ID])
    ]
    found = pa.concat_tables(parts).group_by(USER_ID).aggregate([])
    return sorted(without_suppressed(workspace, found).column(USER_ID).to_pylist())


def _distinct(workspace: Workspace, version: int) -> list[str]:
    parts = [rows.column(ITEM_ID).unique() for rows in _events(workspace, version, [ITEM_ID])]
    found: list[str] = pa.chunked_array(parts, type=pa.string()).unique().drop_null().to_pylist()
    return found


def _events(workspace: Workspace, version: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """A batch of rows at a time."""
    table = DeltaTable(str(workspace.table(EVENTS.name)), version=version)
    for batch in table.to_pyarrow_dataset().to_batches(columns=list(columns)):
        yield pa.table(batch)
