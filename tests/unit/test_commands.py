"""`bfm --help` works at once, and on a machine that lacks the engines."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"torch", "ray", "pyspark", "feast", "fastapi", "great_expectations", "pyarrow", "pandas"}


def test_no_engine_is_loaded_before_a_command_runs() -> None:
    code = f"import sys, serving.cli.main; print(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []
