"""Items that nobody took yet: a share is held out of training, and ranked among all the others.

Every interaction with a held-out item is taken out of what is learned from, and a held-out item
never serves as a negative either; only its text is known. The model is trained with identity
dropout (DropoutNet, Volkovs et al., 2017), so that content alone places an item. Then the last item
of each user is to be found among all items, after the whole history, held-out items included, and
after its last few events alone. Legend: U users, B users of a chunk, N items, T text width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from behavior_model.benchmark.answers import Say, require_budget
from behavior_model.benchmark.baselines.ranking import Scorer
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask
from behavior_model.benchmark.cold_placement import placed_by_neighbours, with_even_exposure
from behavior_model.benchmark.interactions import Bools, Interactions, Longs, masks_history
from behavior_model.benchmark.judge import RECALL, Judge, K, write_results
from behavior_model.benchmark.shop import Outputs, Shop, ask, new_model, queries_of, training_run
from behavior_model.benchmark.split import LAST
from behavior_model.benchmark.texted import (
    CONTENT,
    POPULARITY,
    content_scores,
    learn,
    popularity_scores,
    product_scores,
    rank,
    read_texted,
    text_recipe,
    within,
)
from behavior_model.evaluation.comparison import Statistic, compare
from behavior_model.evaluation.results import Result
from behavior_model.objectives.next_item import NextItemModel
from behavior_model.recipes import Recipe
from pipelines.errors import UserError

TASK: Final = "cold-items"
RATIO: Final = f"{RECALL} cold / warm"
RANDOM: Final = "random"
BASELINES: Final = (CONTENT, POPULARITY, RANDOM)
MODEL: Final = "model"
AS_TRAINED: Final = "as trained"
BY_NEIGHBOURS: Final = "placed by neighbours"
EVENTS_LEFT: Final = (1, 2, 5)
IDENTITY_DROPOUT: Final = 0.5
TRAINING_SHARE: Final = 0.8
"""Of what is left of the budget once the texts are read."""


@dataclass(frozen=True, kw_only=True)
class ColdItemsOptions:
    """What the command was asked.

    Args:
        interactions: Parquet of interactions.
        items: Parquet of texts.
        out: Folder of everything that is written.
        held_out: Share of items that training never sees.
        size: The dial.
        seed: Of all draws.
        budget_minutes: Wall time to aim at.
    """

    interactions: Path
    items: Path
    out: Path
    held_out: float = 0.1
    size: str = "tiny"
    seed: int = 0
    budget_minutes: float = 30.0

    def __post_init__(self) -> None:
        if not 0.0 < self.held_out < 1.0:
            raise UserError(f"--held-out {self.held_out:g}: give a share between 0 and 1.")
        require_budget(self.budget_minutes)


def run(options: ColdItemsOptions, say: Say) -> list[Result]:
    """Hold items out, train, rank, judge; write evaluation and page.

    Raises:
        UserError: a file that cannot be used, no texts, an unknown size, or nothing cold or warm
            to be found.
    """
    started = time.monotonic()
    full = read_texted(options.interactions, options.items)
    say(f"{len(full):,} users, {full.num_items:,} items, {full.num_events:,} interactions")
    history = full.without_last()
    held_out = drawn_items(full.num_items, options.held_out, options.seed)
    learned = without_items(history, held_out)
    seen = learned.counts > 0
    is_cold = ~seen[full.last()]
    _require_both(is_cold, len(full))
    say(
        f"{held_out.sum():,} items held out, with them {history.num_events - learned.num_events:,} "
        f"interactions; {is_cold.sum():,} users are to find an item that training never saw"
    )
    model, shop = _trained(options, learned, started, say)
    judge = Judge(
        task=TASK,
        cut=LAST,
        truths=full.last(),
        num_items=full.num_items,
        num_events=learned.num_events,
        seed=options.seed,
        started=started,
    )
    task = LeaveOneOutTask(history=history, mask_history=masks_history(history))
    variants = _variants(task, ask(model, shop, history), seen, options.seed)
    found = _cold_and_warm(judge, task, shop, variants, is_cold)
    for num in EVENTS_LEFT:
        is_judged = history.lengths >= num
        if not is_judged.any():
            say(f"nobody has a history of {num}")
            continue
        short = replace(task, history=last_events(history, num))
        queries = queries_of(model, shop, short.history)
        asked = replace(variants[MODEL], queries=queries)
        found += judge.results(
            f"test/history of {num}",
            [rank(short, product_scores(asked), K)],
            _baselines(short, shop, options.seed),
            users=is_judged,
        )
    write_results(options.out, found, company=options.interactions.parent.name)
    return found


def drawn_items(num_items: int, share: float, seed: int) -> Bools:
    """bool[N]: a share of all items, drawn evenly."""
    held_out = np.zeros(num_items, dtype=np.bool_)
    drawn = np.random.default_rng(seed).permutation(num_items)[: round(share * num_items)]
    held_out[drawn] = True
    return held_out


def without_items(history: Interactions, held_out: Bools) -> Interactions:
    """The same users and catalogue without any interaction with the given items."""
    return history.where(~held_out[history.items])


def last_events(history: Interactions, num: int) -> Interactions:
    """The same users with their last `num` interactions alone."""
    return history.where(history.places_from_end < num)


def content_first(recipe: Recipe) -> Recipe:
    """The recipe under which content alone places an item well.

    An identity is left out half of the time, and items without any event have none.
    """
    model = replace(recipe.model, identity_dropout=IDENTITY_DROPOUT, min_identity_count=1)
    return replace(recipe, model=model)


def random_scores(num_items: int, seed: int) -> Scorer:
    """Every order of the items is as likely as any other."""

    def score(users: slice) -> Floats:
        rng = np.random.default_rng((seed, users.start))
        return rng.random((users.stop - users.start, num_items), dtype=np.float32)

    return score


def _require_both(is_cold: Bools, num_users: int) -> None:
    num_cold = int(is_cold.sum())
    if num_cold in (0, num_users):
        raise UserError(
            f"{num_cold} of {num_users} users have a test item that training never saw, so cold "
            "and warm items cannot be compared. Choose another --held-out or --seed."
        )


def _trained(
    options: ColdItemsOptions, learned: Interactions, started: float, say: Say
) -> tuple[NextItemModel, Shop]:
    recipe = content_first(text_recipe(options.size, learned, options.budget_minutes))
    shop = Shop.of(learned, recipe, options.out / "text_cache")
    seconds = TRAINING_SHARE * (options.budget_minutes * 60 - (time.monotonic() - started))
    recipe = within(shop, recipe, options.seed, seconds)
    model = new_model(shop, recipe, options.seed, sold_negatives=True)
    learn(training_run(model, shop, recipe, options.seed), "training", say)
    return model, shop


def _variants(
    task: LeaveOneOutTask, trained: Outputs, seen: Bools, seed: int
) -> dict[str, Outputs]:
    """The model, and what it would be without even exposure, and without neighbours too."""
    placed = replace(trained, items=placed_by_neighbours(trained.items, seen))
    return {
        AS_TRAINED: trained,
        BY_NEIGHBOURS: placed,
        MODEL: with_even_exposure(task, placed, seen, K, seed),
    }


def _cold_and_warm(
    judge: Judge,
    task: LeaveOneOutTask,
    shop: Shop,
    variants: Mapping[str, Outputs],
    is_cold: Bools,
) -> list[Result]:
    """Everybody, users whose test item is cold, the others, and how the two compare."""
    lists = {name: rank(task, product_scores(one), K) for name, one in variants.items()}
    model = lists.pop(MODEL)
    parts = {name: [one] for name, one in lists.items()}
    baselines = _baselines(task, shop, judge.seed)
    found = []
    for name, users in (("all", None), ("cold", is_cold), ("warm", ~is_cold)):
        found += judge.results(f"test/{name}", [model], baselines, parts=parts, users=users)
    return [*found, _ratio(judge, model, baselines, is_cold)]


def _baselines(task: LeaveOneOutTask, shop: Shop, seed: int) -> dict[str, Longs]:
    scorers: dict[str, Scorer] = {
        CONTENT: content_scores(task, shop),
        POPULARITY: popularity_scores(shop.learned),
        RANDOM: random_scores(task.history.num_items, seed),
    }
    return {name: rank(task, score, K) for name, score in scorers.items()}


def _ratio(judge: Judge, lists: Longs, baselines: Mapping[str, Longs], is_cold: Bools) -> Result:
    """Recall of cold items by that of warm ones; the interval is over users drawn again."""

    def ratio_of(lists: Longs) -> Statistic:
        recalls = judge.per_user(RECALL, lists)

        def ratio(drawn: Longs) -> float:
            hits, cold = recalls[drawn], is_cold[drawn]
            if not hits[~cold].any() or not cold.any():
                return math.nan
            return float(hits[cold].mean() / hits[~cold].mean())

        return ratio

    beside = {name: ratio_of(one) for name, one in baselines.items()}
    return judge.result(
        RATIO,
        "test/cold to warm",
        compare(RATIO, ratio_of(lists), beside, len(is_cold)),
        num_users=len(is_cold),
        parts={},
        spread={},
    )
