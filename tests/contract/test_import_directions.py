"""Imports go one way, and the light floor carries no engine."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENGINES = {"pyspark", "delta", "torch", "ray", "feast", "fastapi", "great_expectations", "mlflow"}
FLOOR = (
    "pipelines.contracts",
    "pipelines.errors",
    "pipelines.workspace",
    "pipelines.company",
    "pipelines.lake",
    "pipelines.simulation.run",
    "pipelines.tokens.encoder",
    "pipelines.tokens.history",
    "pipelines.tokens.vocabulary",
)
SHELF_DEFINITIONS_MAY_IMPORT = {"feast", "feature_store", "pipelines"}


def lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: it silences every logger of the one that it runs in."""
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--no-logo", "--no-cache", *options]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_directions_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_direction_is_seen(tmp_path: Path) -> None:
    for package in ("upper_room", "lower_room"):
        (tmp_path / package).mkdir()
    (tmp_path / "upper_room" / "__init__.py").write_text("")
    (tmp_path / "lower_room" / "__init__.py").write_text("import upper_room")
    (tmp_path / "directions.toml").write_text(
        "[tool.importlinter]\n"
        'root_packages = ["upper_room", "lower_room"]\n'
        "[[tool.importlinter.contracts]]\n"
        'name = "one way"\n'
        'type = "layers"\n'
        'layers = ["upper_room", "lower_room"]\n'
    )
    done = lint_imports(tmp_path, "--config", "directions.toml")
    assert done.returncode == 1
    assert "one way BROKEN" in done.stdout


def test_light_floor_loads_no_engine() -> None:
    program = f"import {', '.join(FLOOR)}, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "pipelines.tokens.encoder" in loaded
    assert not ENGINES & set(loaded)


def test_shelf_definitions_import_feast_alone() -> None:
    files = sorted((ROOT / "feature_store" / "repo").rglob("*.py"))
    assert any(file.name == "definitions.py" for file in files)
    for file in files:
        foreign = _imported_packages(file) - sys.stdlib_module_names - SHELF_DEFINITIONS_MAY_IMPORT
        assert not foreign, f"{file} imports {foreign}"


def _imported_packages(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
