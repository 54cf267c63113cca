"""`bfm demo`: the whole line on Complete Journey, its figures, and real requests."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from pipelines.workspace import Workspace
from serving.cli.console import out, print_table
from serving.cli.options import WorkspaceOption
from serving.cli.rooms import BUILT_IN_COMPANY, run_line

if TYPE_CHECKING:
    from behavior_model.evaluation.results import Result

AS_OF: Final = "2017-10-01T00:00:00Z"
MAX_ANSWER_CHARS: Final = 360
TIMEOUT_S: Final = 30
VISITOR: Final = "a-new-visitor"
"""Made up: what the demo posts about this one is removed at its end."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(demo)


def demo(workspace: WorkspaceOption = Path("workspace")) -> None:
    """Run the whole line on real data (Complete Journey) and show what came out."""
    begun = time.monotonic()
    place = Workspace(workspace)
    run_line(place, BUILT_IN_COMPANY, "tiny", AS_OF, 0)
    _print_figures(place)
    _print_requests(place)
    _print_end(place, time.monotonic() - begun)


def _print_figures(workspace: Workspace) -> None:
    from behavior_model.evaluation.results import main_results, read_evaluation

    results = read_evaluation(workspace.evaluation_path)
    shown = main_results(results)
    print_table(
        f"At the cut {AS_OF}, next 28 days, {shown[0].num_events:,} events before it (intervals: "
        f"95 per cent over users; the other {len(results) - len(shown)} figures are on the page "
        "below)",
        [
            "task",
            "metric",
            "split",
            "model",
            "interval",
            "baseline",
            "which",
            "gain",
            "users",
            "items",
        ],
        [_figure_row(result) for result in shown],
    )


def _figure_row(result: Result) -> list[str]:
    name, value = result.best_baseline
    low, high = result.interval
    return [
        result.task,
        result.metric,
        result.split,
        f"{result.model:.4f}",
        f"{low:.3f} to {high:.3f}",
        f"{value:.4f}",
        name,
        f"{result.model - value:+.4f}{result.gain_range}",
        f"{result.num_users:,}",
        f"{result.num_items:,}",
    ]


def _print_requests(workspace: Workspace) -> None:
    import requests

    from serving.app import running
    from serving.live_events import LiveEvents

    user, item = _examples(workspace)
    out.print("\nRequests and their answers, over HTTP on the loopback address:")
    with running(workspace) as base_url:
        for method, path, body in tour(user, item):
            answer = requests.request(method, base_url + path, json=body, timeout=TIMEOUT_S)
            sent = f" {json.dumps(body)}" if body else ""
            out.print(f"\n{method} {path}{sent}", style="bold", markup=False)
            out.print(f"{answer.status_code} {_shortened(answer.text)}", markup=False)
            answer.raise_for_status()
    with closing(LiveEvents(workspace.live_events_path)) as events:
        events.remove_user(VISITOR)


def _examples(workspace: Workspace) -> tuple[str, str]:
    """The household with the median number of events, and the most bought product."""
    from pipelines import lake
    from pipelines.contracts import NUM_EVENTS, TOKEN_SEQUENCES, USER_ID
    from pipelines.tokens.vocabulary import Vocabulary

    table = lake.read(workspace, TOKEN_SEQUENCES.name, [USER_ID, NUM_EVENTS]).sort_by(
        [(NUM_EVENTS, "ascending"), (USER_ID, "ascending")]
    )
    user: str = table.column(USER_ID)[table.num_rows // 2].as_py()
    return user, Vocabulary.load(workspace.vocabulary_path).items[0]


def tour(user: str, item: str) -> Sequence[tuple[str, str, dict[str, Any] | None]]:
    """One request per route that reads, and a visitor's first event: method, path and body."""
    live = {
        "event_id": "demo-1",
        "user_id": VISITOR,
        "event_time": AS_OF,
        "event_type": "purchase",
        "item_id": item,
        "quantity": 1,
        "amount": 2.5,
    }
    ask, ask_visitor = ({"user_id": one, "k": 3} for one in (user, VISITOR))
    return (
        ("GET", "/healthz", None),
        ("GET", "/readyz", None),
        ("GET", "/v1/model", None),
        ("POST", "/v1/recommendations", ask),
        ("POST", "/v1/predictions/churn", {"user_id": user}),
        ("POST", "/v1/propensities", {"user_id": user}),
        ("POST", "/v1/recommendations", ask_visitor),
        ("POST", "/v1/events", {"events": [live]}),
        ("POST", "/v1/recommendations", ask_visitor),
        ("POST", "/v1/search", {"query": "choclate milk", "user_id": user, "k": 3}),
        ("POST", "/v1/tags", {"item_id": item, "k": 5}),
        ("POST", "/v1/similar-items", {"item_id": item, "by": "behavior", "k": 3}),
        ("POST", "/v1/similar-items", {"item_id": item, "by": "content", "k": 3}),
        ("POST", "/v1/embeddings", {"entity": "user", "ids": [user]}),
        ("GET", "/metrics", None),
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_ANSWER_CHARS else f"{line[:MAX_ANSWER_CHARS]} ..."


def _print_end(workspace: Workspace, seconds: float) -> None:
    from pipelines.flow.runner import peak_of

    peak = peak_of(workspace)
    out.print(
        f"\nDone in {seconds / 60:.1f} min. Peak memory: driver {peak.driver / 2**30:.2f} GiB, "
        f"JVM {peak.jvm / 2**30:.2f} GiB, workers {peak.workers / 2**30:.2f} GiB, "
        f"all at one moment {peak.total / 2**30:.2f} GiB."
    )
    out.print(f"Evaluation:    {workspace.reports / 'evaluation.html'} and evaluation.json")
    out.print(f"Data quality:  {workspace.reports / 'data_quality' / 'index.html'}")
    out.print(f"Serve it:      bfm serve --workspace {workspace.quoted} --port 8000")
    out.print(
        "Your own data: describe your tables in a company.yaml (see "
        "pipelines/sources/complete_journey/company.yaml), then\n"
        "               bfm run --company company.yaml --workspace DIR"
    )
