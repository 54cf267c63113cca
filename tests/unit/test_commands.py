"""`bfm --help` works at once, and on a machine that lacks the engines."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serving.cli.console import out, print_table

HEAVY = {"torch", "ray", "pyspark", "feast", "fastapi", "great_expectations", "pyarrow", "pandas"}


def test_no_engine_is_loaded_before_a_command_runs() -> None:
    code = f"import sys, serving.cli.main; print(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []


def test_values_that_look_like_markup_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out.print("warning: events.category: '[/promo]' [red] :100:")
    print_table("a [b]", ["[/b]"], [["[red]x[/b]"]])
    said = capsys.readouterr().out
    assert "'[/promo]' [red] :100:" in said
    assert "a [b]" in said
    assert "[red]x[/b]" in said
