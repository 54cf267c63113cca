"""New events onto the shelf under the model as it is: what a night does between two trainings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from behavior_model.bundle import Bundle, open_bundle
from behavior_model.bundle_writer import bring_back
from behavior_model.item_index import ItemIndex
from behavior_model.renewal import renew_bundle
from behavior_model.scoring import embed
from behavior_model.scoring_tables import EMBEDDED_SCHEMA, embedding_table
from feature_store.erasure import USER_TABLES, published_users
from feature_store.online import held_online, remove_online, require_filled, require_same_store
from feature_store.publish import renew
from feature_store.refreshed import Refreshed
from feature_store.settings import Shelf
from pipelines import lake
from pipelines.clock import from_micros, to_micros
from pipelines.contracts import CATALOGUE, TIMES_US, TOKEN_SEQUENCES, USER_ID
from pipelines.errors import UserError, WorkspaceError
from pipelines.flow.lock import workspace_lock
from pipelines.flow.markers import reissue, standings
from pipelines.flow.rooms import ROOMS
from pipelines.flow.runner import RunSettings, StageContext, run_stages
from pipelines.flow.tokenized import made_whole
from pipelines.tokens.binning import FIRST_IDX, Longs
from pipelines.tokens.vocabulary import Vocabulary, latest_vocabulary
from pipelines.workspace import Workspace
from serving.delivered import remove_delivered
from serving.line import expire_features, line
from serving.readiness import is_published_for

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Refreshment:
    """What one refresh did.

    Args:
        as_of_us: Prediction time that the shelf stands at now.
        num_embedded: Users embedded and published.
        num_users: Users with any history before that time.
        num_removed: Users taken off the shelf, because all their events were deleted.
        num_new_items: Items that came after the training; they are answered for all the same.
        is_renewed: Whether the bundle's memories were brought to that time.
        model_version: The bundle that answers now.
        trained_to_us: The cut that the model was made for.
    """

    as_of_us: int
    num_embedded: int
    num_users: int
    num_removed: int
    num_new_items: int
    is_renewed: bool
    model_version: str
    trained_to_us: int


def refresh(
    workspace: Workspace, *, as_of: datetime | None = None, say: Callable[[str], None] = print
) -> Refreshment:
    """Take in what is new, and bring bundle and shelf to the present.

    Weights and cut stay. Memories are read anew from all histories, new items join the vocabulary
    behind the others, and users whom the news touch are embedded and published. Killed at any
    moment, the same call finishes it; called twice, the second changes nothing.

    Args:
        workspace: Where `bfm run` has finished.
        as_of: Prediction time; by default the moment after the last event, the present at most.
        say: Takes lines for the user.

    Raises:
        WorkspaceError: nothing was trained here, this machine lacks the text encoder of the
            training, another process works here, the online store is another one or was lost, the
            shelf is not published for the bundle, or the company's columns have changed since.
        StoreError: the online store does not answer.
        BundleError: no bundle, or a changed one.
        UserError: the shelf or the model is of a later time than `as_of`.
    """
    with workspace_lock(workspace):
        bring_back(workspace.bundle)
    bundle = open_bundle(workspace.bundle)
    known = Vocabulary.load(workspace.vocabulary_path)
    bundle.vocabulary.require(known.vocabulary_id, f"{workspace.vocabulary_path}")
    shelf = Shelf(workspace)
    shelf.require_published()
    require_same_store(shelf)
    require_filled(shelf)
    if not is_published_for(workspace, bundle.manifest):
        raise WorkspaceError(
            f"The shelf in {shelf.root} is not published for the bundle in {workspace.bundle} yet. "
            f"First: bfm publish --workspace {workspace.quoted}"
        )
    _check_time(as_of, _known_to(shelf, bundle))
    cut = from_micros(bundle.manifest.as_of_us)
    settings = replace(RunSettings.load(workspace), as_of=cut)
    context = StageContext(workspace, settings, say=say, keeps_vocabulary=True)
    run_stages(ROOMS, context)
    with workspace_lock(workspace):
        stages = line()
        before = standings(stages, context, {})
        done = _bring_forward(context, shelf, bundle, as_of)
        reissue(stages, context, before)
    return done


@dataclass(frozen=True, eq=False)
class _Times:
    """Of each user the first and the last event, int64[U], UTC microseconds."""

    user_ids: list[str]
    first_us: Longs
    last_us: Longs

    @classmethod
    def read(cls, workspace: Workspace) -> _Times:
        rows = lake.read(workspace, TOKEN_SEQUENCES.name, [USER_ID, TIMES_US])
        ends = [_ends(chunk) for chunk in rows.column(TIMES_US).chunks]
        first, last = np.concatenate(ends, axis=1) if ends else np.empty((2, 0), dtype=np.int64)
        return cls(rows.column(USER_ID).to_pylist(), first, last)

    def present(self, now: datetime) -> int:
        """The moment after the last event, if it has come."""
        return min(int(self.last_us.max(initial=0)) + 1, to_micros(now))

    def begun_before(self, moment_us: int) -> set[str]:
        return self._where(self.first_us < moment_us)

    def active_since(self, moment_us: int) -> set[str]:
        return self._where(self.last_us >= moment_us)

    def _where(self, mask: Mask) -> set[str]:
        return {self.user_ids[i] for i in np.flatnonzero(mask)}


def _ends(times: pa.ListArray) -> Longs:
    """int64[2, U]: first and last of each user's times; nobody has none."""
    offsets, values = times.offsets.to_numpy(), times.values.to_numpy()
    return np.stack([values[offsets[:-1]], values[offsets[1:] - 1]])


def _known_to(shelf: Shelf, bundle: Bundle) -> int:
    """Up to when model and shelf know what happened, UTC microseconds."""
    last = Refreshed.load(shelf)
    return max(bundle.manifest.as_of_us, last.as_of_us if last else 0)


def _check_time(as_of: datetime | None, known_us: int) -> None:
    if as_of is not None and to_micros(as_of) < known_us:
        raise UserError(
            f"--as-of {as_of.isoformat()}: model and shelf know what happened up to "
            f"{np.datetime64(known_us, 'us')} (UTC). Give a later time, or none."
        )


def _bring_forward(
    context: StageContext, shelf: Shelf, bundle: Bundle, as_of: datetime | None
) -> Refreshment:
    workspace, last = context.workspace, Refreshed.load(shelf)
    times = _Times.read(workspace)
    present = times.present(context.now) if as_of is None else to_micros(as_of)
    moment = max(present, _known_to(shelf, bundle))
    vocabulary = latest_vocabulary(workspace)
    table = lake.open_table(workspace, TOKEN_SEQUENCES.name)
    state = Refreshed(
        as_of_us=moment,
        model_version=bundle.manifest.lineage,
        sequences_id=str(table.metadata().id),
        sequences_version=table.version(),
        catalogue_version=lake.version_of(workspace, CATALOGUE.name),
        num_items=len(vocabulary.items),
    )
    renewed = _is_behind(bundle, vocabulary, times, last, state)
    if renewed:
        context.say(f"  bundle: memories up to {np.datetime64(moment, 'us')} (UTC)")
        renew_bundle(workspace, bundle, vocabulary, moment, seed=context.settings.seed)
        bundle = open_bundle(workspace.bundle)
    known = times.begun_before(moment)
    rows = EMBEDDED_SCHEMA.empty_table()
    touched = known & _touched(workspace, times, last, state)
    if touched:
        rows = embed(workspace, moment, sorted(touched))
    items = _new_items(bundle, last)
    if touched or items.num_rows:
        renew(
            workspace,
            as_of_us=moment,
            user_embeddings=rows,
            item_embeddings=items,
            model_version=state.model_version,
        )
    gone = held_online(shelf, sorted(published_users(shelf) - {*times.user_ids}))
    for contract in USER_TABLES:
        remove_online(shelf, contract, gone)
    if context.retained_from is not None:
        oldest_us = to_micros(context.retained_from)
        expire_features(workspace, oldest_us, {*times.user_ids}, context.say)
    state.save(shelf)
    remove_delivered(workspace, moment, context.say)
    return Refreshment(
        as_of_us=moment,
        num_embedded=rows.num_rows,
        num_users=len(known),
        num_removed=len(gone),
        num_new_items=vocabulary.num_added,
        is_renewed=renewed,
        model_version=bundle.manifest.model_version,
        trained_to_us=bundle.manifest.as_of_us,
    )


def _is_behind(
    bundle: Bundle, vocabulary: Vocabulary, times: _Times, last: Refreshed | None, now: Refreshed
) -> bool:
    """Whether anything has come that the bundle's memories do not hold."""
    known_us = bundle.manifest.knows_until_us
    return (
        last is None
        or bundle.manifest.memories_us is None
        or bundle.vocabulary.content_id != vocabulary.content_id
        or replace(last, as_of_us=now.as_of_us) != now
        or (now.as_of_us > known_us and len(times.active_since(known_us)) > 0)
    )


def _new_items(bundle: Bundle, last: Refreshed | None) -> pa.Table:
    """Embeddings of items that the shelf does not hold: `id, embedding`."""
    vocabulary = bundle.vocabulary
    published = len(vocabulary.fitted.items) if last is None else last.num_items
    new = np.arange(published, len(vocabulary.items), dtype=np.int64)
    rows = ItemIndex.load(bundle.index).embeddings(new + FIRST_IDX)
    return embedding_table(list(vocabulary.items[published:]), rows)


def _touched(
    workspace: Workspace, times: _Times, last: Refreshed | None, now: Refreshed
) -> set[str]:
    """Users whose rows on the shelf were made of other events, or by another model."""
    if (
        last is None
        or (last.model_version, last.sequences_id) != (now.model_version, now.sequences_id)
        or made_whole(workspace) > last.sequences_version
    ):
        return {*times.user_ids}
    renewed = lake.renewed_since(workspace, last.sequences_version)
    return {*renewed} | times.active_since(last.as_of_us)
