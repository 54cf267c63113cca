"""Room 8: the counter. `create_app` builds the application, `serve` runs it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any, Final

import torch
import uvicorn
from fastapi import FastAPI

from behavior_model.bundle import read_manifest
from behavior_model.predictor import Predictor
from pipelines.contracts import SemanticType
from pipelines.environment import from_environment
from pipelines.errors import EnvironmentProblemError
from pipelines.workspace import Workspace
from serving import problems
from serving.metrics import Measure, Metrics
from serving.problems import BodyLimit
from serving.reload import Reloader, looking
from serving.routes import ROUTERS
from serving.settings import ServingSettings
from serving.state import AppState, open_shelf

_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 10.0
_LAST_REQUESTS_S: Final = 8
"""Seconds that requests under way are given when the server is asked to end."""
_NOT_STARTED: Final = 3
"""Exit code when the server did not come up; uvicorn's own."""
_log: Final = logging.getLogger("bfm.serving")


def create_app(settings: ServingSettings, predictor: Predictor | None = None) -> FastAPI:
    """The application on one workspace.

    Its event contract comes from the bundle's manifest at once; the bundle is loaded, every file
    checked, when the application starts.

    Args:
        settings: Validated settings.
        predictor: A bundle that is loaded already.

    Raises:
        BundleError: no bundle, or a changed one.
    """
    manifest = predictor.manifest if predictor else read_manifest(settings.opened.bundle)
    given = [predictor] if predictor else []
    del predictor
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        torch.set_num_threads(settings.torch_threads)
        loaded = given[0] if given else Predictor.load(settings.opened.bundle)
        loaded.warm()
        app.state.bfm = AppState.open(settings, loaded, metrics)
        answers = loaded.manifest
        del loaded  # it goes when another takes over
        metrics.name_model(answers.model_version)

        def take(renewed: Predictor) -> None:
            given.clear()
            before: AppState = app.state.bfm
            app.state.bfm = replace(before, predictor=renewed)
            metrics.name_model(renewed.manifest.model_version, before.model_version)

        reloader = app.state.reloader = Reloader(settings.opened, answers, take)
        try:
            with looking(reloader, settings.reload_seconds):
                yield
        finally:
            app.state.bfm.live_events.close()

    app = FastAPI(
        title="bfm",
        description="One behavioural foundation model: every answer about customers and items.",
        version=version("bfm"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=problems.described(500, 503),
        telemetry={"exclude": _names_a_user},
    )
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    problems.install(app)
    app.add_middleware(Measure, metrics=metrics)
    for router in ROUTERS:
        app.include_router(router)
    _declare_extra_fields(app, manifest.event_fields)
    _describe_problems(app)
    return app


def serve(workspace: Workspace, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve a workspace's bundle until interrupted.

    Raises:
        EnvironmentProblemError: the port is taken, or a variable has a value that is not allowed.
        BundleError: no bundle, or a changed one.
        WorkspaceError: nothing was published yet, or into another online store, or this machine
            lacks the text encoder of the bundle.
        StoreError: the online store does not answer.
    """
    settings = _settings(workspace=workspace.root)
    require_free_port(host, port)
    open_shelf(workspace)  # before the server starts: it would print a traceback
    app = create_app(settings, _loaded(workspace))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("bfm").setLevel(logging.INFO)
    warn_if_open(settings, host)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_LAST_REQUESTS_S,
    )
    server = AnnouncedServer(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(_NOT_STARTED)


def _loaded(workspace: Workspace) -> Predictor:
    """The bundle, ready before the server starts: there a refusal would print a traceback."""
    predictor = Predictor.load(workspace.bundle)
    predictor.warm()
    return predictor


def warn_if_open(settings: ServingSettings, host: str) -> None:
    """Warn when other machines reach an address where nobody needs a token to erase users."""
    if settings.admin_token is None and not _is_loopback(host):
        _log.warning(
            "%s can be reached from other machines and BFM_ADMIN_TOKEN is not set: whoever reaches "
            "it may erase users for good. Set it to 16 characters or more.",
            host,
        )


class AnnouncedServer(uvicorn.Server):
    """Says when it is up, since uvicorn's own lines are left out."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            app = self.config.app
            assert isinstance(app, FastAPI)
            model = app.state.bfm.model_version
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            _log.info("bundle %s answers at http://%s:%d", model, host, self.config.port)


def _is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone; a name that is no address is taken as open."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def running(workspace: Workspace) -> Iterator[str]:
    """Serve a workspace on a free loopback port, without a token, for the length of a `with` block.

    Yields:
        The base address, "http://127.0.0.1:PORT".

    Raises:
        BundleError: no bundle, or a changed one.
        WorkspaceError: nothing was published yet, or into another online store.
        StoreError: the online store does not answer.
        EnvironmentProblemError: the server did not come up, or a variable has a value that is not
            allowed.
    """
    open_shelf(workspace)  # before the server starts: it would print a traceback
    settings = _settings(workspace=workspace.root, admin_token=None)
    app = create_app(settings, _loaded(workspace))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            _wait_until_started(server, thread)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=_STOP_TIMEOUT_S)


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise EnvironmentProblemError(
                "the server did not come up; run `bfm serve --workspace DIR` to see why"
            )
        time.sleep(0.01)


def create_app_from_environment() -> FastAPI:
    """For process managers: `uvicorn --factory serving.app:create_app_from_environment`."""
    return create_app(_settings())


def _settings(**given: Any) -> ServingSettings:
    return from_environment(ServingSettings, "The counter's", **given)


def require_free_port(host: str, port: int) -> None:
    """Refuse a port that something listens on already.

    Raises:
        EnvironmentProblemError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EnvironmentProblemError(
                f"cannot listen on {host}:{port} ({error.strerror}). "
                f"Choose another port, for example: --port {port + 1 if port < 65_535 else 8000}"
            ) from error


def _declare_extra_fields(app: FastAPI, fields: dict[str, SemanticType]) -> None:
    """Show the company's own event fields in the OpenAPI document, and nothing beside them."""
    document = app.openapi()
    event = document["components"]["schemas"]["LiveEvent"]
    for name, semantic in fields.items():
        kind = "number" if semantic is SemanticType.NUMBER else "string"
        event["properties"][name] = {"anyOf": [{"type": kind}, {"type": "null"}]}
    event["additionalProperties"] = False


def _names_a_user(scope: MutableMapping[str, Any]) -> bool:
    """Whether an address holds somebody's id, which no trace may keep."""
    return str(scope.get("path", "")).startswith("/v1/users/")


def _describe_problems(app: FastAPI) -> None:
    """Show errors in the OpenAPI document under the media type that they are sent in."""
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            for response in operation["responses"].values():
                content = response.get("content", {})
                if problems.PROBLEM_JSON in content and "application/json" in content:
                    content[problems.PROBLEM_JSON] = content.pop("application/json")
