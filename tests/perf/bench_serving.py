"""Latency per route over HTTP on the loopback address; bounded, one client.

Run: python tests/perf/bench_serving.py --workspace DIR [--requests 100]
Prints one JSON object: route -> p50, p99 in milliseconds, and what ran where.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests

from pipelines import lake
from pipelines.contracts import NUM_EVENTS, TOKEN_SEQUENCES, USER_ID
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace
from serving.app import running

WARM_UP = 5
TIMEOUT_S = 30
QUERIES = ("chocolate milk", "choclate milk", "dog food", "bread", "apples")


def bodies(user: str, item: str, number: int) -> dict[str, dict[str, Any]]:
    """One request per route."""
    event = {
        "event_id": f"bench-{os.getpid()}-{number}",
        "user_id": f"bench-{user}",
        "event_time": "2017-10-01T00:00:00Z",
        "event_type": "purchase",
        "item_id": item,
        "amount": 2.5,
    }
    return {
        "/v1/recommendations": {"user_id": user, "k": 10},
        "/v1/search": {"query": QUERIES[number % len(QUERIES)], "user_id": user, "k": 10},
        "/v1/predictions/churn": {"user_id": user},
        "/v1/tags": {"item_id": item, "k": 5},
        "/v1/similar-items": {"item_id": item, "by": "behavior", "k": 10},
        "/v1/embeddings": {"entity": "user", "ids": [user]},
        "/v1/events": {"events": [event]},
    }


def measure(workspace: Workspace, num_requests: int) -> dict[str, dict[str, float]]:
    """p50 and p99 per route in milliseconds, over users spread evenly by length of history."""
    table = lake.read(workspace, TOKEN_SEQUENCES.name, [USER_ID, NUM_EVENTS])
    users = table.sort_by(NUM_EVENTS).column(USER_ID).to_pylist()
    items = Vocabulary.load(workspace.vocabulary_path).items
    seconds: dict[str, list[float]] = {}
    with running(workspace) as base, requests.Session() as session:
        for number in range(-WARM_UP, num_requests):
            user = users[(number * len(users)) // num_requests % len(users)]
            for path, body in bodies(user, items[number % 1_000], number).items():
                begun = time.perf_counter()
                answer = session.post(base + path, json=body, timeout=TIMEOUT_S)
                if number >= 0 and answer.ok:
                    seconds.setdefault(path, []).append(time.perf_counter() - begun)
    return {
        path: {
            "num_answers": len(values),
            "p50_ms": round(float(np.percentile(values, 50)) * 1e3, 1),
            "p99_ms": round(float(np.percentile(values, 99)) * 1e3, 1),
        }
        for path, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=100)
    arguments = parser.parse_args()
    routes = measure(Workspace(arguments.workspace), arguments.requests)
    machine = {"cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({"routes": routes, **machine}, indent=2))


if __name__ == "__main__":
    main()
