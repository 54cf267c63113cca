"""What is asked of a simulation, checked, and how its work is cut into blocks of users.

A block holds as many users as make about `EVENTS_OF_A_BLOCK` events. It depends on the options
alone, so that the same options and seed give the same files on any machine, and memory holds one
block at a time however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pipelines.errors import UserError
from pipelines.simulation.words import CATEGORIES

EVENTS_OF_A_BLOCK: Final = 250_000
MIN_EVENTS: Final = 1_000
MAX_USERS_OF_A_BLOCK: Final = 8_192
EVENTS_PER_USER_DAY: Final = 150 / 365
MAX_EVENTS_PER_USER_DAY: Final = 100
NUM_DAYS: Final = range(60, 3_651)
MAX_MARKETS: Final = 8
MAX_ITEMS: Final = 1_000_000
START_US: Final = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
WINDOW_DAYS: Final = 28
"""The answer key looks at the last days of the simulation, as many as these."""


@dataclass(frozen=True, kw_only=True)
class SimulationOptions:
    """What the user asks for.

    Args:
        out: Folder to write; empty or not there yet.
        num_events: Events to aim at; the exact number follows from the draws.
        num_users: Customers, bots included; by default about 150 events a year for each.
        num_items: Rows of the catalogue, over all markets.
        num_days: Days from 2024-01-01 on.
        num_markets: Countries.
        seed: Seed of all draws.
        dirty: Whether to plant broken, repeated and late rows.
    """

    out: Path
    num_events: int = 100_000
    num_users: int | None = None
    num_items: int | None = None
    num_days: int = 365
    num_markets: int = 4
    seed: int = 0
    dirty: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Checked numbers of one simulation."""

    num_events: int
    num_users: int
    num_items: int
    num_days: int
    num_markets: int
    seed: int
    dirty: bool

    @property
    def cut_day(self) -> int:
        """First day of the window that the answer key is about."""
        return self.num_days - WINDOW_DAYS

    @property
    def intensity(self) -> float:
        """Events per user and day, relative to the default."""
        return self.num_events / self.num_users / self.num_days / EVENTS_PER_USER_DAY

    @property
    def users_per_block(self) -> int:
        fitting = EVENTS_OF_A_BLOCK * self.num_users // self.num_events
        return min(max(fitting, 1), MAX_USERS_OF_A_BLOCK)

    @property
    def num_blocks(self) -> int:
        return -(-self.num_users // self.users_per_block)

    def users_of(self, block: int) -> range:
        """Numbers of the users in a block."""
        first = block * self.users_per_block
        return range(first, min(first + self.users_per_block, self.num_users))


def plan(options: SimulationOptions) -> Plan:
    """Fill in what was not given, and refuse what cannot be simulated.

    Raises:
        UserError: a number is out of range, or the folder holds something.
    """
    _require_range("--events", options.num_events, MIN_EVENTS, None)
    _require_range("--days", options.num_days, NUM_DAYS.start, NUM_DAYS.stop - 1)
    _require_range("--markets", options.num_markets, 1, MAX_MARKETS)
    _require_range("--seed", options.seed, 0, None)
    num_users = options.num_users
    if num_users is None:
        num_users = max(1, round(options.num_events / options.num_days / EVENTS_PER_USER_DAY))
    least = -(-options.num_events // (MAX_EVENTS_PER_USER_DAY * options.num_days))
    _require_range("--users", num_users, least, max(options.num_events, least))
    fewest = options.num_markets * len(CATEGORIES)
    num_items = options.num_items
    if num_items is None:
        num_items = min(max(options.num_events // 100, 2 * fewest), 20_000)
    _require_range("--items", num_items, fewest, MAX_ITEMS)
    _require_empty(options.out)
    return Plan(
        num_events=options.num_events,
        num_users=num_users,
        num_items=num_items,
        num_days=options.num_days,
        num_markets=options.num_markets,
        seed=options.seed,
        dirty=options.dirty,
    )


def _require_range(option: str, value: int, least: int, most: int | None) -> None:
    if value >= least and (most is None or value <= most):
        return
    allowed = f"{least:,} or more" if most is None else f"from {least:,} to {most:,}"
    reasons = {
        "--users": f" for these events: at most {MAX_EVENTS_PER_USER_DAY} a day for each user, "
        "and one at least",
        "--items": f" for these markets: each sells {len(CATEGORIES)} categories",
    }
    raise UserError(
        f"{option} {value:,} cannot be simulated{reasons.get(option, '')}. Give a number {allowed}."
    )


def _require_empty(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise UserError(
            f"--out {out} is not an empty folder. Give a new folder, or remove what is there."
        )
