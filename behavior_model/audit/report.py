"""`bfm audit`: one workspace's model, asked what it gives away and whom it serves worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from behavior_model.audit.groups import (
    MIN_OF_AN_OUTCOME,
    Figure,
    GroupFigure,
    binary_figures,
    compare,
    judged,
    mean_figure,
)
from behavior_model.audit.profiles import (
    BOOSTED,
    BOTH,
    EMBEDDING,
    FEATURES,
    MIN_USERS,
    SHUFFLED,
    Guess,
    guess,
)
from behavior_model.context import ModelContext
from behavior_model.evaluation.study_page import StudyTable, write_study_page
from behavior_model.metrics import ndcg_at_k
from behavior_model.predictor import RECOMMENDATION, Predictor
from behavior_model.tasks import TaskKind, get_user_task, make_labels, past_at
from behavior_model.user_features import feature_matrix, user_features
from pipelines import lake
from pipelines.clock import from_micros
from pipelines.contracts import PROFILES, USER_ID
from pipelines.errors import WorkspaceError
from pipelines.workspace import write_json_atomically

Doubles = npt.NDArray[np.float64]
Say = Callable[[str], None]

FIGURES_FILE: Final = "audit.json"
PAGE_FILE: Final = "audit.html"
K: Final = 10
MAX_VALUES: Final = 50
"""Different values of a field above which it is no group of people."""
_INPUTS: Final = (EMBEDDING, FEATURES, BOOSTED, BOTH, SHUFFLED)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found at the test cut.

    Args:
        cut: Prediction time, ISO 8601.
        num_users: Users with any history before the cut.
        num_profiles: Those of them with a profile.
        guesses: How well each profile field can be guessed from the frozen embedding.
        groups: Figures of each group beside those of the others.
    """

    cut: str
    num_users: int
    num_profiles: int
    guesses: Sequence[Guess]
    groups: Sequence[GroupFigure]


def audit(context: ModelContext, fields: Sequence[str], *, seed: int, say: Say) -> Audit:
    """Audit the sealed model at the test cut, write `reports/audit.json` and its page.

    Args:
        context: The company's model at its test cut.
        fields: Profile fields to look at.
        seed: Seed of folds and resamples.
        say: Takes one line per step.

    Raises:
        WorkspaceError: no profile says anything of a user with a history.
    """
    users = context.histories(context.test_time).user_ids
    profiles = _profiles(context, fields, users)
    rows_of_fields = zip(*profiles.values(), strict=True)
    num_profiles = sum(any(value is not None for value in row) for row in rows_of_fields)
    if num_profiles == 0:
        raise WorkspaceError(
            f"{context.workspace.root}: no profile has a field of text for a user with a history, "
            "so there are no groups to compare. Give a table 'into: profiles' in company.yaml."
        )
    with threadpool_limits(1, "blas"):
        guesses = _guesses(context, profiles, seed, say)
        say("judging the served answers by group")
        figures = _figures(context)
        rows = [
            row
            for field, values in profiles.items()
            for row in compare(field, values, figures, seed=seed)
        ]
    found = Audit(
        cut=from_micros(context.test_time).isoformat(),
        num_users=len(users),
        num_profiles=num_profiles,
        guesses=guesses,
        groups=judged(rows),
    )
    _write(context, found)
    return found


def guess_table(found: Audit) -> StudyTable:
    """AUC per profile field and input."""
    return StudyTable(
        title=f"What can be guessed of {found.num_profiles:,} profiles: macro AUC, .5 is chance",
        header=["field", "users", "values", *_INPUTS],
        rows=[
            [
                one.field,
                f"{one.num_users:,}",
                str(len(one.values)),
                *(f"{one.aucs[name]:.3f} ±{one.deviations[name]:.3f}" for name in _INPUTS),
            ]
            for one in found.guesses
        ],
    )


def group_table(found: Audit, *, every: bool = False) -> StudyTable:
    """Groups whose figures differ from the others', or every group."""
    rows = [row for row in found.groups if every or row.differs]
    kept = sorted(rows, key=lambda row: row.p_value)
    standing = sum(row.differs for row in found.groups)
    return StudyTable(
        title=f"{standing} of {len(found.groups)} differences between groups stand",
        header=["field", "value", "users", "task", "figure", "group", "others", "95 %", "stands"],
        rows=[
            [
                row.field,
                row.value,
                f"{row.num_users:,}",
                row.task,
                row.metric,
                f"{row.group:.3f}",
                f"{row.others:.3f}",
                f"{row.interval[0]:+.3f} to {row.interval[1]:+.3f}",
                "yes" if row.differs else "no",
            ]
            for row in kept
        ],
    )


def _profiles(
    context: ModelContext, fields: Sequence[str], users: Sequence[str]
) -> dict[str, list[str | None]]:
    """Values per field, aligned to the users; fields with too many values are left out."""
    if not fields or lake.version_of(context.workspace, PROFILES.name) < 0:
        return {}
    table = lake.read(context.workspace, PROFILES.name, [USER_ID, *fields])
    place = {user: row for row, user in enumerate(table.column(USER_ID).to_pylist())}
    found = {}
    for field in fields:
        column = table.column(field).to_pylist()
        if 2 <= len(set(column) - {None}) <= MAX_VALUES:
            found[field] = [column[place[u]] if u in place else None for u in users]
    return found


def _guesses(
    context: ModelContext, profiles: dict[str, list[str | None]], seed: int, say: Say
) -> list[Guess]:
    time = context.test_time
    histories = context.histories(time)
    times = np.full(len(histories), time, dtype=np.int64)
    features = feature_matrix(user_features(context.vocabulary, histories, times))
    embedding = context.states(time).embedding.astype(np.float64)
    found = []
    for field, values in profiles.items():
        say(f"guessing '{field}' from the frozen embedding")
        one = guess(field, values, embedding, features, seed=seed)
        if one is not None:
            found.append(one)
    return found


def _figures(context: ModelContext) -> list[Figure]:
    """Of every served answer that is a probability or a ranking of items."""
    time = context.test_time
    histories, states = context.histories(time), context.states(time)
    predictor = Predictor.load(context.workspace.bundle)
    figures = []
    for name, head in predictor.user_tasks.items():
        task = get_user_task(name)
        if task.kind is TaskKind.BINARY:
            labels = make_labels(task, past_at(context, time), context.test_futures)
            figures += binary_figures(name, labels, head.predict(histories, states, time).scores)
    if "item" in predictor.rankers:
        lists = predictor.rankers["item"].rank(histories, states, time, K).padded(K)
        per_user = ndcg_at_k(lists, context.test_futures.items, K)
        figures.append(mean_figure(RECOMMENDATION, f"ndcg@{K}", per_user))
    return figures


def _write(context: ModelContext, found: Audit) -> None:
    reports = context.workspace.reports
    write_json_atomically(reports / FIGURES_FILE, {"schema_version": 1, **asdict(found)})
    write_study_page(
        reports / PAGE_FILE,
        f"Audit at {found.cut}",
        [guess_table(found), group_table(found, every=True)],
        notes=[
            "Pretraining read events alone. A profile field that can be guessed from the frozen "
            "embedding better than chance is something that every head could act on, unseen. "
            f"Values of fewer than {MIN_USERS} users are left out; five folds over users, ± is the "
            "standard deviation over three repeats; shuffled values show what chance gives.",
            "A group is compared with all other users whose value is known. Intervals are of the "
            "difference, 95 per cent; a difference stands when it survives Benjamini and "
            "Hochberg's control of false discoveries (5 per cent) over all rows. A calibration gap "
            "is the mean predicted minus the observed rate; an AUC needs "
            f"{MIN_OF_AN_OUTCOME} users of either outcome in the group and among the others.",
        ],
    )
