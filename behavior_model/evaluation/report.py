"""The evaluation as a page: every figure beside its baselines, with plots that need no script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jinja2
from matplotlib.figure import Figure

from behavior_model.evaluation.results import Result
from pipelines.workspace import write_bytes_atomically

MODEL_COLOUR: Final = "#1b6ca8"
PART_COLOUR: Final = "#8fbcdb"
BASELINE_COLOUR: Final = "#c9c9c9"

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1400px;
       margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }
th, td { text-align: right; white-space: nowrap; padding: .35rem .6rem;
         border-bottom: 1px solid #e3e3e3; }
th:first-child, td:first-child, td.name, th.name { text-align: left; }
th { font-weight: 600; border-bottom: 2px solid #999; }
"""
"""Of every page with figures."""

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Evaluation: {{ company }}</title>
<style>
{{ style|safe }}.win { color: #17703a; font-weight: 600; }
.loss { color: #a13030; font-weight: 600; }
.vague { background: #fff4d6; }
table { font-size: 13px; } th, td { padding: .35rem; }
td.wrapped { white-space: normal; text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: 1rem; }
.plots img { width: 100%; } small { color: #666; }
</style>
</head>
<body>
<h1>Evaluation: {{ company }}</h1>
<p>Cut {{ cut|replace("+00:00", "Z") }}. Nothing at or after the cut was learned from.
Intervals are 95 per cent bootstrap intervals over users, for likeness and tags over products; the
best baseline is the strongest of all on the same split. The gain over it is green or red where its
own interval, of both judged on the same users, leaves no doubt of its sign.
{% if results|selectattr("is_vague")|list %}<br><span class="vague">Marked intervals are so wide
that the figure says little: too few could be judged.</span>{% endif %}</p>
<table>
<tr><th>task</th><th class="name">metric</th><th class="name">split</th><th>model</th>
<th>interval</th><th>best baseline</th><th class="name">which</th><th>gain</th>
<th>users</th><th>items</th><th>events</th><th>seconds</th></tr>
{% for r in results %}
<tr><td>{{ r.task }}</td>
<td class="name">{{ r.metric }}{% if r.is_error %} <small>(less is better)</small>{% endif %}</td>
<td class="wrapped">{{ r.split }}</td><td><b>{{ "%.4f"|format(r.model) }}</b></td>
<td{% if r.is_vague %} class="vague"{% endif %}>
{{ "%.3f"|format(r.interval[0]) }} to {{ "%.3f"|format(r.interval[1]) }}</td>
{% if r.baselines %}
<td>{{ "%.4f"|format(r.best_baseline[1]) }}</td><td class="wrapped">{{ r.best_baseline[0] }}</td>
<td class="{{ verdict(r) }}">
{{ "%+.4f"|format(r.model - r.best_baseline[1]) }}{% if r.gain_interval %}<br>
<small>{{ "%+.3f"|format(r.gain_interval[0]) }} to {{ "%+.3f"|format(r.gain_interval[1]) }}</small>
{% endif %}</td>
{% else %}
<td>not run</td><td class="name"></td><td></td>
{% endif %}
<td>{{ "{:,}".format(r.num_users) }}</td><td>{{ "{:,}".format(r.num_items) }}</td>
<td>{{ "{:,}".format(r.num_events) }}</td><td>{{ "%.0f"|format(r.seconds) }}</td></tr>
{% endfor %}
</table>
<div class="plots">
{% for name, data in plots %}<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% endfor %}
</div>
<p><small>Dark blue: the model. Light blue: its parts. Grey: baselines. The best stands
on top. The same figures stand in <code>evaluation.json</code> beside this page.</small></p>
</body>
</html>
"""


def verdict(result: Result) -> str:
    """How the page shows the model beside the strongest baseline: "win", "loss", or "tie" where
    chance alone could have made the difference."""
    low, high = result.gain_interval or (0.0, 0.0)
    if low > 0:
        return "loss" if result.is_error else "win"
    if high < 0:
        return "win" if result.is_error else "loss"
    return "tie"


def write_page(path: Path, results: Sequence[Result], *, company: str) -> None:
    """Write the evaluation page: one table and one bar chart per result."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_PAGE).render(
        style=STYLE,
        company=company,
        cut=results[0].cut if results else "",
        results=results,
        verdict=verdict,
        plots=[(f"{r.task} {r.metric} {r.split}", _bars(r)) for r in results],
    )
    write_bytes_atomically(path, page.encode())


def _bars(result: Result) -> str:
    bars = [("model", result.model, MODEL_COLOUR)]
    bars += [(_of_part(name), value, PART_COLOUR) for name, value in result.parts.items()]
    bars += [(name, value, BASELINE_COLOUR) for name, value in result.baselines.items()]
    bars.sort(key=lambda bar: bar[1], reverse=result.is_error)
    figure = Figure(figsize=(6.4, 0.6 + 0.34 * len(bars)), layout="constrained")
    axes = figure.subplots()
    axes.barh([b[0] for b in bars], [b[1] for b in bars], color=[b[2] for b in bars])
    axes.hlines([b[0] for b in bars].index("model"), *result.interval, color="black", linewidth=1.5)
    for position, (name, value, _) in enumerate(bars):
        end = max(value, result.interval[1]) if name == "model" else value
        axes.text(end, position, f" {value:.4f}", va="center", fontsize=8)
    better = ", smaller is better" if result.is_error else ""
    axes.set_title(f"{result.task}: {result.metric} ({result.split}{better})", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.tick_params(labelsize=8)
    return embedded_png(figure)


def _of_part(name: str) -> str:
    """A memory's bare name says little; other parts say themselves what they are."""
    return name if " " in name else f"{name} alone"


def embedded_png(figure: Figure) -> str:
    """A figure as text for the source of an image on a page."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return base64.b64encode(content.getvalue()).decode()
