"""What is true of the simulated shop and stands in none of its own tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.contracts import (
    BRAND,
    CATEGORY,
    CATEGORY_PATH,
    EVENT_ID,
    ITEM_ID,
    ITEM_IDS,
    MARKET,
    PRICE,
    QUERY,
    TITLE,
    USER_ID,
)
from pipelines.simulation.arrays import Floats, Ints
from pipelines.simulation.blocks import Block
from pipelines.simulation.catalogue import ERROR_SHARES, PlantedErrors
from pipelines.simulation.customers import ARCHETYPES
from pipelines.simulation.oracle import answer
from pipelines.simulation.queries import QueryPool
from pipelines.simulation.records import SEARCHES, coded, day_us, user_ids, utc
from pipelines.simulation.shop import Shop
from pipelines.simulation.staff import ROLES, Staff
from pipelines.simulation.words import BRANDS, CATEGORIES, LANGUAGES
from pipelines.simulation.world import World

_CATEGORY_NAMES = [one.name for one in CATEGORIES]


def _lists(rows: Any) -> Any:
    """A two-dimensional array as an Arrow list column."""
    num, width = rows.shape
    return pa.ListArray.from_arrays(
        pa.array(np.arange(num + 1, dtype=np.int32) * width), pa.array(rows.reshape(-1))
    )


def _last_day(leaves: Floats, num_days: int) -> Any:
    """Time of leaving; null for those who are still there at the end."""
    return utc(day_us(np.minimum(leaves, num_days)), leaves >= num_days)


def users_table(world: World, block: Block) -> pa.Table:
    """Archetype, taste, rate, hazard and time of leaving of every user, and who is a bot."""
    users = block.users
    return pa.table(
        {
            USER_ID: user_ids(users.number),
            "archetype": coded([one.name for one in ARCHETYPES], users.archetype),
            "is_bot": users.is_bot,
            MARKET: coded([one.code for one in world.shop.markets], users.market),
            "start_time": utc(day_us(users.starts)),
            "leave_time": _last_day(users.leaves, world.plan.num_days),
            "hazard_per_day": users.hazard,
            "fade": users.fade,
            "visits_per_day": block.rates,
            "taste": _lists(users.taste.astype(np.float32)),
        }
    )


def staples_table(world: World, block: Block) -> pa.Table:
    """What every user restocks, and how often."""
    staples = block.staples
    return pa.table(
        {
            USER_ID: user_ids(block.users.number).take(pa.array(staples.user)),
            CATEGORY: coded(_CATEGORY_NAMES, staples.category),
            ITEM_ID: coded(world.items.ids, block.users.favourite[staples.user, staples.category]),
            "mean_gap_days": staples.mean_gap,
        }
    )


def answer_table(world: World, block: Block) -> pa.Table:
    """The answer key, see `oracle`."""
    key = answer(world, block.users, block.staples, block.rates)
    leaves = block.users.leaves[key.user]
    num = len(key.user)
    items = coded(world.items.ids, key.item.reshape(-1)).cast(pa.string())
    offsets = pa.array(np.arange(num + 1, dtype=np.int32) * key.item.shape[1])
    return pa.table(
        {
            USER_ID: user_ids(block.users.number[key.user]),
            "cut_time": utc(np.full(num, day_us(np.array(world.plan.cut_day)))),
            "leaves_in_window": leaves < world.plan.num_days,
            "purchase_chance": key.purchase,
            "category_chances": _lists(key.category.astype(np.float32)),
            ITEM_IDS: pa.ListArray.from_arrays(offsets, items),
            "item_chances": _lists(key.item_chance.astype(np.float32)),
        }
    )


def searches_table(world: World, block: Block, searches: pa.Table) -> pa.Table:
    """What was meant by every typed query; the item is the first one looked at."""
    visits = np.flatnonzero(block.visits.is_search)
    first = (np.cumsum(block.visits.num_views) - block.visits.num_views)[visits]
    queries = world.queries.queries
    return pa.table(
        {
            EVENT_ID: searches["search_no"].cast(pa.string()),
            QUERY: searches["words"],
            "kind": coded([one.kind for one in queries], block.queries),
            "intended_category": coded(_CATEGORY_NAMES, block.visits.category[visits]),
            "intended_item_id": coded(world.items.ids, block.views.item[first]),
        }
    )


def block_tables(world: World, block: Block, searches: pa.Table) -> dict[str, pa.Table]:
    """All that is true of a block's users."""
    return {
        "users": users_table(world, block),
        "staples": staples_table(world, block),
        "answer_key": answer_table(world, block),
        SEARCHES: searches_table(world, block, searches),
    }


def items_table(world: World, rows: Ints) -> pa.Table:
    """The right values of every item, and what it has in common with items of other markets."""
    items, markets = world.items, world.shop.markets
    languages = [markets[market].language_idx for market in items.market[rows]]
    return pa.table(
        {
            ITEM_ID: items.ids[rows].tolist(),
            "product": items.product[rows],
            MARKET: coded([one.code for one in markets], items.market[rows]),
            TITLE: [items.title(int(i), lang) for i, lang in zip(rows, languages, strict=True)],
            CATEGORY: coded(_CATEGORY_NAMES, items.category[rows]),
            BRAND: coded(BRANDS, items.brand[rows]),
            PRICE: items.price[rows],
            "launch_time": utc(day_us(items.launch_day[rows])),
            "popularity": items.popularity[rows],
        }
    )


def errors_table(world: World, errors: PlantedErrors) -> pa.Table:
    """Every planted error of the catalogue: what is written, and what is right."""
    items, markets = world.items, world.shop.markets
    rows = []
    for item in np.flatnonzero(errors.kind >= 0):
        language = markets[items.market[item]].language_idx
        wrong_and_right = {
            CATEGORY: (
                _CATEGORY_NAMES[errors.category[item]],
                _CATEGORY_NAMES[items.category[item]],
            ),
            BRAND: (BRANDS[errors.brand[item]], BRANDS[items.brand[item]]),
            PRICE: (str(errors.price[item]), str(items.price[item])),
            TITLE: (
                items.title(int(errors.title_of[item]), language),
                items.title(int(item), language),
            ),
        }
        field = list(ERROR_SHARES)[errors.kind[item]]
        written, right = wrong_and_right[field]
        rows.append({ITEM_ID: items.ids[item], "field": field, "written": written, "right": right})
    return pa.Table.from_pylist(rows)


def queries_table(pool: QueryPool) -> pa.Table:
    """All queries that can be typed: the right spelling, the kind and the category."""
    queries = pool.queries
    return pa.table(
        {
            QUERY: [one.text for one in queries],
            "clean": [one.clean for one in queries],
            "kind": [one.kind for one in queries],
            "language": [LANGUAGES[one.language] for one in queries],
            CATEGORY: [_CATEGORY_NAMES[one.category] for one in queries],
        }
    )


def shop_tables(shop: Shop) -> dict[str, pa.Table]:
    """Markets, promotions, categories and archetypes."""
    promotions = shop.promotions
    return {
        "markets": pa.table(
            {
                MARKET: [one.code for one in shop.markets],
                "language": [one.language for one in shop.markets],
                "open_time": utc(day_us(np.array([one.opens_day for one in shop.markets]))),
                "user_share": [one.share for one in shop.markets],
            }
        ),
        "promotions": pa.table(
            {
                MARKET: [shop.markets[one.market].code for one in promotions],
                CATEGORY: [_CATEGORY_NAMES[one.category] for one in promotions],
                "start_time": utc(day_us(np.array([one.starts for one in promotions]))),
                "end_time": utc(day_us(np.array([one.ends for one in promotions]))),
                "discount": [one.cut for one in promotions],
            }
        ),
        "categories": pa.table(
            {
                CATEGORY: _CATEGORY_NAMES,
                CATEGORY_PATH: [one.path for one in CATEGORIES],
                "rhythm_days": [one.rhythm_days for one in CATEGORIES],
                "season_peak_day": [one.peak_day for one in CATEGORIES],
                "season_amplitude": [one.amplitude for one in CATEGORIES],
                "return_share": [one.return_share for one in CATEGORIES],
            }
        ),
        "archetypes": pa.Table.from_pylist([vars(one) for one in ARCHETYPES]),
    }


def staff_table(world: World, staff: Staff) -> pa.Table:
    """Hazard, hire and time of leaving of the staff."""
    return pa.table(
        {
            USER_ID: [f"sim-s{number:05d}" for number in range(len(staff.role))],
            "role": coded(tuple(ROLES), staff.role),
            "hire_time": utc(day_us(staff.hired)),
            "leave_time": _last_day(staff.leaves, world.plan.num_days),
            "hazard_per_day": staff.hazard,
        }
    )
