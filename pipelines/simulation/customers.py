"""Customers: what they like, how often they come, what they restock, when they leave.

For user u of archetype a, in a market m that opens on day o_m:

    taste         theta_u ~ Dirichlet(0.3)                      over categories
    visit rate    lambda_u ~ v_a Gamma(1.5, 1/1.5)              visits without a need, relative
    start         o_m with probability 0.6, else uniform on the following 90 per cent of the days
    hazard        h_u ~ h_a Gamma(2, 1/2)                       per day
    lifetime      T_u ~ Exponential(h_u)                        from the start
    fade          f_u = 0.8 with probability 0.7, else 0        strength of the sign of leaving
    staples       Poisson(k_a) categories with a rhythm, the likeliest under theta_u (Gumbel)
    gap           g ~ Erlang(4, mean r_c LogNormal(0, 0.25))    days between two needs
    favourite     one item for each category, by popularity among what was out at the start

This is the Pareto/NBD family (Schmittlein, Morrison and Colombo 1987; BG/NBD of Fader, Hardie and
Lee 2005 is its discrete twin): Poisson visits with gamma rates, exponential lifetimes with gamma
hazards. Two things are added. Needs for staples come in regular gaps. And in the last 42 days
before leaving every visit takes place with probability

    keep_u(t) = 1 - f_u max(0, 1 - (T_u - t) / 42)

so that most leavers can be seen coming, and three in ten cannot.

Bots are an archetype: they visit often, view much, and never search, fill a cart or buy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipelines.simulation.arrays import Bools, Floats, Ints, Stream, generator
from pipelines.simulation.catalogue import Assortment
from pipelines.simulation.plan import Plan
from pipelines.simulation.shop import NUM_CATEGORIES, Shop
from pipelines.simulation.words import CATEGORIES

FADE_DAYS: Final = 42
FADE_STRENGTH: Final = 0.8
FADING_SHARE: Final = 0.7
RATE_SHAPE: Final = 1.5
HAZARD_SHAPE: Final = 2.0
TASTE_CONCENTRATION: Final = 0.3
STARTED_BEFORE_SHARE: Final = 0.6
RHYTHM_SPREAD: Final = 0.25
ERLANG_SHAPE: Final = 4
MAX_STAPLES: Final = 8
STAPLE_CATEGORIES: Final = np.array(
    [position for position, one in enumerate(CATEGORIES) if one.rhythm_days is not None]
)


@dataclass(frozen=True, kw_only=True)
class Archetype:
    """A kind of customer.

    Args:
        name: What it is called in the truth tables.
        share: Share of all users.
        visit_rate: Visits without a need, relative to other kinds.
        search_share: Share of visits that open with a typed query.
        num_views: Mean number of products viewed in a visit.
        cart: Probability that a viewed product goes into the cart.
        buy_odds: Odds that what lies in the cart is bought.
        promotion_factor: Factor on those odds while the product is in a promotion.
        num_staples: Mean number of categories bought in a rhythm.
        lifetime_days: Mean of 1 / hazard, roughly.
    """

    name: str
    share: float
    visit_rate: float
    search_share: float
    num_views: float
    cart: float
    buy_odds: float
    promotion_factor: float
    num_staples: float
    lifetime_days: float


ARCHETYPES: Final = (
    Archetype(
        name="routine",
        share=0.35,
        visit_rate=0.6,
        search_share=0.35,
        num_views=1.8,
        cart=0.35,
        buy_odds=3.0,
        promotion_factor=1.5,
        num_staples=4.0,
        lifetime_days=900,
    ),
    Archetype(
        name="explorer",
        share=0.25,
        visit_rate=1.5,
        search_share=0.25,
        num_views=4.0,
        cart=0.18,
        buy_odds=0.8,
        promotion_factor=2.0,
        num_staples=1.0,
        lifetime_days=500,
    ),
    Archetype(
        name="bargain_hunter",
        share=0.20,
        visit_rate=1.0,
        search_share=0.30,
        num_views=3.0,
        cart=0.22,
        buy_odds=0.6,
        promotion_factor=4.0,
        num_staples=1.5,
        lifetime_days=400,
    ),
    Archetype(
        name="occasional",
        share=0.19,
        visit_rate=0.3,
        search_share=0.50,
        num_views=2.5,
        cart=0.25,
        buy_odds=1.5,
        promotion_factor=2.0,
        num_staples=0.5,
        lifetime_days=250,
    ),
    Archetype(
        name="bot",
        share=0.01,
        visit_rate=3.0,
        search_share=0.0,
        num_views=25.0,
        cart=0.0,
        buy_odds=0.0,
        promotion_factor=1.0,
        num_staples=0.0,
        lifetime_days=300,
    ),
)
BOT: Final = len(ARCHETYPES) - 1


def of_archetype(field: str) -> Floats:
    """One number of every archetype."""
    return np.array([getattr(one, field) for one in ARCHETYPES], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Users:
    """The users of one block. Days count from the start of the simulation, with fractions.

    Args:
        number: What the user id is made of.
        archetype: Position in `ARCHETYPES`.
        market: Position in the shop's markets.
        taste: Share of each category, [users, categories].
        favourite: Item of each category, [users, categories].
        visit_rate: Relative rate of visits without a need.
        starts: First day, a whole number.
        leaves: Last day, possibly after the end of the simulation.
        hazard: Rate of leaving per day.
        fade: Strength of the sign before leaving.
        app_share: Share of visits in the app.
        num_staples: Number of categories that the user restocks.
    """

    number: Ints
    archetype: Ints
    market: Ints
    taste: Floats
    favourite: Ints
    visit_rate: Floats
    starts: Floats
    leaves: Floats
    hazard: Floats
    fade: Floats
    app_share: Floats
    num_staples: Ints

    def __len__(self) -> int:
        return len(self.number)

    @property
    def is_bot(self) -> Bools:
        return np.asarray(self.archetype == BOT)

    def ends(self, num_days: int) -> Floats:
        """Each user's last day within the simulation."""
        return np.minimum(self.leaves, num_days)

    def kept_days(self, first: Floats, last: Floats) -> Floats:
        """The integral of `keep` from `first` to `last`, which is not past the user's leaving."""
        early = np.minimum(self.leaves - first, FADE_DAYS)
        late = np.minimum(self.leaves - last, FADE_DAYS)
        lost = (early - early**2 / (2 * FADE_DAYS)) - (late - late**2 / (2 * FADE_DAYS))
        return np.asarray(last - first - self.fade * lost)

    def keep(self, user: Ints, days: Floats) -> Floats:
        """Probability that a visit on these days takes place."""
        left = np.maximum(0.0, 1 - (self.leaves[user] - days) / FADE_DAYS)
        return 1 - self.fade[user] * left


@dataclass(frozen=True, kw_only=True)
class Staples:
    """What users restock: one row for each user and category.

    Args:
        user: Position in the block's users.
        category: Category.
        mean_gap: Mean days between two needs.
        needs: Days of all needs, [rows, many]; the first may lie before the user's start.
    """

    user: Ints
    category: Ints
    mean_gap: Floats
    needs: Floats


def draw_users(plan: Plan, shop: Shop, assortment: Assortment, block: int) -> Users:
    """The users of a block."""
    rng = generator(plan.seed, Stream.CUSTOMERS, block)
    number = np.asarray(plan.users_of(block))
    num = len(number)
    archetype = rng.choice(len(ARCHETYPES), num, p=of_archetype("share"))
    market = rng.choice(len(shop.markets), num, p=[one.share for one in shop.markets])
    taste = rng.gamma(TASTE_CONCENTRATION, size=(num, NUM_CATEGORIES)) + 1e-9
    taste /= taste.sum(axis=1, keepdims=True)
    taste[archetype == BOT] = 1 / NUM_CATEGORIES
    opens = np.array([one.opens_day for one in shop.markets])[market]
    later = opens + rng.random(num) * 0.9 * (plan.num_days - opens)
    starts = np.floor(np.where(rng.random(num) < STARTED_BEFORE_SHARE, opens, later))
    hazard = rng.gamma(HAZARD_SHAPE, 1 / HAZARD_SHAPE, num)
    hazard /= of_archetype("lifetime_days")[archetype]
    fades = (rng.random(num) < FADING_SHARE) & (archetype != BOT)
    mean_staples = of_archetype("num_staples")[archetype] * min(plan.intensity, 2.0)
    return Users(
        number=number,
        archetype=archetype,
        market=market,
        taste=taste,
        favourite=_favourites(rng, shop, assortment, market, starts),
        visit_rate=of_archetype("visit_rate")[archetype]
        * rng.gamma(RATE_SHAPE, 1 / RATE_SHAPE, num),
        starts=starts,
        leaves=starts + rng.exponential(size=num) / hazard,
        hazard=hazard,
        fade=np.where(fades, FADE_STRENGTH, 0.0),
        app_share=rng.beta(0.5, 0.5, num),
        num_staples=np.minimum(rng.poisson(mean_staples), MAX_STAPLES),
    )


def _favourites(
    rng: np.random.Generator, shop: Shop, assortment: Assortment, market: Ints, starts: Floats
) -> Ints:
    wave = shop.wave_of(starts.astype(np.int64))
    category = np.tile(np.arange(NUM_CATEGORIES), len(market))
    drawn = assortment.draw(
        rng, np.repeat(market, NUM_CATEGORIES), np.repeat(wave, NUM_CATEGORIES), category
    )
    return drawn.reshape(len(market), NUM_CATEGORIES)


def draw_staples(plan: Plan, users: Users, rng: np.random.Generator) -> Staples:
    """What the users of a block restock, and on which days they need it."""
    likeliest = np.log(users.taste[:, STAPLE_CATEGORIES])
    likeliest += rng.gumbel(size=likeliest.shape)
    order = np.argsort(-likeliest, axis=1)
    taken = np.arange(order.shape[1]) < users.num_staples[:, None]
    user, place = np.nonzero(taken)
    category = STAPLE_CATEGORIES[order[user, place]]
    rhythm = np.array([one.rhythm_days or 0.0 for one in CATEGORIES])[category]
    mean_gap = rhythm * rng.lognormal(0.0, RHYTHM_SPREAD, len(user))
    return Staples(
        user=user,
        category=category,
        mean_gap=mean_gap,
        needs=_needs(rng, mean_gap, users.starts[user], plan.num_days),
    )


def _needs(rng: np.random.Generator, mean_gap: Floats, starts: Floats, num_days: int) -> Floats:
    """Days of needs, past the end of the simulation; the first up to a mean gap early."""
    if not len(mean_gap):
        return np.empty((0, 1))
    many = int(1.5 * num_days / mean_gap.min()) + 10
    gaps = rng.gamma(ERLANG_SHAPE, 1 / ERLANG_SHAPE, (len(mean_gap), many))
    gaps[:, 0] = -rng.random(len(mean_gap))
    return np.asarray(starts[:, None] + np.cumsum(gaps * mean_gap[:, None], axis=1))
