"""Batch scoring and embedding export, on Ray Data where there are many rows: the predictor of
serving over shards of users, items or queries."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from behavior_model.bundle import Manifest, open_bundle
from behavior_model.predictor import (
    CATEGORY_PROPENSITY,
    CATEGORY_RECOMMENDATION,
    RANKING_TASKS,
    SEARCH,
    TAGGING,
    LevelName,
    Predictor,
)
from behavior_model.scoring_tables import (
    EMBEDDED_SCHEMA,
    PREDICTED_SCHEMA,
    PROPENSITY_SCHEMA,
    RANK,
    RANKED_SCHEMA,
    SEARCHED_SCHEMA,
    TAGGED_SCHEMA,
    embedding_table,
    propensity_table,
    ranked_table,
    write_table,
)
from behavior_model.training.ray_session import quiet_ray_data, ray_session
from pipelines import lake
from pipelines.contracts import (
    EVENT_TIME,
    EVENTS,
    ITEM_ID,
    QUERY,
    TOKEN_SEQUENCES,
    USER_ID,
    VOCABULARY_ID,
)
from pipelines.erasure import suppressed_digests, without_suppressed, without_users
from pipelines.errors import UnknownNameError, UserError
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace

BATCH_USERS: Final = 128
BATCH_ITEMS: Final = 4_096
MAX_ACTORS: Final = 2
MAX_ROWS_HERE: Final = 1_000
"""So many rows are answered about by this process, in less time than it takes to start Ray, unless
a cluster is there."""
USER: Final = "user"
ITEM: Final = "item"
_log: Final = logging.getLogger("bfm.scoring")

Longs = npt.NDArray[np.int64]
Answer = Callable[[Predictor, pa.Table], pa.Table]
Ask = Callable[[Predictor, Histories, Longs], pa.Table]


def score(
    workspace: Workspace, task: str, out: Path, *, k: int = 10, as_of_us: int | None = None
) -> int:
    """Score a task for everybody and write one parquet file, whole or not at all.

    | task | rows | columns |
    |---|---|---|
    | recommendation, category_recommendation | k per user with history before `as_of_us` |
      user_id, item_id, rank, score (a category's item_id is its name) |
    | user tasks (churn, ...) | one per such user | user_id, score, lower, upper |
    | category_propensity | one per such user and each of the largest categories | user_id,
      item_id (the category's name), score, lower, upper |
    | search | k per distinct query of the events before `as_of_us` | query, item_id, rank, score |
    | tagging | k per item | item_id, tag, rank, score |

    Args:
        workspace: With a sealed bundle.
        task: One that the bundle answers.
        out: Parquet file.
        k: Length of ranked lists.
        as_of_us: Prediction time; by default up to when the bundle knows. An earlier one is
            answered with a warning, since the bundle has learned from what came after it.

    Returns:
        Number of rows.

    Raises:
        BundleError: no bundle, or a changed one.
        UnknownNameError: the bundle does not answer this task.
        UserError: search without a single query in the events.
        VocabularyMismatchError: token sequences and bundle do not belong together.
    """
    manifest = open_bundle(workspace.bundle).manifest
    if task not in manifest.tasks:
        raise UnknownNameError("task", task, manifest.tasks)
    moment = _moment(manifest, as_of_us)
    rows, answer, schema = _plan(workspace, task, k, moment)
    return _write(out, schema, _run(workspace, rows, answer, schema))


def export(workspace: Workspace, entity: str, out: Path, *, as_of_us: int | None = None) -> int:
    """Write the embeddings of all users (with history before `as_of_us`) or of all items.

    Columns `id, embedding`; errors and other arguments as in `score`.
    """
    if entity not in (USER, ITEM):
        raise UnknownNameError("entity", entity, (USER, ITEM))
    moment = _moment(open_bundle(workspace.bundle).manifest, as_of_us)
    rows = _users(workspace) if entity == USER else _items(workspace)
    about_users = _OfUsers(moment, EMBEDDED_SCHEMA, _embed_users)
    answer: Answer = about_users if entity == USER else _embed_items
    return _write(out, EMBEDDED_SCHEMA, _run(workspace, rows, answer, EMBEDDED_SCHEMA))


def embed(workspace: Workspace, as_of_us: int, user_ids: Sequence[str]) -> pa.Table:
    """Embeddings of some users at a prediction time, as `export` writes them.

    Args:
        workspace: With a sealed bundle.
        as_of_us: Prediction time.
        user_ids: Users; those without history before the time, or erased ones, get no row.

    Raises:
        VocabularyMismatchError: token sequences and bundle do not belong together.
    """
    answer = _OfUsers(as_of_us, EMBEDDED_SCHEMA, _embed_users)
    rows = replace(_users(workspace), only=frozenset(user_ids), num_rows=len(user_ids))
    return _gathered(EMBEDDED_SCHEMA, _run(workspace, rows, answer, EMBEDDED_SCHEMA))


@dataclass(frozen=True)
class _OfUsers:
    """Answer about the users of one shard who have any history before a prediction time.

    Args:
        as_of_us: The prediction time.
        schema: Of the answer.
        ask: From a predictor, U users and int64[U] times to rows.
    """

    as_of_us: int
    schema: pa.Schema
    ask: Ask

    def __call__(self, predictor: Predictor, shard: pa.Table) -> pa.Table:
        histories = Histories.from_arrow(shard).known_to(predictor.vocabulary)
        histories = histories.before(self.as_of_us).non_empty()
        if not len(histories):
            return self.schema.empty_table()
        times = np.full(len(histories), self.as_of_us, dtype=np.int64)
        return self.ask(predictor, histories, times)


def _rank(
    predictor: Predictor, histories: Histories, times: Longs, *, task: str, k: int
) -> pa.Table:
    level: LevelName = "category" if task == CATEGORY_RECOMMENDATION else "item"
    ranking = predictor.recommend(histories, times, k, level=level)
    return ranked_table(histories.user_ids, ranking, RANKED_SCHEMA)


def _predict(predictor: Predictor, histories: Histories, times: Longs, *, task: str) -> pa.Table:
    found = predictor.predict(task, histories, times)
    columns = [histories.user_ids, found.scores, found.lowers, found.uppers]
    return pa.table(columns, schema=PREDICTED_SCHEMA)


def _propensities(predictor: Predictor, histories: Histories, times: Longs) -> pa.Table:
    return propensity_table(histories.user_ids, predictor.propensities(histories, times))


def _embed_users(predictor: Predictor, histories: Histories, times: Longs) -> pa.Table:
    return embedding_table(histories.user_ids, predictor.embed_users(histories, times))


@dataclass(frozen=True)
class _Search:
    """Answer of search for some queries, nobody's in particular."""

    k: int

    def __call__(self, predictor: Predictor, shard: pa.Table) -> pa.Table:
        queries = shard.column(QUERY).to_pylist()
        return ranked_table(queries, predictor.search(queries, self.k), SEARCHED_SCHEMA)


@dataclass(frozen=True)
class _Tag:
    """Answer of tagging for some items."""

    k: int

    def __call__(self, predictor: Predictor, shard: pa.Table) -> pa.Table:
        items = shard.column(ITEM_ID).to_pylist()
        return ranked_table(items, predictor.tags(items, self.k), TAGGED_SCHEMA)


def _embed_items(predictor: Predictor, shard: pa.Table) -> pa.Table:
    items = shard.column(ITEM_ID).to_pylist()
    return embedding_table(items, predictor.embed_items(items))


class _Worker:
    """One actor: a predictor and what it is asked.

    Args:
        bundle: Folder of the bundle.
        answer: From a shard of rows to rows.
        schema: Of the answer; an empty shard gives an empty table.
    """

    def __init__(self, bundle: str, answer: Answer, schema: pa.Schema) -> None:
        import torch

        torch.set_num_threads(1)
        self.predictor = Predictor.load(Path(bundle))
        self.answer = answer
        self.schema = schema

    def __call__(self, shard: pa.Table) -> pa.Table:
        if shard.num_rows == 0:
            return self.schema.empty_table()
        return self.answer(self.predictor, shard).cast(self.schema)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What is answered about.

    Args:
        source: The folder of a Delta table, or rows.
        num_rows: How many there are.
        shard_rows: Rows that are answered about at once.
        only: Of token sequences those of these users; None: all.
    """

    source: pa.Table | Path
    num_rows: int
    shard_rows: int
    only: frozenset[str] | None = None

    @property
    def num_actors(self) -> int:
        """An actor loads engines and bundle, which takes longer than answering a shard."""
        num_shards = math.ceil(self.num_rows / self.shard_rows)
        return max(1, min(MAX_ACTORS, os.cpu_count() or 1, num_shards))


def _plan(
    workspace: Workspace, task: str, k: int, as_of_us: int
) -> tuple[_Rows, Answer, pa.Schema]:
    if task == SEARCH:
        return _queries(workspace, as_of_us), _Search(k), SEARCHED_SCHEMA
    if task == TAGGING:
        return _items(workspace), _Tag(k), TAGGED_SCHEMA
    ask: Ask = partial(_predict, task=task)
    schema = PREDICTED_SCHEMA
    if task in RANKING_TASKS:
        schema, ask = RANKED_SCHEMA, partial(_rank, task=task, k=k)
    elif task == CATEGORY_PROPENSITY:
        schema, ask = PROPENSITY_SCHEMA, _propensities
    return _users(workspace), _OfUsers(as_of_us, schema, ask), schema


def _moment(manifest: Manifest, as_of_us: int | None) -> int:
    if as_of_us is None:
        return manifest.knows_until_us
    if as_of_us < manifest.knows_until_us:
        _log.warning(
            "the bundle has learned from events up to %s; answers as of an earlier time know the "
            "future and must not be judged",
            np.datetime64(manifest.knows_until_us, "us"),
        )
    return as_of_us


def _users(workspace: Workspace) -> _Rows:
    """The table of token sequences.

    Raises:
        VocabularyMismatchError: they were encoded with another vocabulary than the bundle's.
    """
    vocabulary = open_bundle(workspace.bundle).vocabulary
    encoded = lake.read(workspace, TOKEN_SEQUENCES.name, [VOCABULARY_ID]).column(VOCABULARY_ID)
    for vocabulary_id in encoded.unique().to_pylist():
        vocabulary.require(vocabulary_id, str(workspace.table(TOKEN_SEQUENCES.name)))
    table = workspace.table(TOKEN_SEQUENCES.name)
    return _Rows(source=table, num_rows=len(encoded), shard_rows=BATCH_USERS)


def _items(workspace: Workspace) -> _Rows:
    return _in_memory(pa.table({ITEM_ID: list(open_bundle(workspace.bundle).vocabulary.items)}))


def _queries(workspace: Workspace, as_of_us: int) -> _Rows:
    moment = pa.scalar(as_of_us, type=pa.timestamp("us", tz="UTC")).as_py()
    rows = lake.read(workspace, EVENTS.name, [USER_ID, QUERY], [(EVENT_TIME, "<", moment)])
    texts = without_suppressed(workspace, rows).column(QUERY).drop_null().unique()
    if not len(texts):
        raise UserError(
            "search cannot be scored in a batch: the events hold no query. Map a 'query' column in "
            "company.yaml, or ask one query at a time: POST /v1/search"
        )
    return _in_memory(pa.table({QUERY: texts}).sort_by(QUERY))


def _in_memory(table: pa.Table) -> _Rows:
    return _Rows(source=table, num_rows=table.num_rows, shard_rows=BATCH_ITEMS)


def _run(
    workspace: Workspace, rows: _Rows, answer: Answer, schema: pa.Schema
) -> Iterator[pa.Table]:
    """The answers of all shards."""
    if rows.num_rows > MAX_ROWS_HERE or os.environ.get("RAY_ADDRESS"):
        return _on_ray(workspace, rows, answer, schema)
    return _here(workspace, rows, answer)


def _here(workspace: Workspace, rows: _Rows, answer: Answer) -> Iterator[pa.Table]:
    table = rows.source
    if isinstance(table, Path):
        chosen = None if rows.only is None else [(USER_ID, "in", sorted(rows.only))]
        table = lake.read(workspace, TOKEN_SEQUENCES.name, filters=chosen)
    table = without_suppressed(workspace, table)
    predictor = Predictor.load(workspace.bundle)
    for start in range(0, table.num_rows, rows.shard_rows):
        yield answer(predictor, table.slice(start, rows.shard_rows))


def _on_ray(
    workspace: Workspace, rows: _Rows, answer: Answer, schema: pa.Schema
) -> Iterator[pa.Table]:
    with ray_session(rows.num_actors + 1):
        import ray

        quiet_ray_data()
        if isinstance(rows.source, Path):
            dataset = ray.data.read_delta(str(rows.source)).map_batches(
                lake.sequence_generations(workspace).holding,
                batch_size=None,
                batch_format="pyarrow",
            )
        else:
            dataset = ray.data.from_arrow(rows.source)
        if rows.only is not None:
            dataset = dataset.map_batches(
                partial(_of_users, user_ids=rows.only), batch_size=None, batch_format="pyarrow"
            )
        if erased := frozenset(suppressed_digests(workspace)):
            dataset = dataset.map_batches(
                partial(without_users, digests=erased), batch_size=None, batch_format="pyarrow"
            )
        answers = dataset.repartition(target_num_rows_per_block=rows.shard_rows).map_batches(
            _Worker,
            fn_constructor_args=(str(workspace.bundle), answer, schema),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=rows.num_actors),
        )
        for reference in answers.to_arrow_refs():
            yield ray.get(reference)


def _of_users(rows: pa.Table, user_ids: frozenset[str]) -> pa.Table:
    kept = [user in user_ids for user in rows.column(USER_ID).to_pylist()]
    return rows.filter(pa.array(kept, type=pa.bool_()))


def _gathered(schema: pa.Schema, parts: Iterator[pa.Table]) -> pa.Table:
    found = [part.cast(schema) for part in parts if part.num_rows]
    rows = pa.concat_tables(found) if found else schema.empty_table()
    keys = [schema.names[0], *(name for name in (RANK, ITEM_ID) if name in schema.names[1:])]
    return rows.sort_by([(key, "ascending") for key in keys])


def _write(out: Path, schema: pa.Schema, parts: Iterator[pa.Table]) -> int:
    rows = _gathered(schema, parts)
    write_table(out, rows)
    return int(rows.num_rows)
