"""`bfm bench leave-one-out` and `bfm bench time-split` as a person calls them."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.ring_shop import LENGTH, NUM_ITEMS, NUM_USERS, write_shop

pytestmark = [pytest.mark.slow, pytest.mark.integration]


def bfm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=500
    )


def test_predictions_and_figures_for_every_user(tmp_path: Path) -> None:
    interactions, items = write_shop(tmp_path)
    out = tmp_path / "out"
    done = bfm(
        "bench", "leave-one-out", "--interactions", interactions, "--items", items,
        "--out", out, "--budget-minutes", "0.2", "--baseline-minutes", "0.05",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predictions = pq.read_table(out / "predictions.parquet").to_pandas()
    assert list(predictions.columns) == ["user_id", "item_id", "rank"]
    assert predictions.user_id.nunique() == NUM_USERS
    ranks = predictions.groupby("user_id")["rank"].apply(list)
    assert (ranks.map(lambda one: one == list(range(1, 21)))).all()
    free = NUM_ITEMS - (LENGTH - 1)  # what a user took stands behind all else
    known = pq.read_table(interactions).to_pandas().query("position < @LENGTH - 1")
    taken = predictions.merge(known, on=["user_id", "item_id"])
    assert len(taken) == NUM_USERS * (20 - free)
    assert (taken["rank"] > free).all()
    assert not predictions.duplicated(["user_id", "item_id"]).any()

    content = json.loads((out / "evaluation.json").read_text())
    assert content["schema_version"] == 1
    by_metric = {result["metric"]: result for result in content["results"]}
    assert set(by_metric) == {f"{m}@{k}" for m in ("ndcg", "recall") for k in (5, 10, 20)}
    result = by_metric["ndcg@10"]
    assert {"popularity", "item_knn", "als", "ease", "transition_graph"} <= set(result["baselines"])
    assert {"gru4rec", "sasrec"} <= set(result["baselines"])
    assert result["model"] > 2 * result["baselines"]["popularity"]
    assert "transformer/log_share" in result["parts"]
    table = pq.read_table(interactions).to_pandas()
    truth = table[table.position == LENGTH - 1].set_index("user_id").item_id
    hits = predictions[predictions["rank"] <= 10]
    hits = hits[hits.item_id == hits.user_id.map(truth)]
    assert len(hits) / NUM_USERS == pytest.approx(by_metric["recall@10"]["model"])
    assert (out / "evaluation.html").read_text().startswith("<!doctype html>")


def test_a_time_split_judges_users_on_both_sides_of_the_cut(tmp_path: Path) -> None:
    interactions, items = write_shop(tmp_path, with_times=True)
    out = tmp_path / "out"
    done = bfm(
        "bench", "time-split", "--interactions", interactions, "--items", items, "--out", out,
        "--test-share", "0.2", "--budget-minutes", "0.1", "--no-baselines",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "evaluation.json").read_text())["results"]
    (result,) = [one for one in results if one["metric"] == "recall@10"]
    assert result["task"] == "time-split"
    page = (out / "evaluation.html").read_text()
    assert "not run" in page
    assert "nan" not in page.split('<div class="plots">')[0]
    cut = int(result["cut"])
    table = pq.read_table(interactions).to_pandas().sort_values("event_time")
    future = table[table.event_time >= cut].groupby("user_id").item_id.first()
    known = table[table.event_time < cut].user_id
    truth = future[future.index.isin(known)]
    assert 0 < len(truth) < NUM_USERS
    assert f"test: {len(truth)} users judged; left out: " in done.stdout
    assert result["num_users"] == len(truth)
    predictions = pq.read_table(out / "predictions.parquet").to_pandas()
    assert set(predictions.user_id) == set(truth.index)
    hits = predictions[predictions["rank"] <= 10]
    hits = hits[hits.item_id == hits.user_id.map(truth)]
    assert len(hits) / len(truth) == pytest.approx(result["model"])
    assert result["model"] > 0.9


def test_a_time_split_of_a_file_without_times_is_the_users_to_mend(tmp_path: Path) -> None:
    interactions, _ = write_shop(tmp_path)
    done = bfm("bench", "time-split", "--interactions", interactions, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "no 'event_time', only 'position'" in done.stderr
    assert "bfm bench leave-one-out" in done.stderr


def test_a_missing_file_is_the_users_to_mend(tmp_path: Path) -> None:
    done = bfm(
        "bench", "leave-one-out", "--interactions", tmp_path / "none.parquet", "--out", tmp_path
    )
    assert done.returncode == 2
    assert "none.parquet: no such file" in done.stderr
    assert not (tmp_path / "predictions.parquet").exists()
