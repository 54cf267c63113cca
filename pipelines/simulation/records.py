"""What the shop's systems write: each with column names and a way of writing times of its own.

| system | time | rows |
|---|---|---|
| clickstream | `at`, timestamp in UTC | page views, products put into the cart |
| searches | `typed_us`, microseconds since 1970 | typed queries |
| orders | `ordered_at`, text in ISO 8601 | order lines |
| returns | `returned_at`, timestamp in UTC | order lines that came back |

All events share one numbering: 2^32 times the block, plus a running number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.simulation.arrays import DAY_US, Bools, Ints, Stream, generator
from pipelines.simulation.blocks import Block
from pipelines.simulation.catalogue import PlantedErrors
from pipelines.simulation.customers import ARCHETYPES
from pipelines.simulation.plan import START_US
from pipelines.simulation.staff import KINDS, ROLES, Staff
from pipelines.simulation.words import BRANDS, CATEGORIES
from pipelines.simulation.world import World

CLICKSTREAM: Final = "clickstream"
SEARCHES: Final = "searches"
ORDERS: Final = "orders"
RETURNS: Final = "returns"
DEVICES: Final = ("web", "app")
ACTIONS: Final = ("view", "add_to_cart")
AGE_BANDS: Final = ("18-29", "30-44", "45-59", "60+")
UTC_TIME: Final = pa.timestamp("us", tz="UTC")

Texts = Sequence[str] | npt.NDArray[np.object_]


def user_ids(numbers: Ints) -> Any:
    """Ids of users, which say that they are simulated."""
    return pa.array([f"sim-u{number:09d}" for number in numbers], type=pa.string())


def coded(texts: Texts, positions: Ints) -> Any:
    """Texts by position, as an Arrow dictionary of those that occur, each once.

    Parquet's writer leaves bytes undefined when a dictionary holds a value twice.
    """
    used = np.flatnonzero(np.bincount(positions, minlength=len(texts)))
    unique = pa.array([texts[int(i)] for i in used], type=pa.string()).dictionary_encode()
    place = np.zeros(len(texts), dtype=np.int32)
    place[used] = unique.indices.to_numpy()
    return pa.DictionaryArray.from_arrays(pa.array(place[positions]), unique.dictionary)


def utc(times_us: Ints, absent: Bools | None = None) -> Any:
    """Microseconds since 1970 as times in UTC."""
    return pa.array(times_us, mask=absent).cast(UTC_TIME)


def event_tables(world: World, block: Block) -> dict[str, pa.Table]:
    """The rows of every system that a block's users leave behind."""
    bought = np.flatnonzero(block.views.is_bought)
    returned = np.flatnonzero(block.views.return_us)
    searched = np.flatnonzero(block.visits.is_search)
    clicked = np.repeat(np.arange(len(block.views)), 1 + block.views.in_cart)
    sizes = (len(clicked), len(searched), len(bought), len(returned))
    numbers = np.split(np.arange(sum(sizes)) + (block.number << 32), np.cumsum(sizes)[:-1])
    return {
        CLICKSTREAM: _clickstream(world, block, clicked, numbers[0]),
        SEARCHES: _searches(world, block, searched, numbers[1]),
        ORDERS: _orders(world, block, bought, numbers[2]),
        RETURNS: _returns(world, block, returned, numbers[3]),
    }


def _users(block: Block, users: Ints) -> Any:
    ids = user_ids(block.users.number)
    return pa.DictionaryArray.from_arrays(pa.array(users.astype(np.int32)), ids)


def _place(world: World, block: Block, visits: Ints) -> dict[str, Any]:
    """Visit, device, country and locale of rows that belong to visits."""
    markets = world.shop.markets
    market = block.users.market[block.visits.user[visits]]
    return {
        "visit": visits + (block.number << 32),
        "device": coded(DEVICES, block.visits.in_app[visits].astype(np.int64)),
        "country": coded([one.code for one in markets], market),
        "locale": coded([one.locale for one in markets], market),
    }


def _clickstream(world: World, block: Block, view: Ints, numbers: Ints) -> pa.Table:
    views, visit = block.views, block.views.visit[view]
    is_cart = np.diff(view, prepend=-1) == 0
    return pa.table(
        {
            "hit": numbers,
            "visitor": _users(block, block.visits.user[visit]),
            "at": utc(np.where(is_cart, views.cart_us[view], views.at_us[view])),
            "action": coded(ACTIONS, is_cart.astype(np.int64)),
            "sku": coded(world.items.ids, views.item[view]),
            **_place(world, block, visit),
        }
    )


def _searches(world: World, block: Block, visit: Ints, numbers: Ints) -> pa.Table:
    visits = block.visits
    return pa.table(
        {
            "search_no": numbers,
            "shopper": _users(block, visits.user[visit]),
            "typed_us": visits.at_us[visit],
            "words": coded(world.queries.texts, block.queries),
            **_place(world, block, visit),
        }
    )


def _orders(world: World, block: Block, view: Ints, numbers: Ints) -> pa.Table:
    views, visit = block.views, block.views.visit[view]
    return pa.table(
        {
            "line_no": numbers,
            "client": _users(block, block.visits.user[visit]),
            "ordered_at": utc(views.checkout_us[view]).cast(pa.string()),
            "sku": coded(world.items.ids, views.item[view]),
            "pieces": views.pieces[view],
            "paid_eur": _paid(world, block, view),
            "discount": views.cut[view],
            **_place(world, block, visit),
        }
    )


def _returns(world: World, block: Block, view: Ints, numbers: Ints) -> pa.Table:
    views, visit = block.views, block.views.visit[view]
    return pa.table(
        {
            "return_no": numbers,
            "client": _users(block, block.visits.user[visit]),
            "returned_at": utc(views.return_us[view]),
            "sku": coded(world.items.ids, views.item[view]),
            "pieces": views.pieces[view],
            "refund_eur": _paid(world, block, view),
            "country": _place(world, block, visit)["country"],
        }
    )


def _paid(world: World, block: Block, view: Ints) -> Any:
    views = block.views
    price = world.items.price[views.item[view]] * (1 - views.cut[view])
    return np.round(price * views.pieces[view], 2)


def profile_table(world: World, block: Block) -> pa.Table:
    """What the shop knows of its customers. Archetypes and bots do not stand here."""
    users, markets = block.users, world.shop.markets
    rng = generator(world.plan.seed, Stream.PROFILES, block.number)
    hunter = [one.name for one in ARCHETYPES].index("bargain_hunter")
    letter = rng.random(len(users)) < np.where(users.archetype == hunter, 0.7, 0.3)
    return pa.table(
        {
            "customer": user_ids(users.number),
            "country": coded([one.code for one in markets], users.market),
            "language": coded([one.language for one in markets], users.market),
            "age": coded(AGE_BANDS, rng.integers(len(AGE_BANDS), size=len(users))),
            "newsletter": coded(("no", "yes"), letter.astype(np.int64)),
        }
    )


def catalogue_table(world: World, errors: PlantedErrors, rows: Ints) -> pa.Table:
    """Rows of the catalogue as the shop wrote them, with their errors."""
    items, markets = world.items, world.shop.markets
    market = items.market[rows]
    titles = [
        items.title(int(errors.title_of[row]), markets[items.market[row]].language_idx)
        for row in rows
    ]
    return pa.table(
        {
            "sku": items.ids[rows].tolist(),
            "name": titles,
            "category": coded([one.name for one in CATEGORIES], errors.category[rows]),
            "path": coded([one.path for one in CATEGORIES], errors.category[rows]),
            "brand": coded(BRANDS, errors.brand[rows]),
            "price_eur": errors.price[rows],
            "country": coded([one.code for one in markets], market),
            "locale": coded([one.locale for one in markets], market),
        }
    )


def staff_tables(world: World, staff: Staff) -> dict[str, pa.Table]:
    """The roster and the days of the staff."""
    ids = [f"sim-s{number:05d}" for number in range(len(staff.role))]
    countries = [one.code for one in world.shop.markets]
    return {
        "roster": pa.table(
            {
                "person": ids,
                "role": coded(tuple(ROLES), staff.role),
                "country": coded(countries, staff.market),
            }
        ),
        "events": pa.table(
            {
                "entry": np.arange(len(staff.person)),
                "person": coded(ids, staff.person),
                "at": utc(staff.at_us),
                "what": coded(KINDS, staff.kind),
            }
        ),
    }


def day_us(days: npt.NDArray[Any]) -> Ints:
    """Days since the start of the simulation as microseconds since 1970."""
    return (START_US + days * DAY_US).astype(np.int64)
