"""Blocks of users, drawn one after the other; each depends on the plan and its number alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.simulation.arrays import Floats, Ints, Stream, generator
from pipelines.simulation.customers import Staples, Users, draw_staples, draw_users
from pipelines.simulation.visits import (
    Views,
    Visits,
    draw_queries,
    draw_views,
    draw_visits,
)
from pipelines.simulation.world import World


@dataclass(frozen=True, kw_only=True)
class Block:
    """Users and everything that they do.

    Args:
        number: Which block.
        users: Its users.
        staples: What they restock.
        rates: Their visits without a need, per kept day.
        visits: Their visits.
        views: What they view, and what becomes of it.
        queries: What they type, for each visit with `is_search`.
    """

    number: int
    users: Users
    staples: Staples
    rates: Floats
    visits: Visits
    views: Views
    queries: Ints


def draw_block(world: World, number: int) -> Block:
    """One block of users."""
    rng = generator(world.plan.seed, Stream.VISITS, number)
    users = draw_users(world.plan, world.shop, world.assortment, number)
    staples = draw_staples(world.plan, users, rng)
    visits, rates = draw_visits(world, users, staples, rng)
    views = draw_views(world, users, visits, rng)
    return Block(
        number=number,
        users=users,
        staples=staples,
        rates=rates,
        visits=visits,
        views=views,
        queries=draw_queries(world, users, visits, views, rng),
    )


def blocks(world: World) -> Iterator[Block]:
    """All blocks, one at a time."""
    return (draw_block(world, number) for number in range(world.plan.num_blocks))
