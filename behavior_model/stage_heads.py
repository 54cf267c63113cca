"""Room 6 as one call: all heads of the line, fitted and judged.

A new kind of head is a module with `fit_and_judge`, a line in `heads` and in `NEEDS`, and what
loads it and asks it: `Predictor.load` and `scoring.score`.

A head whose ingredients are those that it was made from is kept, so that a question added to a
company's own fits one head, and a run that was killed goes on at the head that it was killed in.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from behavior_model.context import ModelContext
from behavior_model.evaluation import propensity, ranking, search, tagging, user_tasks
from behavior_model.evaluation.contract import FitAndJudge
from behavior_model.evaluation.results import Result, read_evaluation, write_evaluation
from behavior_model.heads.propensity_fitting import can_be_learned as categories_differ
from behavior_model.memory.purchases import Level
from behavior_model.tasks import MIN_OUTCOMES, can_be_learned, get_user_task, user_task_names
from pipelines import lake
from pipelines.contracts import PURCHASE
from pipelines.errors import CompanyConfigError, TooLittleDataError, WorkspaceError
from pipelines.tokens.selection import sells
from pipelines.workspace import Workspace, write_json_atomically

Say = Callable[[str], None]

RESULTS_FOLDER: Final = "results"


_RANKINGS: Final[dict[str, FitAndJudge]] = {
    "recommendation": ranking.items,
    "category_recommendation": ranking.categories,
    propensity.TASK: propensity.fit_and_judge,
}
_WORDS: Final[dict[str, FitAndJudge]] = {
    "search": search.fit_and_judge,
    "tagging": tagging.fit_and_judge,
}


def heads() -> dict[str, FitAndJudge]:
    """All heads by name: those of the platform and one for each registered user task.

    Raises:
        CompanyConfigError: a user task has the name of another head.
    """
    tasks = {name: user_tasks.of(name) for name in user_task_names()}
    for name in tasks:
        if name in (*_RANKINGS, *_WORDS):
            raise CompanyConfigError(f"user task '{name}' has the name of a head; rename it.")
    return {**_RANKINGS, **tasks, **_WORDS}


@dataclass(frozen=True)
class Need:
    """What a head cannot do without.

    Args:
        what: In words.
        is_met: Whether a company has it.
    """

    what: str
    is_met: Callable[[ModelContext], bool]


_PURCHASES: Final = Need(
    f"'{PURCHASE}' events",
    lambda context: sells(context.vocabulary),
)
_CATALOGUE: Final = Need(
    "catalogue", lambda context: lake.read_catalogue(context.workspace).num_rows > 0
)
_ITEMS: Final = Need("items", lambda context: len(context.vocabulary.items) > 0)
_CATEGORIES: Final = Need("categories", lambda context: len(context.vocabulary.categories) > 0)
_WINDOW: Final = "in the window before the test cut"
_BOUGHT: Final = Need(f"purchases of items {_WINDOW}", lambda context: _is_any(Level.ITEM, context))
_BOUGHT_FROM: Final = Need(
    f"purchases from categories {_WINDOW}", lambda context: _is_any(Level.CATEGORY, context)
)
NEEDS: Final[dict[str, tuple[Need, ...]]] = {
    "recommendation": (_ITEMS, _BOUGHT),
    "category_recommendation": (_CATEGORIES, _BOUGHT_FROM),
    propensity.TASK: (Need("categories that some buy from and some do not", categories_differ),),
    "search": (_CATALOGUE, _BOUGHT),
    "tagging": (_CATALOGUE,),
}


def needs_of(name: str) -> tuple[Need, ...]:
    """What a company must have, or the head of that name is left out."""
    if name in user_task_names():
        task = get_user_task(name)
        answers = Need(
            f"users whose answers differ ({MIN_OUTCOMES} or more of each of two, somebody asked in "
            "the newest window)",
            partial(can_be_learned, task),
        )
        return (_PURCHASES, answers) if task.of_purchases else (answers,)
    return NEEDS[name]


def _is_any(level: Level, context: ModelContext) -> bool:
    """Whether anybody bought a target in the window that mixtures are fitted on."""
    futures = context.futures(context.validation_time)
    return any(len(truth) for truth in level.truths_of(futures))


def fit_all(context: ModelContext, *, seed: int, say: Say, made_from: str = "") -> None:
    """Fit, save and judge every head; each is replaced whole or not at all.

    Those whose need is not met, or that find too little to learn from, are left out; one of an
    earlier run is removed, and so is one of a task that is no longer asked.

    Args:
        context: The company's model at one test cut.
        seed: Seed of everything random.
        say: Takes one line per head.
        made_from: Identity of the context and the seed: heads made from the same are kept. Empty:
            all are fitted.
    """
    _remove_all_but(context.workspace, heads())
    for name, fit_and_judge in heads().items():
        ingredients = f"{made_from} {_source(name)}" if made_from else ""
        if ingredients and _held_ingredients(context.workspace, name) == ingredients:
            say(f"  {name}: nothing to do")
            continue
        lacking = next((one for one in needs_of(name) if not one.is_met(context)), None)
        if lacking is not None:
            _leave_out(context.workspace, name)
            say(f"  {name}: left out, the company has no {lacking.what}")
            continue
        begun = time.perf_counter()
        try:
            results = _fit(context, name, fit_and_judge, seed)
        except TooLittleDataError as error:
            _leave_out(context.workspace, name)
            say(f"  {name}: left out, {error}")
            continue
        figures = ", ".join(f"{r.metric} {r.model:.4f}" for r in results)
        _write_ingredients(context.workspace, name, ingredients)
        say(f"  {name}: {figures} ({time.perf_counter() - begun:.0f} s)")
        if results and results[0].is_vague:
            first, (low, high) = results[0], results[0].interval
            say(
                f"  warning: {name}: too few could be judged ({first.num_users:,} users): "
                f"{first.metric} may be anything from {low:.2f} to {high:.2f}. Believe it when "
                "more users or longer histories are there."
            )


def read_results(workspace: Workspace) -> list[Result]:
    """What `fit_all` found, in the order of `heads`.

    Raises:
        WorkspaceError: a head was not fitted yet.
    """
    results: list[Result] = []
    for name in heads():
        path = _results_path(workspace, name)
        if not path.is_file():
            raise WorkspaceError(
                f"{workspace.root}: head '{name}' was not fitted yet. Run: bfm heads"
            )
        results.extend(read_evaluation(path))
    return results


def _fit(context: ModelContext, name: str, fit_and_judge: FitAndJudge, seed: int) -> list[Result]:
    workspace = context.workspace
    fresh = workspace.heads / f".{name}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    results = fit_and_judge(context, fresh, seed=seed)
    _ingredients_path(workspace, name).unlink(missing_ok=True)
    write_evaluation(_results_path(workspace, name), results)
    final = workspace.heads / name
    shutil.rmtree(final, ignore_errors=True)
    fresh.rename(final)
    return results


def _leave_out(workspace: Workspace, name: str) -> None:
    shutil.rmtree(workspace.heads / name, ignore_errors=True)
    write_evaluation(_results_path(workspace, name), [])


def _source(name: str) -> str:
    """What a head is made from beside the company's model: the file of a company's own task."""
    return get_user_task(name).source if name in user_task_names() else ""


def _held_ingredients(workspace: Workspace, name: str) -> str | None:
    """What a head that is there was made from."""
    path, results = _ingredients_path(workspace, name), _results_path(workspace, name)
    if not (path.is_file() and results.is_file() and (workspace.heads / name).is_dir()):
        return None
    held: str = json.loads(path.read_text(encoding="utf-8"))["made_from"]
    return held


def _write_ingredients(workspace: Workspace, name: str, ingredients: str) -> None:
    write_json_atomically(_ingredients_path(workspace, name), {"made_from": ingredients})


def _remove_all_but(workspace: Workspace, wanted: Collection[str]) -> None:
    for folder in workspace.heads.glob("[a-z]*"):
        if folder.name not in wanted:
            shutil.rmtree(folder)


def _ingredients_path(workspace: Workspace, name: str) -> Path:
    return workspace.state / "heads" / f"{name}.json"


def _results_path(workspace: Workspace, name: str) -> Path:
    return workspace.reports / RESULTS_FOLDER / f"{name}.json"
