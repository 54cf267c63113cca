"""Transfer: a core trained on one shop answers in another one, whose catalogue it never saw.

The core knows items by their texts alone. In the target shop it answers first without any training,
then with low-rank adapters (Hu et al., 2021) trained on a share of the users' histories while the
core stays frozen; beside it a model of the same shape, trained from scratch on the same histories
for the same steps. All users are judged by their last item, all items of the target are ranked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from behavior_model.benchmark.answers import Say, require_budget
from behavior_model.benchmark.baselines.task import LeaveOneOutTask
from behavior_model.benchmark.core import content_alone, load_core, save_core
from behavior_model.benchmark.interactions import Interactions, Longs, masks_history
from behavior_model.benchmark.judge import Judge, K, write_results
from behavior_model.benchmark.shop import Shop, ask, new_model, training_run
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
from behavior_model.evaluation.results import Result
from behavior_model.model.adapters import (
    AdapterConfig,
    add_adapters,
    merge_adapters,
    num_trainable,
    save_adapters,
)
from behavior_model.objectives.next_item import NextItemModel
from behavior_model.recipes import Recipe
from pipelines.errors import UserError

TASK: Final = "transfer"
SOURCE_SPLIT: Final = "source"
SCRATCH: Final = "from scratch"
BASELINES: Final = (SCRATCH, CONTENT, POPULARITY)
SHARES: Final = (0.0, 0.01, 0.1, 1.0)
SOURCE_BUDGET: Final = 0.4
"""Of what is left of the budget once the texts are read."""

STEPS_PER_EPOCH: Final = 16
SMALLEST_BATCH: Final = 256
"""Few histories are learned in smaller batches, so that an epoch still has a few steps."""

CORE_FILE: Final = "core.safetensors"
ADAPTERS: Final = AdapterConfig(rank=8, alpha=16.0)


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """What the command was asked.

    Args:
        source: Interactions of the shop that the core is trained on.
        source_items: Its texts.
        interactions: Interactions of the target shop.
        items: Its texts.
        out: Folder of everything that is written.
        shares: Shares of the target's users to learn from, one line of the table each.
        size: The dial.
        seed: Of all draws.
        budget_minutes: Wall time to aim at.
    """

    source: Path
    source_items: Path
    interactions: Path
    items: Path
    out: Path
    shares: tuple[float, ...] = SHARES
    size: str = "tiny"
    seed: int = 0
    budget_minutes: float = 30.0

    def __post_init__(self) -> None:
        wrong = [share for share in self.shares if not 0.0 <= share <= 1.0]
        if wrong or not self.shares:
            came = ", ".join(f"{share:g}" for share in wrong) or "nothing"
            raise UserError(f"--shares {came}: give shares between 0 and 1, such as 0,0.01,0.1,1.")
        require_budget(self.budget_minutes)

    @property
    def text_cache(self) -> Path:
        """Embeddings of both shops' texts."""
        return self.out / "text_cache"


def run(options: TransferOptions, say: Say) -> list[Result]:
    """Train the core, carry it over, adapt it share by share; write evaluation and page.

    Raises:
        UserError: a file that cannot be used, a shop without texts, or an unknown size.
    """
    started = time.monotonic()
    ends = started + options.budget_minutes * 60
    source = read_texted(options.source, options.source_items)
    target = read_texted(options.interactions, options.items)
    for name, shop in (("source", source), ("target", target)):
        say(
            f"{name}: {len(shop):,} users, {shop.num_items:,} items, {shop.num_events:,} "
            "interactions"
        )
    begun = time.monotonic()
    for full in (source, target):
        Shop.of(full, _recipe(options, full), options.text_cache)
    say(f"texts read in {time.monotonic() - begun:.0f} s")
    found = _train_core(options, source, SOURCE_BUDGET * (ends - time.monotonic()), say)
    shares = sorted(set(options.shares))
    for position, share in enumerate(shares):
        seconds = (ends - time.monotonic()) / (len(shares) - position)
        found += _judge_share(options, target, share, seconds, say)
    write_results(options.out, found, company=options.interactions.parent.name)
    return found


def shown_users(num_users: int, share: float, seed: int) -> Longs:
    """int64[n]: a share of all users, ascending; a smaller share is part of a larger one."""
    count = 0 if share == 0 else max(1, round(share * num_users))
    return np.sort(np.random.default_rng(seed).permutation(num_users)[:count])


def _recipe(options: TransferOptions, full: Interactions) -> Recipe:
    return content_alone(text_recipe(options.size, full, options.budget_minutes))


def _train_core(
    options: TransferOptions, source: Interactions, seconds: float, say: Say
) -> list[Result]:
    """Train on all but the last items of the source, write the core, judge it at home."""
    started = time.monotonic()
    recipe = _recipe(options, source)
    shop = Shop.of(source.without_last(), recipe, options.text_cache)
    recipe = within(shop, recipe, options.seed, seconds)
    core = _new_model(options, shop, recipe)
    learn(training_run(core, shop, recipe, options.seed), "core", say)
    save_core(options.out / CORE_FILE, core, shop)
    return _judge(options, source, shop, SOURCE_SPLIT, core, None, started)


def _judge_share(
    options: TransferOptions, target: Interactions, share: float, seconds: float, say: Say
) -> list[Result]:
    """The core in the target shop after a share of its users' histories."""
    started = time.monotonic()
    learned = target.without_last().select(shown_users(len(target), share, options.seed))
    recipe = _small_batches(_recipe(options, target), learned.num_events)
    shop = Shop.of(learned, recipe, options.text_cache)
    model = _new_model(options, shop, recipe)
    load_core(options.out / CORE_FILE, model, shop)
    scratch = None
    if learned.num_events:
        recipe = within(shop, recipe, options.seed, seconds / 2)
        scratch = _new_model(options, shop, recipe)
        add_adapters(model, ADAPTERS)
        for name, one in (("adapters", model), (SCRATCH, scratch)):
            what = f"{name}, {num_trainable(one):,} weights, {len(learned):,} users"
            learn(training_run(one, shop, recipe, options.seed), what, say)
        save_adapters(options.out / f"adapters-{share:g}.safetensors", model, ADAPTERS)
        merge_adapters(model)
    return _judge(options, target, shop, f"test/{share:g}", model, scratch, started)


def _new_model(options: TransferOptions, shop: Shop, recipe: Recipe) -> NextItemModel:
    """A query begins at what was taken, or a core would find nothing where it was not trained."""
    return new_model(shop, recipe, options.seed, resembles_history=True)


def _small_batches(recipe: Recipe, num_events: int) -> Recipe:
    largest = recipe.training.batch_tokens
    tokens = min(largest, max(SMALLEST_BATCH, num_events // STEPS_PER_EPOCH))
    return replace(recipe, training=replace(recipe.training, batch_tokens=tokens))


def _judge(
    options: TransferOptions,
    full: Interactions,
    shop: Shop,
    split: str,
    model: NextItemModel,
    scratch: NextItemModel | None,
    started: float,
) -> list[Result]:
    """All users of a shop by their last item, whoever of them was learned from."""
    history = full.without_last()
    task = LeaveOneOutTask(history=history, mask_history=masks_history(history))
    lists = rank(task, product_scores(ask(model, shop, history)), K)
    baselines = {CONTENT: rank(task, content_scores(task, shop), K)}
    if scratch is not None:
        baselines[SCRATCH] = rank(task, product_scores(ask(scratch, shop, history)), K)
    if shop.learned.num_events:
        baselines[POPULARITY] = rank(task, popularity_scores(shop.learned), K)
    judge = Judge(
        task=TASK,
        cut=LAST,
        truths=full.last(),
        num_items=full.num_items,
        num_events=shop.learned.num_events,
        seed=options.seed,
        started=started,
    )
    return judge.results(split, [lists], baselines)
