"""`bfm --help` works at once, and on a machine that lacks the engines."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from serving.cli.console import guarded, out, print_table

HEAVY = {"torch", "ray", "pyspark", "feast", "fastapi", "great_expectations", "pyarrow", "pandas"}


def test_no_engine_is_loaded_before_a_command_runs() -> None:
    code = f"import sys, serving.cli.main; print(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []


def test_a_process_that_outlives_its_signal_says_that_it_was_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    really_raise = signal.raise_signal

    def in_a_container(number: int) -> None:
        """The kernel keeps its own way of ending from the first process."""
        if signal.getsignal(number) is not signal.SIG_DFL:
            really_raise(number)

    monkeypatch.setattr(signal, "raise_signal", in_a_container)
    try:
        assert guarded(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_values_that_look_like_markup_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out.print("warning: events.category: '[/promo]' [red] :100:")
    print_table("a [b]", ["[/b]"], [["[red]x[/b]"]])
    said = capsys.readouterr().out
    assert "'[/promo]' [red] :100:" in said
    assert "a [b]" in said
    assert "[red]x[/b]" in said
