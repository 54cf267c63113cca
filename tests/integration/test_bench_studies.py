"""`bfm bench ablations` and `bfm bench scaling` as a person calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from behavior_model.benchmark.variants import VARIANTS
from tests.ring_shop import write_shop

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def study(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "serving.cli.main", "bench", name,
        "--interactions", str(folder / "interactions.parquet"),
        "--items", str(folder / "items.parquet"), "--out", str(folder / name), *arguments,
    ]  # fmt: skip
    return subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=500
    )


def test_ablations_are_printed_written_and_not_run_twice(tmp_path: Path) -> None:
    write_shop(tmp_path)
    done = study("ablations", tmp_path, "--num-seeds", "2", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "ablations" / "ablations.json").read_text())
    found = {one["variant"]: one for one in figures["variants"]}
    left_out = set(VARIANTS) - set(found)
    assert "dropout .2" in left_out, "two passes drop out a fifth as they are"
    assert left_out <= {"dropout .2", "float32"}
    assert all(f"variant '{name}' left out" in done.stdout for name in left_out)
    assert found["full recipe"]["difference"] == 0.0
    assert all(name in done.stdout for name in found)
    assert not list((tmp_path / "ablations").rglob("outputs.safetensors"))

    again = study("ablations", tmp_path, "--num-seeds", "2", "--epochs", "2")
    assert f"{2 * len(found)} trainings, {2 * len(found)} of them done earlier" in again.stdout
    assert json.loads((tmp_path / "ablations" / "ablations.json").read_text()) == figures


def test_scaling_prints_runs_and_law(tmp_path: Path) -> None:
    write_shop(tmp_path)
    done = study("scaling", tmp_path, "--sizes", "0.1M,0.2M", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "scaling" / "scaling.json").read_text())
    assert len(figures["runs"]) == 8
    assert all(0 < run["nats"] < 10 for run in figures["runs"])
    assert set(figures["law"]) >= {"irreducible", "parameter_exponent", "data_exponent"}
    assert "nats at 100 times both" in done.stdout
    assert (tmp_path / "scaling" / "scaling.svg").stat().st_size > 1_000


def test_a_size_off_the_dial_is_the_users_to_mend(tmp_path: Path) -> None:
    write_shop(tmp_path)
    done = study("scaling", tmp_path, "--sizes", "0.1M,900M")
    assert done.returncode == 2
    assert "--size 900M: the dial goes from" in done.stderr
