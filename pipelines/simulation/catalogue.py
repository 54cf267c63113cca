"""Products, their prices and popularity, and the errors planted in the written catalogue.

Product p of category c has popularity (r_p + 1)^-0.8, r_p its rank in the category, and a price
log-normal around the category's median. A market sells the first products of the list, each under
an item id of its own: the same product in two markets is two items with titles in two languages,
which `truth/items.parquet` ties by `product`. About 15 per cent of the products are new: they come
in one of the later waves (`shop.Shop.wave_days`) and are never seen before.

Of all items, `ERROR_SHARES` carry one planted error each: a wrong category, a wrong brand, a price
ten times too high or too low, or the title of an item of another category.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.contracts import BRAND, CATEGORY, PRICE, TITLE
from pipelines.simulation.arrays import (
    Bools,
    Floats,
    Ints,
    Stream,
    draw_segments,
    generator,
    segment_cdf,
)
from pipelines.simulation.plan import Plan
from pipelines.simulation.shop import NUM_CATEGORIES, NUM_WAVES, Shop
from pipelines.simulation.words import (
    BRANDS,
    CATEGORIES,
    COLOURS,
    NUM_BRANDS_OF_A_CATEGORY,
    QUALITIES,
    brands_of,
)

NEW_SHARE: Final = 0.15
POPULARITY_EXPONENT: Final = 0.8
ERROR_SHARES: Final = {CATEGORY: 0.02, BRAND: 0.01, PRICE: 0.01, TITLE: 0.01}


@dataclass(frozen=True, kw_only=True)
class Items:
    """All items by index, grouped by market; the right values of everything.

    Args:
        num_per_market: Items of each market; those of market m follow those of m - 1.
        market: Market of each item.
        product: Product of each item; its category is `product % NUM_CATEGORIES`.
        wave: Wave in which the product comes out.
        launch_day: First day on which it is sold.
        noun: Which of the category's two nouns.
        quality: Position in `QUALITIES`.
        colour: Position in `COLOURS`.
        brand: Position in `BRANDS`.
        model: Number in the title.
        price: Price without a promotion, EUR.
        popularity: Weight among the items of its market and category.
        number: What the item id is made of; says nothing about the item.
    """

    num_per_market: Ints
    market: Ints
    product: Ints
    wave: Ints
    launch_day: Ints
    noun: Ints
    quality: Ints
    colour: Ints
    brand: Ints
    model: Ints
    price: Floats
    popularity: Floats
    number: Ints

    def __len__(self) -> int:
        return len(self.product)

    @cached_property
    def category(self) -> Ints:
        return self.product % NUM_CATEGORIES

    @cached_property
    def ids(self) -> npt.NDArray[np.object_]:
        return np.array([f"sim-i{number:07d}" for number in self.number], dtype=object)

    def title(self, item: int, language: int) -> str:
        """Title of an item in a language."""
        noun = CATEGORIES[self.category[item]].nouns[language][self.noun[item]]
        return (
            f"{noun} {QUALITIES[language][self.quality[item]]}, "
            f"{COLOURS[language][self.colour[item]]}, "
            f"{BRANDS[self.brand[item]]} {self.model[item]}"
        )


def make_items(plan: Plan, shop: Shop) -> Items:
    """Draw the assortment of every market."""
    rng = generator(plan.seed, Stream.PRODUCTS)
    num_per_market = np.full(plan.num_markets, plan.num_items // plan.num_markets)
    num_per_market[0] += plan.num_items % plan.num_markets
    product = np.concatenate([np.arange(num) for num in num_per_market])
    market = np.repeat(np.arange(plan.num_markets), num_per_market)
    num_products = int(num_per_market[0])
    category = np.arange(num_products) % NUM_CATEGORIES
    is_new = rng.random(num_products) < NEW_SHARE
    is_new[:NUM_CATEGORIES] = False
    wave = np.where(is_new, rng.integers(1, NUM_WAVES, num_products), 0)
    medians = np.array([one.price for one in CATEGORIES])[category]
    opens = np.array([one.opens_day for one in shop.markets])[market]
    ranks = _ranks_in_category(rng, num_products)
    looks = _draw_looks(rng, category)
    price = np.round(medians * rng.lognormal(0.0, 0.4, num_products), 2)
    return Items(
        num_per_market=num_per_market,
        market=market,
        product=product,
        wave=wave[product],
        launch_day=np.maximum(shop.wave_days[wave[product]], opens),
        price=np.maximum(price, 0.5)[product],
        popularity=((ranks + 1.0) ** -POPULARITY_EXPONENT)[product],
        number=rng.permutation(plan.num_items),
        **{name: column[product] for name, column in looks.items()},
    )


def _draw_looks(rng: np.random.Generator, category: Ints) -> dict[str, Ints]:
    """What the titles of products are made of."""
    num = len(category)
    brands = [[BRANDS.index(name) for name in brands_of(c)] for c in range(NUM_CATEGORIES)]
    return {
        "noun": rng.integers(2, size=num),
        "quality": rng.integers(len(QUALITIES[0]), size=num),
        "colour": rng.integers(len(COLOURS[0]), size=num),
        "brand": np.array(brands)[category, rng.integers(NUM_BRANDS_OF_A_CATEGORY, size=num)],
        "model": rng.integers(100, 1_000, num),
    }


def _ranks_in_category(rng: np.random.Generator, num_products: int) -> Ints:
    ranks = np.empty(num_products, dtype=np.int64)
    for category in range(NUM_CATEGORIES):
        members = np.arange(category, num_products, NUM_CATEGORIES)
        ranks[members] = rng.permutation(len(members))
    return ranks


class Assortment:
    """Draws items by popularity from what a market sells of a category at a wave."""

    def __init__(self, items: Items) -> None:
        shelves, members = [], []
        for wave in range(NUM_WAVES):
            out = np.flatnonzero(items.wave <= wave)
            shelves.append(_shelf(items.market[out], np.array(wave), items.category[out]))
            members.append(out)
        shelf, item = np.concatenate(shelves), np.concatenate(members)
        order = np.lexsort((item, shelf))
        self._popularity = items.popularity
        self._totals = np.bincount(shelf, weights=items.popularity[item])
        self._items = item[order]
        self._cdf = segment_cdf(items.popularity[self._items], shelf[order])

    def draw(self, rng: np.random.Generator, market: Ints, wave: Ints, category: Ints) -> Ints:
        """One item for each entry of the three arrays."""
        shelves = _shelf(market, wave, category)
        return self._items[draw_segments(rng, self._cdf, shelves)]

    def share(self, items: Ints, market: Ints, wave: Ints) -> Floats:
        """Probability that `draw` gives each item of its category.

        Args:
            items: One item for each category, [rows, categories].
            market: Market of each row.
            wave: Wave of each row.
        """
        shelves = _shelf(market[:, None], wave[:, None], np.arange(NUM_CATEGORIES))
        return self._popularity[items] / self._totals[shelves]


def _shelf(market: Ints, wave: Ints, category: Ints) -> Ints:
    return (market * NUM_WAVES + wave) * NUM_CATEGORIES + category


@dataclass(frozen=True, kw_only=True)
class PlantedErrors:
    """What the written catalogue says instead of the truth.

    Args:
        kind: By item, the wrong column's position in `ERROR_SHARES`, or -1.
        category: The written category of every item.
        brand: The written brand of every item.
        price: The written price of every item.
        title_of: By item, the item whose title is written.
    """

    kind: Ints
    category: Ints
    brand: Ints
    price: Floats
    title_of: Ints

    def with_error(self, field: str) -> Bools:
        """Items whose `field` is wrong."""
        return np.asarray(self.kind == list(ERROR_SHARES).index(field))


def plant_errors(plan: Plan, items: Items) -> PlantedErrors:
    """Choose the items with errors, and what is written of them."""
    rng = generator(plan.seed, Stream.ERRORS)
    kind = np.full(len(items), -1)
    chosen = iter(np.split(rng.permutation(len(items)), _ends(len(items))))
    for position in range(len(ERROR_SHARES)):
        kind[next(chosen)] = position
    errors = PlantedErrors(
        kind=kind,
        category=items.category.copy(),
        brand=items.brand.copy(),
        price=items.price.copy(),
        title_of=np.arange(len(items)),
    )
    wrong = np.flatnonzero(errors.with_error(CATEGORY))
    shift = rng.integers(1, NUM_CATEGORIES, len(wrong))
    errors.category[wrong] = (errors.category[wrong] + shift) % NUM_CATEGORIES
    wrong = np.flatnonzero(errors.with_error(BRAND))
    shift = rng.integers(1, len(BRANDS), len(wrong))
    errors.brand[wrong] = (errors.brand[wrong] + shift) % len(BRANDS)
    wrong = np.flatnonzero(errors.with_error(PRICE))
    factor = rng.choice([0.1, 10.0], len(wrong))
    errors.price[wrong] = np.round(errors.price[wrong] * factor, 2)
    wrong = np.flatnonzero(errors.with_error(TITLE))
    errors.title_of[wrong] = _of_other_category(rng, items, wrong)
    return errors


def _ends(num_items: int) -> Ints:
    nums = [max(1, round(share * num_items)) for share in ERROR_SHARES.values()]
    return np.cumsum(nums)


def _of_other_category(rng: np.random.Generator, items: Items, wrong: Ints) -> Ints:
    """For each item another one of the same market, one to 23 categories further."""
    shift = rng.integers(1, NUM_CATEGORIES, len(wrong))
    category = (items.category[wrong] + shift) % NUM_CATEGORIES
    first = np.cumsum(items.num_per_market) - items.num_per_market
    return first[items.market[wrong]] + category


def chunks(num: int, size: int = 65_536) -> Iterator[Ints]:
    """All indices below `num`, in pieces."""
    for first in range(0, num, size):
        yield np.arange(first, min(first + size, num))
