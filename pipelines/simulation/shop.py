"""The world that customers meet: markets, seasons, waves of new products, promotions.

Season of category c on day t (peak p_c, amplitude a_c from `words`):

    s_c(t) = 1 + a_c cos(2 pi (t - p_c) / 365.25)

Promotions: every market runs, for every category, one promotion of `PROMOTION_DAYS` in each
stretch of `PROMOTION_EVERY_DAYS`, from a uniform day on, and cuts prices by a tenth, a fifth or
three tenths. While it runs, the odds of buying what lies in the cart are multiplied by the factor
of the customer's archetype (`customers.ARCHETYPES`).

Markets: of two or more, the last one opens after 60 per cent of the days; of four or more, the
last but one opens after 30 per cent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipelines.simulation.arrays import Floats, Ints, Stream, generator
from pipelines.simulation.plan import Plan
from pipelines.simulation.words import CATEGORIES, LANGUAGES

NUM_CATEGORIES: Final = len(CATEGORIES)
NUM_WAVES: Final = 6
PROMOTION_DAYS: Final = 7
PROMOTION_EVERY_DAYS: Final = 56
CUTS: Final = (0.1, 0.2, 0.3)
_PLACES: Final = (
    ("DE", "de"),
    ("FR", "fr"),
    ("IE", "en"),
    ("ES", "es"),
    ("AT", "de"),
    ("BE", "fr"),
    ("MT", "en"),
    ("LU", "fr"),
)


@dataclass(frozen=True, kw_only=True)
class Market:
    """One country: where it is, what is spoken, from which day on it sells, its share of users."""

    code: str
    language: str
    opens_day: int
    share: float

    @property
    def language_idx(self) -> int:
        return LANGUAGES.index(self.language)

    @property
    def locale(self) -> str:
        return f"{self.language}-{self.code}"


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A price cut on one category in one market, days `starts` to `ends` without the last."""

    market: int
    category: int
    starts: int
    ends: int
    cut: float


@dataclass(frozen=True, kw_only=True)
class Shop:
    """Everything that is the same for all customers, apart from the products.

    Args:
        markets: Countries, by index.
        promotions: All price cuts.
        cuts: Price cut by market, category and day; 0 where there is none.
        seasons: Weight by day and category.
        wave_days: First day of each wave of new products; the first is 0.
    """

    markets: tuple[Market, ...]
    promotions: tuple[Promotion, ...]
    cuts: Floats
    seasons: Floats
    wave_days: Ints

    def wave_of(self, days: Ints) -> Ints:
        """The last wave that was out on each day."""
        return np.searchsorted(self.wave_days, days, side="right") - 1


def make_shop(plan: Plan) -> Shop:
    """Draw the world of a plan."""
    markets = _markets(plan)
    promotions = _promotions(plan, len(markets))
    cuts = np.zeros((len(markets), NUM_CATEGORIES, plan.num_days))
    for one in promotions:
        cuts[one.market, one.category, one.starts : one.ends] = one.cut
    return Shop(
        markets=markets,
        promotions=promotions,
        cuts=cuts,
        seasons=_seasons(plan.num_days),
        wave_days=np.arange(NUM_WAVES) * plan.num_days // NUM_WAVES,
    )


def _markets(plan: Plan) -> tuple[Market, ...]:
    shares = 1 / (1 + np.arange(plan.num_markets))
    shares /= shares.sum()
    opens = [0] * plan.num_markets
    if plan.num_markets >= 2:
        opens[-1] = plan.num_days * 6 // 10
    if plan.num_markets >= 4:
        opens[-2] = plan.num_days * 3 // 10
    return tuple(
        Market(code=code, language=language, opens_day=day, share=float(share))
        for (code, language), day, share in zip(_PLACES, opens, shares, strict=False)
    )


def _seasons(num_days: int) -> Floats:
    peaks = np.array([one.peak_day for one in CATEGORIES])
    amplitudes = np.array([one.amplitude for one in CATEGORIES])
    days = np.arange(num_days)[:, None]
    return np.asarray(1 + amplitudes * np.cos(2 * np.pi * (days - peaks) / 365.25))


def _promotions(plan: Plan, num_markets: int) -> tuple[Promotion, ...]:
    rng = generator(plan.seed, Stream.PROMOTIONS)
    stretches = range(0, plan.num_days - PROMOTION_EVERY_DAYS + 1, PROMOTION_EVERY_DAYS)
    found = []
    for market in range(num_markets):
        for category in range(NUM_CATEGORIES):
            for first in stretches:
                starts = first + int(rng.integers(PROMOTION_EVERY_DAYS - PROMOTION_DAYS))
                found.append(
                    Promotion(
                        market=market,
                        category=category,
                        starts=starts,
                        ends=starts + PROMOTION_DAYS,
                        cut=float(rng.choice(CUTS)),
                    )
                )
    return tuple(found)
