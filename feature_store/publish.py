"""Room 7: embeddings, activity and state of one prediction time go onto the shelf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import activity
from feature_store.erasure import USER_TABLES, erase_offline, erase_online
from feature_store.offline import append
from feature_store.online import forget_written, prepare_sqlite, require_answer, write_online
from feature_store.published import Published, is_same_store
from feature_store.reach import reached
from feature_store.refreshed import forget_refreshes, held_model, make_way
from feature_store.repo import definitions
from feature_store.settings import Shelf, ShelfSettings
from feature_store.tables import (
    AS_OF_US,
    EMBEDDING,
    FEATURE_TABLES,
    ITEM_ACTIVITY,
    ITEM_EMBEDDING,
    MODEL_VERSION,
    USER_ACTIVITY,
    USER_EMBEDDING,
    USER_STATE,
)
from pipelines import lake
from pipelines.contracts import TableContract
from pipelines.erasure import suppressed_digests, user_hash, without_users
from pipelines.errors import WorkspaceError
from pipelines.tokens.vocabulary import latest_vocabulary
from pipelines.workspace import Workspace

_EXPORTED_ID: Final = "id"


@dataclass(frozen=True)
class Publication:
    """What one publish did.

    Args:
        appended: Tables that got a new offline file.
        written: Rows written to the online store per table.
    """

    appended: tuple[str, ...]
    written: dict[str, int]


def publish(
    workspace: Workspace,
    *,
    as_of_us: int,
    user_embeddings: Path,
    item_embeddings: Path,
    model_version: str,
    created_us: int | None = None,
    settings: ShelfSettings | None = None,
) -> Publication:
    """Publish one prediction time. Doing it twice with the same inputs changes nothing.

    Rows of the same model that are newer stay; those of another model make way, whatever their
    time. At the end `published.json` says whose rows the shelf holds.

    Args:
        workspace: Its token sequences give state and activity.
        as_of_us: Prediction time, UTC microseconds; only events before it count.
        user_embeddings: Parquet `id, embedding` of the users at `as_of_us` (`bfm export`).
        item_embeddings: Parquet `id, embedding` of the items.
        model_version: Of the model that made the embeddings, as it was trained.
        created_us: See `offline.append`.
        settings: Which online store.

    Raises:
        WorkspaceError: an input is missing.
        VocabularyMismatchError: token sequences were made with another vocabulary.
        StoreError: the online store does not answer; the same call finishes it.
    """
    users, items = _exported(user_embeddings), _exported(item_embeddings)
    tables = {
        **_activity_tables(workspace, as_of_us, None),
        USER_EMBEDDING.name: _embeddings(USER_EMBEDDING, users, model_version, as_of_us),
        ITEM_EMBEDDING.name: _embeddings(ITEM_EMBEDDING, items, model_version, as_of_us),
    }
    shelf = Shelf(workspace, settings)
    apply(shelf)
    require_answer(shelf)
    same = is_same_store(shelf)
    if not same:
        begin_again(shelf)
    make_way(shelf, model_version, as_of_us, held=held_model(shelf) if same else None)
    publication = _put(shelf, tables, as_of_us, created_us)
    published = Published(model_version=model_version, online_store=shelf.settings.identity)
    published.save(workspace)
    return publication


def renew(
    workspace: Workspace,
    *,
    as_of_us: int,
    user_embeddings: pa.Table,
    item_embeddings: pa.Table | None = None,
    model_version: str,
    settings: ShelfSettings | None = None,
) -> Publication:
    """Publish what some users have become by a later prediction time, and the activity of items.

    Rows of other users stay, with the prediction time that they were published for; embeddings of
    items stay, as the model does, and those of new items come to them.

    Args:
        workspace: Its token sequences give state and activity.
        as_of_us: Prediction time, UTC microseconds.
        user_embeddings: `id, embedding` of the users at `as_of_us`.
        item_embeddings: `id, embedding` of new items, if any came.
        model_version: Of the model that made the embeddings, as it was trained.
        settings: Which online store.

    Raises:
        WorkspaceError: an input is missing.
        VocabularyMismatchError: token sequences were made with another vocabulary.
        StoreError: the online store does not answer; the same call finishes it.
    """
    users = frozenset(user_embeddings.column(_EXPORTED_ID).to_pylist())
    embeddings = _embeddings(USER_EMBEDDING, user_embeddings, model_version, as_of_us)
    tables = {
        **_activity_tables(workspace, as_of_us, users),
        USER_EMBEDDING.name: embeddings,
    }
    if item_embeddings is not None and item_embeddings.num_rows:
        tables[ITEM_EMBEDDING.name] = _embeddings(
            ITEM_EMBEDDING, item_embeddings, model_version, as_of_us
        )
    shelf = Shelf(workspace, settings)
    apply(shelf)
    return _put(shelf, tables, as_of_us, None)


def _put(
    shelf: Shelf, tables: Mapping[str, pa.Table], as_of_us: int, created_us: int | None
) -> Publication:
    """Write tables offline and online, without users who were erased or are meanwhile."""
    appended, written = [], {}
    before = frozenset(suppressed_digests(shelf.workspace))
    for table in FEATURE_TABLES:
        if table.name not in tables:
            continue
        rows = _in_order(table, without_users(tables[table.name], before))
        if append(shelf, table, rows, as_of_us, created_us):
            appended.append(table.name)
        written[table.name] = write_online(shelf, table, rows, as_of_us)
    _erase_again(shelf, tables, frozenset(suppressed_digests(shelf.workspace)) - before)
    return Publication(appended=tuple(appended), written=written)


def _erase_again(shelf: Shelf, tables: Mapping[str, pa.Table], digests: frozenset[str]) -> None:
    """Whose erasure came while rows were written, and may have been overtaken by them."""
    if not digests:
        return
    users = {user for table in USER_TABLES for user in _ids(table, tables.get(table.name))}
    for user in sorted(user for user in users if user_hash(user) in digests):
        erase_online(shelf, user)
        erase_offline(shelf, user)


def _ids(table: TableContract, rows: pa.Table | None) -> list[str]:
    return [] if rows is None else list(rows.column(table.key[0]).to_pylist())


def begin_again(shelf: Shelf) -> None:
    """Forget what was written online, so that the next publish and refresh write every row."""
    forget_written(shelf)
    forget_refreshes(shelf)


def apply(shelf: Shelf) -> None:
    """Register the definitions and make the online tables, as `feast apply` does.

    Raises:
        StoreError: the online store does not answer.
    """
    shelf.write_yaml()
    prepare_sqlite(shelf)
    with reached(shelf):
        shelf.store.apply(
            [
                definitions.user,
                definitions.item,
                definitions.user_embedding,
                definitions.user_activity,
                definitions.user_state,
                definitions.item_embedding,
                definitions.item_activity,
            ]
        )


def _in_order(table: TableContract, rows: pa.Table) -> pa.Table:
    return rows.select(list(table.column_names)).sort_by(table.key[0]).combine_chunks()


def _activity_tables(
    workspace: Workspace, as_of_us: int, users: frozenset[str] | None
) -> dict[str, pa.Table]:
    """Of these users (None: all), and of the items that anybody took."""
    vocabulary = latest_vocabulary(workspace)
    histories = lake.read_histories(workspace, vocabulary, as_of_us)
    items = activity.item_activity(vocabulary, histories, as_of_us)
    if users is not None:
        histories = histories.only([one for one in histories.user_ids if one in users])
    return {
        USER_ACTIVITY.name: activity.user_activity(vocabulary, histories, as_of_us),
        USER_STATE.name: activity.user_state(vocabulary, histories, as_of_us),
        ITEM_ACTIVITY.name: items,
    }


def _exported(path: Path) -> pa.Table:
    if not path.is_file():
        raise WorkspaceError(
            f"{path}: no embeddings here. Make them with: bfm embed --workspace DIR"
        )
    return pq.read_table(path, columns=[_EXPORTED_ID, EMBEDDING])


def _embeddings(
    table: TableContract, exported: pa.Table, model_version: str, as_of_us: int
) -> pa.Table:
    num_rows = exported.num_rows
    return pa.table(
        {
            table.key[0]: exported.column(_EXPORTED_ID),
            EMBEDDING: exported.column(EMBEDDING),
            MODEL_VERSION: pa.repeat(pa.scalar(model_version), num_rows),
            AS_OF_US: pa.repeat(pa.scalar(as_of_us, type=pa.int64()), num_rows),
        }
    )
