"""The world that all blocks of users share."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.simulation.catalogue import Assortment, Items, make_items
from pipelines.simulation.plan import Plan
from pipelines.simulation.queries import QueryPool, make_queries
from pipelines.simulation.shop import Shop, make_shop


@dataclass(frozen=True, kw_only=True)
class World:
    """All that a block of users needs to know."""

    plan: Plan
    shop: Shop
    items: Items
    assortment: Assortment
    queries: QueryPool


def make_world(plan: Plan) -> World:
    """Everything that customers meet."""
    shop = make_shop(plan)
    items = make_items(plan, shop)
    return World(
        plan=plan,
        shop=shop,
        items=items,
        assortment=Assortment(items),
        queries=make_queries(plan.seed),
    )
