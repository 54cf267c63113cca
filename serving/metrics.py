"""Prometheus metrics of one replica."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_UNMATCHED: Final = "unmatched"


class Metrics:
    """Counters of one application; each application has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "bfm_requests", "Answered requests.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "bfm_request_seconds",
            "Seconds per request.",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.fallbacks = Counter(
            "bfm_fallbacks",
            "Answers for users of whom nothing that counts is known.",
            registry=self.registry,
        )
        self.live_events = Counter("bfm_live_events", "Live events stored.", registry=self.registry)
        self.model = Gauge(
            "bfm_model",
            "1 for the bundle in use.",
            ("model_version",),
            registry=self.registry,
        )

    def name_model(self, model_version: str, instead_of: str | None = None) -> None:
        """The bundle that answers from now on."""
        if instead_of is not None:
            self.model.labels(instead_of).set(0)
        self.model.labels(model_version).set(1)

    def text(self) -> bytes:
        """Prometheus' text format."""
        content: bytes = generate_latest(self.registry)
        return content


class Measure:
    """ASGI middleware: counts and times requests per route, and names the model in a header."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 500
        header = (b"x-model-version", scope["app"].state.bfm.model_version.encode())

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), header]
            await send(message)

        try:
            await self.app(scope, receive, named)
        finally:
            route = getattr(scope.get("route"), "path", _UNMATCHED)
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)
