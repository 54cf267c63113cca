"""Visits of customers, and what they view, fill into the cart, buy and send back.

A visit is a need for a staple, or one without a need. Visits without a need come at times uniform
between a user's start and end, in numbers multinomial over the block with weights lambda_u times
kept days: a Poisson process given its total, which makes the number of all events come out near
the one asked for. Either kind takes place with probability keep_u(t) (`customers`).

    category      that of the need, else proportional to theta_uc s_c(t)
    views         1 for a need, else 1 + Poisson(views_a - 1), at most 60
    item          the favourite of the category for a need and in 40 per cent of other views,
                  else by popularity among what is out
    query         with probability of the archetype, typed first, about the first item viewed
    cart          1 for a need, else cart_a, with doubled odds for the favourite
    purchase      odds 9 for a need, else odds_a; times factor_a in a promotion
    pieces        1 + Poisson(0.3)
    return        share of the category, 3 to 21 days later, while the user is still there

Everything of a visit ends before the user leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipelines.simulation.arrays import DAY_US, Bools, Floats, Ints
from pipelines.simulation.customers import Staples, Users, of_archetype
from pipelines.simulation.plan import START_US
from pipelines.simulation.shop import NUM_CATEGORIES
from pipelines.simulation.words import CATEGORIES
from pipelines.simulation.world import World

FAVOURITE_SHARE: Final = 0.4
FAVOURITE_CART_FACTOR: Final = 2.0
NEED_BUY_ODDS: Final = 9.0
MAX_VIEWS: Final = 60
EXTRA_PIECES: Final = 0.3
RETURN_DAYS: Final = (3.0, 21.0)
_SECOND_US: Final = 1_000_000
_VIEW_EVERY_US: Final = 45 * _SECOND_US
_LONGEST_VISIT_US: Final = 3_600 * _SECOND_US
_HOURS: Final = np.array(
    [2, 1, 1, 1, 1, 2, 4, 7, 8, 8, 9, 9, 10, 9, 8, 8, 9, 11, 13, 15, 16, 13, 8, 4], dtype=np.float64
)


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Visits of one block, sorted by user and time.

    Args:
        user: Position in the block's users.
        at_us: Start.
        category: What it is about.
        is_need: Whether a staple is to be restocked.
        num_views: Products viewed.
        is_search: Whether it opens with a typed query.
        in_app: Whether it takes place in the app.
    """

    user: Ints
    at_us: Ints
    category: Ints
    is_need: Bools
    num_views: Ints
    is_search: Bools
    in_app: Bools

    def __len__(self) -> int:
        return len(self.user)

    @property
    def day(self) -> Ints:
        return (self.at_us - START_US) // DAY_US


@dataclass(frozen=True, kw_only=True)
class Views:
    """Viewed products, in the order of their visits.

    Args:
        visit: Position in the visits.
        item: What is viewed.
        at_us: When.
        cart_us: When it went into the cart, if it did.
        checkout_us: When it was bought, if it was.
        in_cart: Whether it went into the cart.
        is_bought: Whether it was bought.
        cut: Share taken off the price by a promotion.
        pieces: How many were bought.
        return_us: When they came back, or 0.
    """

    visit: Ints
    item: Ints
    at_us: Ints
    cart_us: Ints
    checkout_us: Ints
    in_cart: Bools
    is_bought: Bools
    cut: Floats
    pieces: Ints
    return_us: Ints

    def __len__(self) -> int:
        return len(self.visit)


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """Visits before their hour and their course are drawn."""

    user: Ints
    day: Ints
    category: Ints


def draw_visits(
    world: World, users: Users, staples: Staples, rng: np.random.Generator
) -> tuple[Visits, Floats]:
    """The visits of a block, and each user's rate of visits without a need per kept day."""
    needs = _for_needs(world, users, staples, rng)
    others, rates = _without_need(world, users, needs.user, rng)
    user = np.concatenate([needs.user, others.user])
    day = np.concatenate([needs.day, others.day])
    category = np.concatenate([needs.category, others.category])
    is_need = np.arange(len(user)) < len(needs.user)
    at_us = START_US + day * DAY_US + _time_of_day_us(users.is_bot[user], rng)
    ends_us = START_US + (users.ends(world.plan.num_days) * DAY_US).astype(np.int64)
    kept = np.flatnonzero(at_us + _LONGEST_VISIT_US <= ends_us[user])
    order = kept[np.lexsort((at_us[kept], user[kept]))]
    user, category, is_need = user[order], category[order], is_need[order]
    archetype = users.archetype[user]
    num_views = np.minimum(1 + rng.poisson(of_archetype("num_views")[archetype] - 1), MAX_VIEWS)
    return Visits(
        user=user,
        at_us=at_us[order],
        category=category,
        is_need=is_need,
        num_views=np.where(is_need, 1, num_views),
        is_search=rng.random(len(user)) < of_archetype("search_share")[archetype],
        in_app=rng.random(len(user)) < users.app_share[user],
    ), rates


def _for_needs(world: World, users: Users, staples: Staples, rng: np.random.Generator) -> _Draft:
    starts, ends = users.starts[staples.user], users.ends(world.plan.num_days)[staples.user]
    inside = (staples.needs >= starts[:, None]) & (staples.needs < ends[:, None])
    row, _ = np.nonzero(inside)
    days, user = staples.needs[inside], staples.user[row]
    kept = rng.random(len(user)) < users.keep(user, days)
    return _Draft(
        user=user[kept],
        day=days[kept].astype(np.int64),
        category=staples.category[row[kept]],
    )


def _without_need(
    world: World, users: Users, need_user: Ints, rng: np.random.Generator
) -> tuple[_Draft, Floats]:
    plan = world.plan
    ends = users.ends(plan.num_days)
    present = users.visit_rate * (ends - users.starts)
    kept = users.visit_rate * users.kept_days(users.starts, ends)
    wanted = plan.num_events * len(users) / plan.num_users
    wanted -= _events_of_needs(users.archetype[need_user])
    scale = max(wanted, 0.0) / float(kept @ _events_of_a_visit()[users.archetype])
    nums = rng.multinomial(round(scale * present.sum()), present / present.sum())
    user = np.repeat(np.arange(len(users)), nums)
    days = users.starts[user] + rng.random(len(user)) * (ends - users.starts)[user]
    takes_place = rng.random(len(user)) < users.keep(user, days)
    user, day = user[takes_place], days[takes_place].astype(np.int64)
    category = _by_taste(users.taste[user] * world.shop.seasons[day], rng)
    return _Draft(user=user, day=day, category=category), scale * users.visit_rate


def _events_of_a_visit() -> Floats:
    """Mean events of a visit without a need, by archetype, promotions aside."""
    odds, cart = of_archetype("buy_odds"), of_archetype("cart")
    cart = FAVOURITE_SHARE * favourite_cart(cart) + (1 - FAVOURITE_SHARE) * cart
    per_view = 1 + cart * (1 + odds / (1 + odds))
    return np.asarray(of_archetype("search_share") + of_archetype("num_views") * per_view)


def _events_of_needs(archetype: Ints) -> float:
    bought = NEED_BUY_ODDS / (1 + NEED_BUY_ODDS)
    return float((of_archetype("search_share")[archetype] + 2 + bought).sum())


def favourite_cart(cart: Floats) -> Floats:
    """Probability that a viewed favourite goes into the cart, given that of other products."""
    odds = FAVOURITE_CART_FACTOR * cart / (1 - cart)
    return odds / (1 + odds)


def _by_taste(weights: Floats, rng: np.random.Generator) -> Ints:
    """One category for each row, in proportion to its weights."""
    rising = np.cumsum(weights, axis=1)
    drawn = rng.random(len(rising)) * rising[:, -1]
    return np.asarray(np.minimum((rising <= drawn[:, None]).sum(axis=1), NUM_CATEGORIES - 1))


def _time_of_day_us(is_bot: Bools, rng: np.random.Generator) -> Ints:
    """People come mostly in the evening, bots at any hour."""
    shares = np.cumsum(_HOURS) / _HOURS.sum()
    hour = np.searchsorted(shares, rng.random(len(is_bot)), side="right")
    hour = np.where(is_bot, rng.integers(24, size=len(is_bot)), hour)
    return hour * 3_600 * _SECOND_US + rng.integers(3_600 * _SECOND_US, size=len(is_bot))


def draw_views(world: World, users: Users, visits: Visits, rng: np.random.Generator) -> Views:
    """What is viewed in the visits of a block, and what becomes of it."""
    visit = np.repeat(np.arange(len(visits)), visits.num_views)
    place = np.arange(len(visit)) - (np.cumsum(visits.num_views) - visits.num_views)[visit]
    user, category = visits.user[visit], visits.category[visit]
    favourite = users.favourite[user, category]
    item = _viewed(world, users, visits, visit, favourite, rng)
    in_cart = rng.random(len(visit)) < _cart(users, visits, visit, item == favourite)
    cut = world.shop.cuts[users.market[user], category, visits.day[visit]]
    odds = buy_odds(users.archetype[user], visits.is_need[visit], cut > 0)
    is_bought = in_cart & (rng.random(len(visit)) < odds / (1 + odds))
    at_us = visits.at_us[visit] + 5 * _SECOND_US + place * _VIEW_EVERY_US
    at_us += rng.integers(15 * _SECOND_US, size=len(visit))
    checkout_us = (visits.at_us + (visits.num_views + 2) * _VIEW_EVERY_US)[visit]
    return Views(
        visit=visit,
        item=item,
        at_us=at_us,
        cart_us=at_us + rng.integers(3 * _SECOND_US, 20 * _SECOND_US, size=len(visit)),
        checkout_us=checkout_us,
        in_cart=in_cart,
        is_bought=is_bought,
        cut=cut,
        pieces=1 + rng.poisson(EXTRA_PIECES, len(visit)),
        return_us=_returns(world, users, user, category, checkout_us, is_bought, rng),
    )


def _viewed(
    world: World,
    users: Users,
    visits: Visits,
    visit: Ints,
    favourite: Ints,
    rng: np.random.Generator,
) -> Ints:
    user = visits.user[visit]
    popular = world.assortment.draw(
        rng,
        users.market[user],
        world.shop.wave_of(visits.day)[visit],
        visits.category[visit],
    )
    by_habit = (rng.random(len(visit)) < FAVOURITE_SHARE) & ~users.is_bot[user]
    return np.where(visits.is_need[visit] | by_habit, favourite, popular)


def _cart(users: Users, visits: Visits, visit: Ints, is_favourite: Bools) -> Floats:
    cart = of_archetype("cart")
    archetype = users.archetype[visits.user[visit]]
    chance = np.where(is_favourite, favourite_cart(cart)[archetype], cart[archetype])
    return np.where(visits.is_need[visit], 1.0, chance)


def buy_odds(archetype: Ints, is_need: Bools, in_promotion: Bools) -> Floats:
    """Odds that what lies in the cart is bought."""
    odds = np.where(is_need, NEED_BUY_ODDS, of_archetype("buy_odds")[archetype])
    factor = np.where(in_promotion, of_archetype("promotion_factor")[archetype], 1.0)
    return np.asarray(odds * factor)


def _returns(
    world: World,
    users: Users,
    user: Ints,
    category: Ints,
    checkout_us: Ints,
    is_bought: Bools,
    rng: np.random.Generator,
) -> Ints:
    share = np.array([one.return_share for one in CATEGORIES])[category]
    comes_back = is_bought & (rng.random(len(user)) < share)
    days = rng.uniform(*RETURN_DAYS, size=len(user))
    return_us = checkout_us + (days * DAY_US).astype(np.int64)
    ends_us = START_US + (users.ends(world.plan.num_days) * DAY_US).astype(np.int64)
    return np.where(comes_back & (return_us < ends_us[user]), return_us, 0)


def draw_queries(
    world: World, users: Users, visits: Visits, views: Views, rng: np.random.Generator
) -> Ints:
    """What is typed in each visit that opens with a query, as a position in the pool."""
    searches = np.flatnonzero(visits.is_search)
    first = (np.cumsum(visits.num_views) - visits.num_views)[searches]
    languages = np.array([one.language_idx for one in world.shop.markets])
    language = languages[users.market[visits.user[searches]]]
    return world.queries.draw(rng, world.items, views.item[first], language)
