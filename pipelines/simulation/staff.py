"""The shop's staff: a second, small company with leavers.

For person i of role r: hired before the start with probability 0.7, else uniform on the first 80
per cent of the days; hazard h_i ~ h_r Gamma(2, 1/2) per day; time of leaving after the hire
Exponential(h_i). Every day a person works a shift with probability 0.65, is sick with probability
0.03 and trains with probability 0.02. In the last 60 days before leaving sick days are three times
as likely and trainings do not happen: a sign, and a weak one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from pipelines.simulation.arrays import DAY_US, Bools, Floats, Ints, Stream, generator
from pipelines.simulation.plan import START_US, Plan
from pipelines.simulation.shop import Shop

ROLES: Final = {"picker": 1 / 300, "driver": 1 / 400, "support": 1 / 350, "buyer": 1 / 900}
KINDS: Final = ("shift", "sick_day", "training")
SIGN_DAYS: Final = 60
SICK_FACTOR: Final = 3.0
MIN_STAFF: Final = 40
MAX_STAFF: Final = 2_000
_SHIFT, _SICK, _TRAINING = 0.65, 0.03, 0.02
_HIRED_BEFORE_SHARE: Final = 0.7
_SHIFT_US: Final = DAY_US // 3


@dataclass(frozen=True, kw_only=True)
class Staff:
    """People and what they did.

    Args:
        role: Position in `ROLES`.
        market: Position in the shop's markets.
        hired: First day, by person.
        leaves: Last day, possibly after the end of the simulation.
        hazard: Rate of leaving per day.
        person: Person of each event, sorted by person and time.
        at_us: Time of each event.
        kind: Position in `KINDS` of each event.
    """

    role: Ints
    market: Ints
    hired: Floats
    leaves: Floats
    hazard: Floats
    person: Ints
    at_us: Ints
    kind: Ints


def make_staff(plan: Plan, shop: Shop) -> Staff:
    """Draw the staff and their days."""
    rng = generator(plan.seed, Stream.STAFF)
    num = min(max(plan.num_users // 50, MIN_STAFF), MAX_STAFF)
    role = rng.integers(len(ROLES), size=num)
    market = rng.choice(len(shop.markets), num, p=[one.share for one in shop.markets])
    opens = np.array([one.opens_day for one in shop.markets])[market]
    later = opens + np.floor(rng.random(num) * 0.8 * (plan.num_days - opens))
    hired = np.where(rng.random(num) < _HIRED_BEFORE_SHARE, opens, later).astype(np.float64)
    hazard = np.array(list(ROLES.values()))[role] * rng.gamma(2.0, 0.5, num)
    leaves = hired + rng.exponential(size=num) / hazard
    person, day, kind = _days(plan, hired, leaves, rng)
    early = 5 * _SHIFT_US // 8
    return Staff(
        role=role,
        market=market,
        hired=hired,
        leaves=leaves,
        hazard=hazard,
        person=person,
        at_us=START_US + day * DAY_US + early + rng.integers(_SHIFT_US, size=len(day)),
        kind=kind,
    )


def _days(
    plan: Plan, hired: Floats, leaves: Floats, rng: np.random.Generator
) -> tuple[Ints, Ints, Ints]:
    """Person, day and kind of what happened on whole days between hire and leaving."""
    days = np.arange(plan.num_days)
    sign = leaves[:, None] - days < SIGN_DAYS
    sick = np.where(sign, SICK_FACTOR, 1.0) * _SICK
    training = np.where(sign, 0.0, _TRAINING)
    drawn = rng.random(sign.shape)
    kind = np.full(sign.shape, -1)
    kind[drawn < _SHIFT + sick + training] = KINDS.index("training")
    kind[drawn < _SHIFT + sick] = KINDS.index("sick_day")
    kind[drawn < _SHIFT] = KINDS.index("shift")
    present: Bools = (days >= hired[:, None]) & (days + 1 <= leaves[:, None])
    person, day = np.nonzero(present & (kind >= 0))
    return person, day, kind[person, day]
