"""A whole simulation to disk, one block of users at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipelines.contracts import EVENTS
from pipelines.simulation import dirt, truth
from pipelines.simulation.blocks import Block, blocks
from pipelines.simulation.catalogue import chunks, plant_errors
from pipelines.simulation.description import (
    STAFF_QUESTIONS,
    company_yaml,
    readme,
    staff_questions,
    staff_yaml,
)
from pipelines.simulation.plan import SimulationOptions, plan
from pipelines.simulation.records import (
    CLICKSTREAM,
    ORDERS,
    RETURNS,
    SEARCHES,
    catalogue_table,
    event_tables,
    profile_table,
    staff_tables,
)
from pipelines.simulation.staff import make_staff
from pipelines.simulation.world import World, make_world
from pipelines.simulation.writer import Folder
from pipelines.workspace import write_bytes_atomically, write_json_atomically

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What was written.

    Args:
        company: The shop's description.
        staff: The staff's description.
        num_rows: Rows of every table below `raw/`.
        num_truth_rows: Rows of every table below `truth/`.
        num_dirty: Rows of each kind of dirt.
    """

    company: Path
    staff: Path
    num_rows: dict[str, int]
    num_truth_rows: dict[str, int]
    num_dirty: dict[str, int]

    @property
    def num_events(self) -> int:
        return sum(self.num_rows.get(name, 0) for name in (CLICKSTREAM, SEARCHES, ORDERS, RETURNS))


def simulate(options: SimulationOptions, say: Say = print) -> Simulated:
    """Write a shop and the truth about it. The descriptions come last: without them, it was killed.

    Args:
        options: What is asked for.
        say: Takes a line now and then.

    Raises:
        UserError: an option is out of range, or the folder holds something.
    """
    world = make_world(plan(options))
    num_dirty: Counter[str] = Counter()
    with Folder(options.out / "raw") as raw, Folder(options.out / "truth") as known:
        _write_shop(world, raw, known)
        for block in blocks(world):
            num_dirty += _write_block(world, block, raw, known)
            if block.number % 20 == 19:
                say(f"{block.number + 1} of {world.plan.num_blocks} blocks of users written")
    simulated = Simulated(
        company=options.out / "company.yaml",
        staff=options.out / "staff.yaml",
        num_rows=dict(raw.num_rows),
        num_truth_rows=dict(known.num_rows),
        num_dirty=dict(num_dirty),
    )
    _describe(world, simulated)
    return simulated


def _write_shop(world: World, raw: Folder, known: Folder) -> None:
    errors = plant_errors(world.plan, world.items)
    for rows in chunks(len(world.items)):
        raw.append("catalogue", catalogue_table(world, errors, rows))
        known.append("items", truth.items_table(world, rows))
    known.append("catalogue_errors", truth.errors_table(world, errors))
    known.append("queries", truth.queries_table(world.queries))
    for name, table in truth.shop_tables(world.shop).items():
        known.append(name, table)
    staff = make_staff(world.plan, world.shop)
    for name, table in staff_tables(world, staff).items():
        raw.append(f"staff/{name}", table)
    known.append("staff", truth.staff_table(world, staff))


def _write_block(world: World, block: Block, raw: Folder, known: Folder) -> Counter[str]:
    tables = event_tables(world, block)
    for name, table in truth.block_tables(world, block, tables[SEARCHES]).items():
        if name == SEARCHES:
            known.write_part(name, block.number, table)
        else:
            known.append(name, table)
    num_dirty: Counter[str] = Counter()
    if world.plan.dirty:
        tables[ORDERS], num_dirty = _soiled(world, block, tables[ORDERS], raw, known)
    for name, table in tables.items():
        raw.write_part(name, block.number, table)
    raw.append("profiles", profile_table(world, block))
    return num_dirty


def _soiled(
    world: World, block: Block, orders: pa.Table, raw: Folder, known: Folder
) -> tuple[pa.Table, Counter[str]]:
    dirty = dirt.soil(orders, world.plan.seed, block.number)
    raw.write_part(ORDERS, block.number, dirty.late, prefix="late")
    known.append("dirt", dirty.truth)
    return dirty.on_time, Counter(dirty.counts)


def _describe(world: World, simulated: Simulated) -> None:
    folder = simulated.company.parent
    text = readme(world.plan, simulated.num_rows)
    write_bytes_atomically(folder / "README.md", text.encode())
    broken = (dirt.MALFORMED_TIME, dirt.MISSING_CLIENT)
    counts = {
        "simulated": True,
        "rows": simulated.num_rows,
        EVENTS.name: simulated.num_events,
        "dirt": simulated.num_dirty,
        "quarantined": sum(simulated.num_dirty.get(kind, 0) for kind in broken),
        "duplicates": simulated.num_dirty.get(dirt.DUPLICATED, 0),
    }
    write_json_atomically(folder / "truth" / "counts.json", counts)
    filled = [name for name, num in simulated.num_rows.items() if num]
    write_bytes_atomically(folder / STAFF_QUESTIONS, staff_questions().encode())
    write_bytes_atomically(simulated.staff, staff_yaml(world.plan).encode())
    write_bytes_atomically(simulated.company, company_yaml(world.plan, filled).encode())
