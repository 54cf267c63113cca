"""Validation of whole tables with Great Expectations, and the one page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import pandas as pd
from pyspark.sql import DataFrame

from pipelines.quality.alarm import Alarm
from pipelines.quality.gate import Gated, Ledger
from pipelines.quality.suites import (
    CONFLICTING_KEYS,
    INPUT_ROWS,
    INTAKE_SUITE,
    MAX_QUARANTINED_SHARE,
    QUARANTINED_SHARE,
    UNACCOUNTED_ROWS,
    UNKNOWN_ITEM_SHARE,
    import_gx,
    intake_suite,
    table_suite,
)
from pipelines.workspace import Workspace, write_bytes_atomically, write_json_atomically


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One expectation and what was found."""

    table: str
    expectation: str
    arguments: str
    observed: str
    success: bool
    critical: bool

    def __str__(self) -> str:
        return f"{self.table}: {self.expectation}({self.arguments}); observed {self.observed}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows of an intake.

    Args:
        company: Name of the company.
        ledgers: Where the rows of every source table went.
        findings: Expectations and what was found.
        conflicts: Rows of the same key with different content.
        alarms: What is unlike the intakes before.
    """

    company: str
    ledgers: Sequence[Ledger]
    findings: Sequence[Finding]
    conflicts: Sequence[str] = ()
    alarms: Sequence[Alarm] = ()


def validate(gated: Sequence[Gated], ledgers: Sequence[Ledger]) -> list[Finding]:
    """Validate accepted rows on Spark and the ledgers of all source tables."""
    gx = import_gx()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    spark_source = context.data_sources.add_spark("lake", persist=False)
    findings: list[Finding] = []
    for one in gated:
        asset = spark_source.add_dataframe_asset(one.contract.name)
        findings += _run(asset, one.accepted, table_suite(one.contract))
    counts = context.data_sources.add_pandas("counts").add_dataframe_asset(INTAKE_SUITE)
    return findings + _run(counts, _ledger_frame(ledgers), intake_suite())


def _run(asset: Any, frame: DataFrame | pd.DataFrame, suite: Any) -> list[Finding]:
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    found = batch.validate(suite, result_format="BOOLEAN_ONLY")
    if not found.success:  # examples cost a pass over the rows for each expectation
        found = batch.validate(suite, result_format="BASIC")
    results = found.to_json_dict()["results"]
    return [_finding(suite.name, result) for result in results]


def _finding(table: str, result: dict[str, Any]) -> Finding:
    config, found = result["expectation_config"], result["result"]
    kwargs = {k: v for k, v in config["kwargs"].items() if k != "batch_id" and v is not None}
    observed = found.get("observed_value", "as expected" if result["success"] else None)
    if observed is None and "unexpected_count" in found:
        broken, rows = found["unexpected_count"] or 0, found["element_count"] or 0
        observed = f"{broken:,} of {rows:,} rows break it"
        if broken:
            observed += f", like {found['partial_unexpected_list'][:3]}"
    if result["exception_info"].get("exception_message"):
        observed = result["exception_info"]["exception_message"]
    return Finding(
        table=table,
        expectation=config["type"],
        arguments=", ".join(f"{name}={value!r}" for name, value in kwargs.items()),
        observed=str(observed),
        success=result["success"],
        critical=config.get("severity", "critical") == "critical",
    )


def _ledger_frame(ledgers: Sequence[Ledger]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                INPUT_ROWS: one.input_rows,
                UNACCOUNTED_ROWS: one.unaccounted,
                CONFLICTING_KEYS: one.conflicting_keys,
                QUARANTINED_SHARE: one.quarantined_share,
                MAX_QUARANTINED_SHARE: one.max_quarantined_share,
                UNKNOWN_ITEM_SHARE: one.unknown_items / max(one.accepted, 1),
            }
            for one in ledgers
        ],
        index=[one.table for one in ledgers],
    )


def report_path(workspace: Workspace) -> Path:
    """The page that shows the last intake."""
    return workspace.data_quality / "index.html"


def write_report(workspace: Workspace, report: Report) -> Path:
    """Write the page and the same counts as JSON beside it; gives the path of the page."""
    path = report_path(workspace)
    write_bytes_atomically(path, _PAGE.render(vars(report)).encode())
    write_json_atomically(path.with_name("counts.json"), _as_json(report))
    return path


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "company": report.company,
        "tables": [vars(one) for one in report.ledgers],
        "expectations": [vars(one) for one in report.findings],
        "alarms": [vars(one) for one in report.alarms],
    }


_PAGE: Final = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Data quality: {{ company }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.failed { background: #fde2e1 } .warning { background: #fff4d6 } code { font-size: 90% }
</style></head><body>
<h1>Data quality: {{ company }}</h1>
<h2>Rows</h2>
<table><tr><th>Source table</th><th>Into</th><th>Rows in</th><th>Accepted</th><th>Quarantined</th>
<th>Duplicates</th><th>Expired</th><th>Items unknown to the catalogue</th><th>Broken rules</th></tr>
{% for row in ledgers %}<tr><td>{{ row.table }}</td><td>{{ row.into }}</td>
{% for value in (row.input_rows, row.accepted, row.quarantined, row.duplicates,
                 row.expired, row.unknown_items) %}
<td class="number">{{ "{:,}".format(value) }}</td>{% endfor %}
<td>{% for rule, count in row.rules | dictsort %}<code>{{ rule }}</code> {{ "{:,}".format(count) }}
{% endfor %}</td></tr>
{% endfor %}</table>
{% if alarms %}<h2>Unlike the intakes before</h2>
<table><tr><th>Field</th><th>Kind</th><th>Seen</th><th>Usual</th><th>Likely cause</th>
<th>Example</th></tr>
{% for one in alarms %}<tr class="warning"><td>{{ one.table }}.{{ one.field }}</td>
<td>{{ one.kind }}</td><td>{{ one.seen }}</td><td>{{ one.usual }}</td><td>{{ one.cause }}</td>
<td><code>{{ one.example }}</code></td></tr>
{% endfor %}</table>{% endif %}
<h2>Expectations</h2>
<table><tr><th>Table</th><th>Expectation</th><th>Observed</th><th>Result</th></tr>
{% for one in findings %}
<tr class="{{ '' if one.success else ('failed' if one.critical else 'warning') }}">
<td>{{ one.table }}</td><td><code>{{ one.expectation }}({{ one.arguments }})</code></td>
<td>{{ one.observed }}</td>
<td>{{ 'met' if one.success else ('failed' if one.critical else 'warning') }}</td></tr>
{% endfor %}</table>
{% if conflicts %}<h2>Same key, different content</h2>
{% for row in conflicts %}<pre>{{ row }}</pre>{% endfor %}{% endif %}
</body></html>
"""
)
