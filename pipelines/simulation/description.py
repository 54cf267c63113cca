"""How the written tables are described: `company.yaml`, `staff.yaml` and the folder's README."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import yaml

from pipelines.clock import from_micros
from pipelines.contracts import (
    AMOUNT,
    BRAND,
    CART,
    CATEGORY,
    CATEGORY_PATH,
    CHANNEL,
    EVENT_ID,
    EVENT_TIME,
    EVENT_TYPE,
    ITEM_ID,
    LOCALE,
    MARKET,
    PAGE_VIEW,
    PRICE,
    PURCHASE,
    QUANTITY,
    QUERY,
    SEARCH,
    SESSION_ID,
    TITLE,
    USER_ID,
)
from pipelines.simulation.arrays import DAY_US
from pipelines.simulation.plan import START_US, WINDOW_DAYS, Plan
from pipelines.simulation.records import CLICKSTREAM, ORDERS, RETURNS, SEARCHES

RETURN: Final = "return"
"""The event type of a return: a company's own."""

_VISIT: Final = {SESSION_ID: "visit", CHANNEL: "device", MARKET: "country", LOCALE: "locale"}
_EVENTS: Final[dict[str, dict[str, Any]]] = {
    CLICKSTREAM: {
        "columns": {
            EVENT_ID: "hit",
            USER_ID: "visitor",
            EVENT_TIME: "at",
            EVENT_TYPE: {"column": "action", "values": {"view": PAGE_VIEW, "add_to_cart": CART}},
            ITEM_ID: "sku",
            **_VISIT,
        },
    },
    SEARCHES: {
        "time_unit": "us",
        "columns": {
            EVENT_ID: "search_no",
            USER_ID: "shopper",
            EVENT_TIME: "typed_us",
            EVENT_TYPE: {"constant": SEARCH},
            QUERY: "words",
            **_VISIT,
        },
    },
    ORDERS: {
        "columns": {
            EVENT_ID: "line_no",
            USER_ID: "client",
            EVENT_TIME: "ordered_at",
            EVENT_TYPE: {"constant": PURCHASE},
            ITEM_ID: "sku",
            QUANTITY: "pieces",
            AMOUNT: "paid_eur",
            **_VISIT,
        },
        "fields": {"discount": {"type": "number"}},
    },
    RETURNS: {
        "columns": {
            EVENT_ID: "return_no",
            USER_ID: "client",
            EVENT_TIME: "returned_at",
            EVENT_TYPE: {"constant": RETURN},
            ITEM_ID: "sku",
            QUANTITY: "pieces",
            AMOUNT: "refund_eur",
            MARKET: "country",
        },
    },
}
_PRODUCTS: Final = {
    "name": "products",
    "into": "catalogue",
    "source": {"format": "parquet", "path": "raw/catalogue.parquet"},
    "columns": {
        ITEM_ID: "sku",
        TITLE: "name",
        CATEGORY: "category",
        CATEGORY_PATH: "path",
        BRAND: "brand",
        PRICE: "price_eur",
        MARKET: "country",
        LOCALE: "locale",
    },
}
_CUSTOMERS: Final = {
    "name": "customers",
    "into": "profiles",
    "source": {"format": "parquet", "path": "raw/profiles.parquet"},
    "columns": {USER_ID: "customer"},
    "fields": {
        "home_country": {"type": "categorical", "from": "country"},
        "language": {"type": "categorical"},
        "age": {"type": "categorical"},
        "newsletter": {"type": "categorical"},
    },
}
_STAFF: Final = [
    {
        "name": "days",
        "into": "events",
        "source": {"format": "parquet", "path": "raw/staff/events.parquet"},
        "columns": {
            EVENT_ID: "entry",
            USER_ID: "person",
            EVENT_TIME: "at",
            EVENT_TYPE: "what",
        },
    },
    {
        "name": "roster",
        "into": "profiles",
        "source": {"format": "parquet", "path": "raw/staff/roster.parquet"},
        "columns": {USER_ID: "person"},
        "fields": {
            "role": {"type": "categorical"},
            "country": {"type": "categorical"},
        },
    },
]
STAFF_QUESTIONS: Final = "staff_questions.py"
_QUESTIONS: Final = '''"""Who of the staff, there today, is gone in two weeks?"""

import numpy as np

from behavior_model.tasks import Doubles, Futures, Past, TaskKind, user_task


@user_task("leaving", kind=TaskKind.BINARY)
def leaving(past: Past, future: Futures) -> Doubles:
    """Asked of those who were there in the last two weeks."""
    gone = future.count(after_days=14) == 0
    return np.where(past.count(days=14) > 0, gone, np.nan)
'''
_HEADER: Final = (
    "# SIMULATED by bfm simulate: no real customer, product or company stands behind this.\n"
    "# For tests, scale and questions that public data cannot settle; not for claims of quality.\n"
)


def company_yaml(plan: Plan, tables: Collection[str]) -> str:
    """The shop, with the tables of events that hold rows."""
    events = [
        {
            "name": name,
            "into": "events",
            "source": {"format": "parquet", "path": f"raw/{name}"},
            **description,
        }
        for name, description in _EVENTS.items()
        if name in tables
    ]
    return _yaml(f"simulated-shop-{plan.seed}", [*events, _PRODUCTS, _CUSTOMERS])


def staff_yaml(plan: Plan) -> str:
    """The shop's staff as a company of its own."""
    return _yaml(f"simulated-staff-{plan.seed}", _STAFF, tasks=STAFF_QUESTIONS)


def staff_questions() -> str:
    """The file of questions that the description of the staff names."""
    return _HEADER + _QUESTIONS


def _yaml(name: str, tables: list[dict[str, Any]], **further: str) -> str:
    body = {"schema_version": 1, "name": name, "tables": tables, **further}

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return _HEADER + yaml.dump(body, Dumper=Plain, sort_keys=False, allow_unicode=True)


def _command(plan: Plan) -> str:
    dirty = " --dirty" if plan.dirty else ""
    return (
        f"bfm simulate --out DIR --events {plan.num_events} --users {plan.num_users} "
        f"--items {plan.num_items} --days {plan.num_days} --markets {plan.num_markets} "
        f"--seed {plan.seed}{dirty}"
    )


def _cut(plan: Plan) -> str:
    """ISO time at which the answer key's window begins."""
    return f"{from_micros(START_US + plan.cut_day * DAY_US):%Y-%m-%dT%H:%M:%SZ}"


def readme(plan: Plan, num_rows: Mapping[str, int]) -> str:
    """What the folder holds, and what it must not be used for."""
    rows = "\n".join(f"| `raw/{name}` | {num:,} |" for name, num in sorted(num_rows.items()))
    return f"""# Simulated shop, seed {plan.seed}

**Everything here is simulated.** No person, product, brand or company is real. It is made for
tests, for measuring at scale, and for questions that public data cannot settle because nobody knows
the truth. It is no evidence of quality on real customers: never quote a figure from it as such.

Made by the command below, which gives the same bytes again. Times are UTC.

```
{_command(plan)}
```

| table | rows |
|---|---|
{rows}

`company.yaml` describes the shop and `staff.yaml` its staff. Every id begins with `sim-`, and every
Parquet file carries `simulated: true` among its metadata.

```
bfm run --company company.yaml --workspace workspace --as-of {_cut(plan)}
bfm run --company staff.yaml --workspace staff --as-of {_cut(plan)}
```

The second is about the staff, who buy nothing: `churn` is no entry of any kind in the window. A
question of their own in `staff_questions.py`, `leaving`, is who, there today, is gone in two weeks.

## Truth, in `truth/`

| table | what it knows |
|---|---|
| `users` | archetype, taste (order of `categories`), bots, rate, hazard, fade, time of leaving |
| `staples` | what each user restocks, and the mean gap in days (gaps are Erlang with shape 4) |
| `answer_key` | chances in the last {WINDOW_DAYS} days, for one who knows all but the draws |
| `searches` | what was meant by each query, by `event_id` |
| `queries` | right spelling, kind, language and category of every text |
| `items` | right values; items of one `product` are the same thing in several markets |
| `catalogue_errors` | planted errors: the field, what is written, what is right |
| `promotions`, `markets`, `categories`, `archetypes` | the parameters of the shop |
| `staff` | hazard and time of leaving of the staff |
| `dirt` | with `--dirty`: which order lines were broken, repeated or late |
| `counts.json` | rows of every table, and what an intake must count |
"""
