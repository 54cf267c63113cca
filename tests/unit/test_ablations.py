"""Variants of the benchmark's recipe, how they are judged, and that nothing is run twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from behavior_model.benchmark import runs
from behavior_model.benchmark.ablations import (
    AblationOptions,
    ablation_rows,
    ablation_table,
    run,
    variant_jobs,
)
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.recipe import benchmark_recipe
from behavior_model.benchmark.shop import Outputs
from behavior_model.benchmark.split import BeforeLast
from behavior_model.benchmark.training import BenchmarkJob
from behavior_model.benchmark.validation import Validation, require_validation, validate
from behavior_model.benchmark.variants import FULL, VARIANTS
from pipelines.errors import SourceError, UnknownNameError, UserError
from tests.ring_shop import LENGTH, NUM_ITEMS, NUM_USERS, write_shop


@pytest.fixture
def options(tmp_path: Path) -> AblationOptions:
    interactions, items = write_shop(tmp_path)
    return AblationOptions(interactions=interactions, items=items, out=tmp_path / "out")


def job(options: AblationOptions) -> BenchmarkJob:
    history = read_interactions(options.interactions)
    return BenchmarkJob(
        interactions=options.interactions,
        items=options.items,
        cutoff=BeforeLast(2),
        folder=options.out,
        text_cache=options.out,
        recipe=benchmark_recipe("tiny", history, budget_minutes=30, bfloat16=True),
        seed=0,
    )


def judged(ndcg: list[float], seconds: float = 1.0) -> Validation:
    values = np.asarray(ndcg)
    return Validation(ndcg=values, recall=values, nats=values, seconds=seconds)


def test_every_variant_says_what_it_changes_and_changes_something(
    options: AblationOptions,
) -> None:
    full = job(options)
    changed = [variant(full) for variant in VARIANTS.values()]
    assert changed[0] == full
    assert len({one.run_key for one in changed}) == len(VARIANTS)
    assert all(variant.__doc__ for variant in VARIANTS.values())


def test_a_variant_that_is_the_full_recipe_is_left_out_and_named(
    options: AblationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("behavior_model.benchmark.runs.multiplies_bfloat16", lambda: False)
    said: list[str] = []
    jobs = variant_jobs(replace(options, items=None, num_seeds=3), said.append)
    assert set(VARIANTS) - set(jobs) == {"float32", "no item texts"}
    assert any("'float32' left out" in line for line in said)
    folders = [one.folder for seeds in jobs.values() for one in seeds]
    assert len(set(folders)) == 3 * len(jobs)
    assert [one.seed for one in jobs[FULL]] == [0, 1, 2]


def test_differences_are_paired_by_seed_and_by_user() -> None:
    full = [judged([0.1, 0.3]), judged([0.5, 0.7])]
    better = [judged([0.2, 0.4]), judged([0.6, 0.8], seconds=3.0)]
    rows = ablation_rows({FULL: full, "1 layer": better})
    assert rows[0].difference == 0.0
    assert rows[1].ndcg == pytest.approx(0.5)
    assert rows[1].ndcg_std == pytest.approx(np.std([0.3, 0.7], ddof=1))
    assert rows[1].difference == pytest.approx(0.1)
    assert rows[1].difference_std == pytest.approx(0.0, abs=1e-12)
    assert rows[1].interval == pytest.approx((0.1, 0.1))
    assert rows[1].seconds == 2.0


def test_the_full_recipe_has_no_difference_to_itself(options: AblationOptions) -> None:
    rows = ablation_rows({FULL: [judged([0.1]), judged([0.2])]})
    assert ablation_table(options, rows).rows[0][3:6] == ("", "", "")


def test_the_validation_item_is_judged_and_the_test_item_is_not(options: AblationOptions) -> None:
    full = read_interactions(options.interactions)
    one_hot = np.eye(NUM_ITEMS, dtype=np.float32) * 50
    truth = full.last(1)
    outputs = Outputs(queries=one_hot[truth], items=one_hot / 50, events_per_second=0.0)
    found = validate(full, outputs, seconds=1.0)
    assert found.ndcg.tolist() == [1.0] * NUM_USERS
    assert found.nats == pytest.approx(np.zeros(NUM_USERS), abs=1e-6)
    even = replace(outputs, queries=np.zeros_like(outputs.queries))
    assert validate(full, even, seconds=1.0).nats == pytest.approx(np.log(NUM_ITEMS))


def test_histories_that_leave_nothing_to_train_on_are_refused(options: AblationOptions) -> None:
    full = read_interactions(options.interactions)
    require_validation(full.without_last(LENGTH - 4), options.interactions)
    with pytest.raises(SourceError, match="no user has 4 interactions; the longest history has 3"):
        require_validation(full.without_last(LENGTH - 3), options.interactions)


def test_figures_belong_to_one_job_alone(options: AblationOptions) -> None:
    one = job(options)
    assert Validation.load(one) is None
    judged([0.25, 0.5], seconds=7.5).save(one)
    loaded = Validation.load(one)
    assert loaded is not None
    assert (loaded.ndcg.tolist(), loaded.seconds) == ([0.25, 0.5], 7.5)
    assert Validation.load(replace(one, seed=1)) is None
    assert Validation.load(replace(one, with_texts=False)) is None


def test_what_is_done_is_not_run_again(
    options: AblationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def pretend(jobs: list[BenchmarkJob], say: object) -> None:
        for one in jobs:
            started.append(one.folder.name)
            judged([0.1 * len(started), 0.2]).save(one)

    monkeypatch.setattr(runs, "_run_side_by_side", pretend)
    monkeypatch.setattr(runs, "_read_texts", lambda one: None)
    rows = run(options, lambda line: None)
    assert len(started) == len(set(started)) == 3 * len(rows)
    assert run(options, lambda line: None) == rows
    assert len(started) == 3 * len(rows)
    run(replace(options, num_seeds=4), lambda line: None)
    assert len(started) == 4 * len(rows)
    assert (options.out / "ablations.html").read_text().startswith("<!doctype html>")


def test_chosen_variants_stand_beside_the_full_recipe(options: AblationOptions) -> None:
    jobs = variant_jobs(replace(options, variants=("1 layer",)), lambda line: None)
    assert list(jobs) == [FULL, "1 layer"]
    with pytest.raises(UnknownNameError, match=r"Unknown variant '2 layers'.*'1 layer'"):
        run(replace(options, variants=("2 layers",)), lambda line: None)


def test_too_little_is_refused(options: AblationOptions) -> None:
    with pytest.raises(UserError, match="--num-seeds 1: a spread needs 2"):
        run(replace(options, num_seeds=1), lambda line: None)
    with pytest.raises(UserError, match="--epochs 0: give 1"):
        run(replace(options, epochs=0), lambda line: None)
