"""The answer key: what a perfect predictor would say of the last `WINDOW_DAYS` of the simulation.

It knows every parameter of a user, the time of leaving and the needs so far, and none of the draws
in the window. No model can be better in the mean; one that is has seen the future. With mu = 4 / g
the rate of the four exponential phases of an Erlang gap of mean g, a the days since the last need
and w the window's days before the user leaves, the phases done since that need are j < 4 with
probability proportional to (mu a)^j / j!, and n ~ Poisson(mu w) more follow. With p the probability
that a need ends in a purchase,

    P(staple not bought) = E[(1 - p) ^ floor((j + n) / 4)]

Visits without a need come at the user's rate times the kept days of the window. One of category c
ends without a purchase with probability (1 - q) exp(-(views - 1) q), q being the probability that a
view does. A chance of an item is given for the user's favourites alone: another product is bought
by popularity, far less often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipelines.simulation.arrays import Floats, Ints
from pipelines.simulation.customers import ARCHETYPES, ERLANG_SHAPE, Staples, Users, of_archetype
from pipelines.simulation.shop import NUM_CATEGORIES
from pipelines.simulation.visits import FAVOURITE_SHARE, buy_odds, favourite_cart
from pipelines.simulation.world import World

NUM_ANSWERS: Final = 10


@dataclass(frozen=True, kw_only=True)
class AnswerKey:
    """One row for each user who is there at the cut, bots included.

    Args:
        user: Position in the block's users.
        purchase: Chance of any purchase in the window.
        category: Chance of a purchase in each category, [rows, categories].
        item: The likeliest favourites, best first, [rows, NUM_ANSWERS].
        item_chance: Their chances, in the same shape.
    """

    user: Ints
    purchase: Floats
    category: Floats
    item: Ints
    item_chance: Floats


def answer(world: World, users: Users, staples: Staples, rates: Floats) -> AnswerKey:
    """The answer key of a block.

    Args:
        world: The shop.
        users: The block's users.
        staples: What they restock.
        rates: Their visits without a need, per kept day.
    """
    cut = float(world.plan.cut_day)
    ends = users.ends(world.plan.num_days)
    here = np.flatnonzero((users.starts <= cut) & (ends > cut))
    days = np.maximum(ends - cut, 0.0)
    kept = np.where(ends > cut, users.kept_days(np.full(len(users), cut), np.maximum(ends, cut)), 0)
    missed = _needs_not_bought(world, users, staples, days, kept)
    favourite, any_item = _visits_with_purchase(world, users, kept * rates)
    no_favourite = (missed * np.exp(-favourite))[here]
    no_category = (missed * np.exp(-any_item))[here]
    best = np.argsort(no_favourite, axis=1, kind="stable")[:, :NUM_ANSWERS]
    return AnswerKey(
        user=here,
        purchase=1 - no_category.prod(axis=1),
        category=1 - no_category,
        item=np.take_along_axis(users.favourite[here], best, axis=1),
        item_chance=1 - np.take_along_axis(no_favourite, best, axis=1),
    )


def _bought(world: World, users: Users, *, is_need: bool) -> Floats:
    """Probability that a cart is bought in the window, [users, categories]."""
    in_promotion = (world.shop.cuts[:, :, world.plan.cut_day :] > 0).mean(axis=2)
    archetype = np.arange(len(ARCHETYPES))
    need = np.full(len(archetype), is_need)
    usual = buy_odds(archetype, need, ~np.ones_like(need))
    raised = buy_odds(archetype, need, np.ones_like(need))
    usual, raised = usual / (1 + usual), raised / (1 + raised)
    share = in_promotion[users.market]
    return np.asarray(
        share * raised[users.archetype, None] + (1 - share) * usual[users.archetype, None]
    )


def _needs_not_bought(
    world: World, users: Users, staples: Staples, days: Floats, kept: Floats
) -> Floats:
    """Probability that no need of a category is bought, [users, categories]; 1 without a staple."""
    missed = np.ones((len(users), NUM_CATEGORIES))
    user, cut = staples.user, world.plan.cut_day
    last = np.where(staples.needs <= cut, staples.needs, -np.inf).max(axis=1)
    age = np.where(np.isfinite(last), cut - last, 0.0)
    bought = _bought(world, users, is_need=True)[user, staples.category]
    keep = np.divide(kept, days, out=np.zeros(len(users)), where=days > 0)[user]
    missed[user, staples.category] = no_bought_need(
        age=age, days=days[user], mean_gap=staples.mean_gap, chance=keep * bought
    )
    return missed


def no_bought_need(*, age: Floats, days: Floats, mean_gap: Floats, chance: Floats) -> Floats:
    """P(staple not bought), see the module.

    Args:
        age: Days since the last need.
        days: Days of the window.
        mean_gap: Mean days between needs.
        chance: Probability that a need ends in a purchase.
    """
    if not len(age):
        return np.ones(0)
    rate = ERLANG_SHAPE / mean_gap
    done = _poisson(rate * age, ERLANG_SHAPE)
    done /= done.sum(axis=1, keepdims=True)
    many = int((rate * days).max() * 2) + 30
    more = _poisson(rate * days, many)
    missed = np.zeros(len(age))
    for j in range(ERLANG_SHAPE):
        needs = (j + np.arange(many)) // ERLANG_SHAPE
        missed += done[:, j] * (more * (1 - chance[:, None]) ** needs).sum(axis=1)
    return missed


def _poisson(mean: Floats, many: int) -> Floats:
    """Poisson probabilities of 0 to `many` - 1, [rows, many]."""
    num = np.arange(many)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(num[1:]))])
    log_mean = np.log(np.maximum(mean, 1e-12))[:, None]
    return np.asarray(np.exp(num * log_mean - mean[:, None] - log_factorial))


def _visits_with_purchase(world: World, users: Users, num_visits: Floats) -> tuple[Floats, Floats]:
    """Expected visits of the window that buy the favourite, and anything, by category."""
    season = world.shop.seasons[world.plan.cut_day :].mean(axis=0)
    share = users.taste * season
    share /= share.sum(axis=1, keepdims=True)
    wave = world.shop.wave_of(np.full(len(users), world.plan.num_days - 1))
    popular = world.assortment.share(users.favourite, users.market, wave)
    seen = FAVOURITE_SHARE + (1 - FAVOURITE_SHARE) * popular
    cart = of_archetype("cart")
    bought = _bought(world, users, is_need=False)
    favourite = seen * favourite_cart(cart)[users.archetype, None] * bought
    other = (1 - seen) * cart[users.archetype, None] * bought
    more_views = (of_archetype("num_views") - 1)[users.archetype, None]

    def visits(per_view: Floats) -> Floats:
        nothing = (1 - per_view) * np.exp(-more_views * per_view)
        return np.asarray(num_visits[:, None] * share * (1 - nothing))

    return visits(favourite), visits(favourite + other)
