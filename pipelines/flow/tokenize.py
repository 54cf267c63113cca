"""Rooms 3 and 4 as one stage: for all users, or for those whom an intake touched.

A vocabulary stays as it was fitted while its cut and the company's columns stay, the catalogue
names no other items, and few events before the cut were changed. Then only the sequences and labels
of touched users are made again. Otherwise all are. Between two trainings the vocabulary must stay:
new items are added behind the others (`flow/growth`).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from pipelines import lake
from pipelines.contracts import (
    CATALOGUE,
    CATEGORY,
    EVENTS,
    ITEM_ID,
    LABELS,
    PREDICTION_TIME,
    TOKEN_SEQUENCES,
    USER_ID,
)
from pipelines.errors import UserError, WorkspaceError
from pipelines.flow.growth import grow, takers
from pipelines.flow.runner import StageContext, table_stamp
from pipelines.flow.tokenized import (
    BEFORE_CUT,
    BEFORE_END,
    BEFORE_TRAINING,
    MadeFrom,
    pending_changes,
)
from pipelines.tokens.vocabulary import Vocabulary, latest_vocabulary

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from pipelines.stages.changes import Changes
    from pipelines.stages.user_ranges import UserRanges

REFIT_SHARE: Final = 0.01
"""Share of all events that may change before the training cut while the vocabulary stays."""
REBUILD_SHARE: Final = 0.33
"""Share of users from which on it is cheaper to make all sequences again."""
MISSING_SHARE: Final = 0.25
"""Of the newest window to learn from, how much may lie after the last event."""
QUIET: Final = timedelta(days=1)
"""Nothing need have happened on the last day of a window."""
_SAME: Final = ("events_id", "as_of", "window_days", "columns")
_CLUSTER: Final = {TOKEN_SEQUENCES.name: [USER_ID], LABELS.name: [USER_ID, PREDICTION_TIME]}


def tokenize(context: StageContext) -> None:
    """Fit the vocabulary or keep it, then make sequences and labels.

    Raises:
        UserError: events end long before the test cut.
        WorkspaceError: no event lies before the training cut, or the vocabulary must be kept and
            cannot.
    """
    from pipelines.stages.user_ranges import user_ranges

    _look_at_windows(context)
    events = user_ranges(context.workspace.table(EVENTS.name))
    last = MadeFrom.load(context.workspace)
    vocabulary = None if last is None else _kept_vocabulary(context, events, last)
    if context.keeps_vocabulary and vocabulary is not None:
        vocabulary = grow(context.workspace, events.version, vocabulary)
    changes = _touched(context, events, last, vocabulary) if last and vocabulary else None
    if context.keeps_vocabulary and vocabulary is None:
        raise WorkspaceError(
            f"{context.workspace.root}: the cut, the window or the company's columns are others "
            "than those that the model was trained with. Train it again: "
            f"bfm run --workspace {context.workspace.quoted}"
        )
    if last is None or vocabulary is None or changes is None:
        if vocabulary is None or not context.keeps_vocabulary:
            vocabulary = _fit(context, events)
        _store_all(context, events, vocabulary)
    else:
        context.say(
            f"  vocabulary {vocabulary.vocabulary_id} stays; "
            f"{len(changes.user_ids):,} users have new or corrected events{_told(vocabulary)}"
        )
        _renew_sequences(context, events, vocabulary, changes, last)
        _merge_labels(context, events, changes.users_before[BEFORE_END])
    made = _made_from(context, events, vocabulary.vocabulary_id, last, changes)
    made.of_items(len(vocabulary.items)).save(context.workspace)


def _look_at_windows(context: StageContext) -> None:
    """Whether events reach to the end of the windows that are learned from and judged."""
    last, days = lake.last_event(context.workspace), context.settings.window_days
    if last is None:
        return
    if context.as_of - last > max(timedelta(days=days * MISSING_SHARE), 2 * QUIET):
        raise UserError(
            f"--as-of {context.as_of.isoformat()} lies {(context.as_of - last).days} days after "
            f"the last event ({last.isoformat(timespec='seconds')}): in the newest window to learn "
            "from, everybody would seem to have left. Take in newer events, or give an earlier "
            "--as-of."
        )
    end = context.as_of + timedelta(days=days)
    if end - last > QUIET and not context.keeps_vocabulary:
        context.say(
            f"  warning: the {days} days after --as-of are not over: events end at "
            f"{last.isoformat(timespec='seconds')}, {(end - last).days} days before them. What is "
            "learned is sound; figures of the evaluation are of an unfinished window"
        )


def _told(vocabulary: Vocabulary) -> str:
    added = vocabulary.num_added
    return f"; {added:,} item(s) came after it was fitted" if added else ""


def _touched(
    context: StageContext, events: UserRanges, last: MadeFrom, vocabulary: Vocabulary
) -> Changes | None:
    """Changes since the last time; None when everything has to be made again."""
    made = (TOKEN_SEQUENCES.name, LABELS.name)
    if any(lake.version_of(context.workspace, name) < 0 for name in made):
        return None
    changes = pending_changes(context.workspace, last)
    if changes is None:
        return None
    most = math.inf if context.keeps_vocabulary else REFIT_SHARE * events.num_events
    if changes.num_before[BEFORE_TRAINING] > most:
        return None
    num_users = lake.num_rows(context.workspace, TOKEN_SEQUENCES.name)
    encoded = len(vocabulary.fitted.items) if last.num_items is None else last.num_items
    unread = takers(context.workspace, events.version, vocabulary.items[encoded:])
    changes = changes.with_users(unread)
    return changes if len(changes.user_ids) <= REBUILD_SHARE * num_users else None


def _kept_vocabulary(
    context: StageContext, events: UserRanges, last: MadeFrom
) -> Vocabulary | None:
    """The vocabulary on disk, if it is the one remembered, of the same company and cut, and knows
    all of the catalogue (or need not)."""
    now = _made_from(context, events, last.vocabulary_id, None, None)
    if any(getattr(last, name) != getattr(now, name) for name in _SAME):
        return None
    if not context.workspace.vocabulary_path.is_file():
        return None
    vocabulary = latest_vocabulary(context.workspace)
    if vocabulary.vocabulary_id != last.vocabulary_id:
        return None
    if context.keeps_vocabulary or not _has_catalogue(context):
        return vocabulary
    rows = lake.read(context.workspace, CATALOGUE.name, [ITEM_ID, CATEGORY])
    known = vocabulary.fitted.category_of_items()
    knows_all = all(
        item in known and known[item] == category
        for item, category in zip(
            rows.column(ITEM_ID).to_pylist(), rows.column(CATEGORY).to_pylist(), strict=True
        )
    )
    return vocabulary if knows_all else None


def _fit(context: StageContext, events: UserRanges) -> Vocabulary:
    from pipelines.stages.vocabulary import fit_vocabulary

    vocabulary = fit_vocabulary(
        context.company.name,
        _frame(context, events),
        _catalogue(context),
        context.company.contract("events"),
        context.training_cut,
    )
    vocabulary.save(context.workspace.vocabulary_path)
    context.workspace.grown_vocabulary_path.unlink(missing_ok=True)
    context.say(
        f"  vocabulary {vocabulary.vocabulary_id}: {len(vocabulary.fields)} fields, "
        f"{len(vocabulary.items):,} items, {len(vocabulary.categories):,} categories"
    )
    return vocabulary


def _store_all(context: StageContext, events: UserRanges, vocabulary: Vocabulary) -> None:
    from pipelines.stages.sequences import token_sequences

    _replace(context, TOKEN_SEQUENCES.name, token_sequences(context.spark(), events, vocabulary))
    cluster = _CLUSTER[LABELS.name]
    with _labels(context, events) as labels:
        in_order = labels.repartitionByRange(cluster[0]).sortWithinPartitions(*cluster)
        _replace(context, LABELS.name, in_order)


def _replace(context: StageContext, name: str, frame: DataFrame) -> None:
    from pipelines.stages.delta import replace

    changed = replace(frame, context.workspace.table(name), _CLUSTER[name])
    rows = lake.num_rows(context.workspace, name)
    context.say(f"  {name}: {rows:,} rows{'' if changed else ', unchanged'}")


def _renew_sequences(
    context: StageContext,
    events: UserRanges,
    vocabulary: Vocabulary,
    changes: Changes,
    last: MadeFrom,
) -> None:
    from pipelines.stages.extension import lengthen
    from pipelines.stages.renewal import clear, is_crowded, renew
    from pipelines.stages.sequences import sequence_schema, token_sequences

    if not changes.user_ids:
        return
    path = context.workspace.table(TOKEN_SEQUENCES.name)
    longer = lengthen(context.workspace, last.events_version, vocabulary, changes.added_alone)
    others = sorted({*changes.user_ids} - {*longer})
    deleted = 0
    if others:
        sequences = token_sequences(context.spark(), events, vocabulary, others)
        deleted = renew(sequences, path, others).deleted
    context.say(
        f"  {TOKEN_SEQUENCES.name}: {len(longer):,} lengthened, "
        f"{len(others) - deleted:,} made again, {deleted:,} deleted"
    )
    if is_crowded(path):
        clear(context.spark(), path, events.ranges, sequence_schema(vocabulary))
        context.say(f"  {TOKEN_SEQUENCES.name}: cleared of older rows")


def _merge_labels(context: StageContext, events: UserRanges, user_ids: list[str]) -> None:
    """Labels of users with changes before the end of the test window: later ones change none."""
    from pipelines.stages.delta import merge
    from pipelines.stages.labels import NUM_PREDICTION_TIMES

    if not user_ids:
        return
    rows = [(user,) for user in user_ids]
    users = context.spark().createDataFrame(rows, f"{USER_ID} string")
    with _labels(context, events, users) as labels:
        written = merge(
            labels,
            context.workspace.table(LABELS.name),
            LABELS,
            _CLUSTER[LABELS.name],
            num_rows=NUM_PREDICTION_TIMES * len(user_ids),
            within=users,
        )
    context.say(
        f"  {LABELS.name}: {written.inserted:,} inserted, {written.updated:,} updated, "
        f"{written.deleted:,} deleted"
    )


def _labels(
    context: StageContext, events: UserRanges, users: DataFrame | None = None
) -> AbstractContextManager[DataFrame]:
    from pipelines.stages.labels import future_labels

    return future_labels(
        _frame(context, events),
        _catalogue(context),
        context.as_of,
        context.settings.window_days,
        users,
    )


def _catalogue(context: StageContext) -> DataFrame | None:
    if not _has_catalogue(context):
        return None
    path = context.workspace.table(CATALOGUE.name)
    return context.spark().read.format("delta").load(str(path))


def _has_catalogue(context: StageContext) -> bool:
    return any(table.into == CATALOGUE.name for table in context.company.tables)


def _frame(context: StageContext, events: UserRanges) -> DataFrame:
    """The version that sequences are made of: a stream may have written since."""
    table = context.spark().read.format("delta").option("versionAsOf", str(events.version))
    return table.load(str(events.path))


def _made_from(
    context: StageContext,
    events: UserRanges,
    vocabulary_id: str,
    last: MadeFrom | None,
    changes: Changes | None,
) -> MadeFrom:
    columns = context.company.contract("events").columns
    learned = judged = events.version
    whole = lake.version_of(context.workspace, TOKEN_SEQUENCES.name)
    if last is not None and changes is not None:
        whole = last.sequences_version
        learned = events.version if changes.num_before[BEFORE_CUT] else last.learned_version
        judged = events.version if changes.num_before[BEFORE_END] else last.judged_version
    return MadeFrom(
        events_id=table_stamp(context.workspace, EVENTS.name)[EVENTS.name]["id"],
        events_version=events.version,
        learned_version=learned,
        judged_version=judged,
        vocabulary_id=vocabulary_id,
        as_of=context.as_of.isoformat(),
        window_days=context.settings.window_days,
        columns=[[column.name, str(column.semantic)] for column in columns],
        sequences_version=whole,
    )
