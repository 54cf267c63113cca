"""A study as a page: tables and their plots, with no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jinja2
from matplotlib.figure import Figure

from behavior_model.evaluation.report import STYLE, embedded_png
from pipelines.workspace import write_bytes_atomically

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
{{ style|safe }}img { width: 100%; max-width: 900px; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for line in notes %}<p>{{ line }}</p>
{% endfor %}
{% for table in tables %}
{% if table.title != title %}<h2>{{ table.title }}</h2>
{% endif %}<table>
<tr>{% for name in table.header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endfor %}
{% for name, data in plots %}<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% endfor %}
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """What is printed and stands on the page alike: a title, a header, rows of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_study_page(
    path: Path,
    title: str,
    tables: Sequence[StudyTable],
    *,
    notes: Sequence[str] = (),
    plots: Mapping[str, Figure] | None = None,
) -> None:
    """Write a study's page.

    Args:
        path: The file.
        title: Its heading; a table of the same title gets none of its own.
        tables: Its figures.
        notes: Paragraphs above the tables.
        plots: Figures below them, by what they show.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    images = [(name, embedded_png(figure)) for name, figure in (plots or {}).items()]
    page = environment.from_string(_PAGE).render(
        style=STYLE, title=title, tables=tables, notes=notes, plots=images
    )
    write_bytes_atomically(path, page.encode())
