"""`bfm bench transfer` and `bfm bench cold-items` as a person calls them."""

import json
from pathlib import Path
from typing import Any

import pytest

from behavior_model.evaluation.results import Result, read_evaluation
from tests.integration.test_bench import bfm
from tests.ring_shop import NUM_ITEMS, NUM_USERS, write_shop

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def shop_at(folder: Path) -> tuple[Path, Path]:
    folder.mkdir()
    return write_shop(folder)


def by_split(out: Path, metric: str) -> dict[str, Result]:
    content: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    assert content["schema_version"] == 1
    assert (out / "evaluation.html").read_text().startswith("<!doctype html>")
    results = read_evaluation(out / "evaluation.json")
    return {result.split: result for result in results if result.metric == metric}


def test_a_core_answers_in_another_shop_with_adapters_and_without(tmp_path: Path) -> None:
    source, source_items = shop_at(tmp_path / "source")
    interactions, items = shop_at(tmp_path / "target")
    out = tmp_path / "out"
    done = bfm(
        "bench", "transfer", "--source", source, "--source-items", source_items,
        "--interactions", interactions, "--items", items, "--out", out,
        "--shares", "0,0.1,1", "--budget-minutes", "0.3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Transfer, full ranking: core from 80 users" in done.stdout
    found = by_split(out, "ndcg@10")
    assert list(found) == ["source", "test/0", "test/0.1", "test/1"]
    assert {result.task for result in found.values()} == {"transfer"}
    assert {(one.num_users, one.num_items) for one in found.values()} == {(NUM_USERS, NUM_ITEMS)}
    assert set(found["test/0"].baselines) == {"content"}
    assert set(found["test/1"].baselines) == {"from scratch", "content", "popularity"}
    assert found["test/0"].model > found["test/1"].baselines["popularity"]
    core = (out / "core.safetensors").stat().st_size
    for share in ("0.1", "1"):
        assert (out / f"adapters-{share}.safetensors").stat().st_size < core / 2


def test_items_that_training_never_saw_are_found(tmp_path: Path) -> None:
    interactions, items = shop_at(tmp_path / "shop")
    out = tmp_path / "out"
    done = bfm(
        "bench", "cold-items", "--interactions", interactions, "--items", items,
        "--out", out, "--held-out", "0.25", "--budget-minutes", "0.3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Recall@10 of cold items to that of warm ones" in done.stdout
    found = by_split(out, "recall@10")
    histories = {f"test/history of {num}" for num in (1, 2, 5)}
    assert set(found) == {"test/all", "test/cold", "test/warm", *histories}
    assert found["test/cold"].num_users + found["test/warm"].num_users == NUM_USERS
    assert set(found["test/cold"].baselines) == {"content", "popularity", "random"}
    assert set(found["test/cold"].parts) == {"as trained", "placed by neighbours"}
    assert found["test/cold"].model > found["test/cold"].baselines["popularity"]
    assert "test/cold to warm" in by_split(out, "recall@10 cold / warm")


def test_shares_that_are_no_numbers_are_the_users_to_mend(tmp_path: Path) -> None:
    interactions, items = shop_at(tmp_path / "shop")
    done = bfm(
        "bench", "transfer", "--source", interactions, "--source-items", items,
        "--interactions", interactions, "--items", items, "--out", tmp_path,
        "--shares", "0,half",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--shares '0,half'" in done.stderr
