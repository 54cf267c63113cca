"""The grid of the scaling study: who is held out, what each training sees, what is said of it."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from behavior_model.benchmark import runs, scaling_law
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.scaling import (
    SHARES,
    ScalingOptions,
    run,
    scaling_jobs,
    split_users,
)
from behavior_model.benchmark.scaling_law import ScalingLaw, fit_scaling_law
from behavior_model.benchmark.scaling_study import (
    ScalingRow,
    ScalingStudy,
    law_table,
    runs_of,
    runs_table,
    study_of,
)
from behavior_model.benchmark.sequences import encode
from behavior_model.benchmark.training import BenchmarkJob
from behavior_model.benchmark.validation import Validation
from pipelines.errors import UnknownNameError, UserError
from tests.ring_shop import LENGTH, NUM_ITEMS, NUM_USERS, write_shop

LAW = ScalingLaw(
    irreducible=2.0,
    parameter_scale=40.0,
    parameter_exponent=0.3,
    data_scale=30.0,
    data_exponent=0.4,
)


@pytest.fixture
def options(tmp_path: Path) -> ScalingOptions:
    interactions, items = write_shop(tmp_path)
    return ScalingOptions(interactions=interactions, items=items, out=tmp_path / "out")


@pytest.fixture
def full(options: ScalingOptions) -> Interactions:
    return read_interactions(options.interactions, options.items)


def test_held_out_users_are_in_no_share_and_shares_hold_the_smaller_ones(
    full: Interactions,
) -> None:
    held_out, by_share = split_users(full)
    assert len(held_out) == NUM_USERS // 10
    assert set(held_out) | set(by_share[1.0]) == set(range(NUM_USERS))
    for smaller, larger in pairwise(SHARES):
        assert set(by_share[smaller]) < set(by_share[larger])
        assert not set(by_share[larger]) & set(held_out)


def test_trainings_see_their_share_and_are_asked_about_the_held_out_users(
    options: ScalingOptions, full: Interactions
) -> None:
    jobs = scaling_jobs(options, full)
    assert len(jobs) == len(SHARES) * len(options.sizes)
    assert jobs[0][:2] == ("1.6M", 1.0)
    assert len({job.run_key for _, _, job in jobs}) == len(jobs)
    held_out, by_share = split_users(full)
    for _, share, job in jobs:
        history, asked = job.history(), job.asked_about()
        assert history.user_ids.to_pylist() == by_share[share].tolist()
        assert asked.user_ids.to_pylist() == held_out.tolist()
        assert history.num_events == len(by_share[share]) * (LENGTH - 2)
        assert history.num_items == asked.num_items == NUM_ITEMS
        assert history.texts == full.texts
        assert job.recipe.training.batch_tokens == jobs[0][2].recipe.training.batch_tokens
    again = scaling_jobs(options, full)
    assert [job.run_key for *_, job in again] == [job.run_key for *_, job in jobs]


def test_users_asked_about_have_the_items_of_the_training(
    options: ScalingOptions, full: Interactions
) -> None:
    *_, job = scaling_jobs(options, full)[0]
    encoded = encode(job.history())
    asked = encoded.encode(job.asked_about())
    names = [asked.vocabulary.items[i - encoded.item_idx.min()] for i in asked.item_idx]
    assert names == full.item_ids.to_pylist()
    assert asked.histories.user_ids == [str(u) for u in job.asked_about().user_ids.to_pylist()]


def row(num_parameters: int, num_events: int) -> ScalingRow:
    return ScalingRow(
        size="0.1M",
        num_parameters=num_parameters,
        share=1.0,
        num_events=num_events,
        nats=float(LAW.loss(num_parameters, num_events)),
        ndcg=0.1,
        seconds=1.0,
    )


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_law, "NUM_RESAMPLES", 10)


@pytest.mark.usefixtures("few_draws")
def test_a_study_predicts_beyond_its_largest_run() -> None:
    study = study_of([row(n, d) for n in (10**5, 10**6, 10**7) for d in (10**4, 10**5, 10**6)])
    predicted = study.predictions()
    assert predicted["the largest run"][0] == pytest.approx(float(LAW.loss(10**7, 10**6)), rel=1e-3)
    assert predicted["100 times both"][0] == pytest.approx(float(LAW.loss(10**9, 10**8)), rel=0.02)
    names = [line[0] for line in law_table(study).rows]
    assert names[:2] == ["irreducible", "parameter scale"]
    assert names[-1] == "nats at 100 times both"


def fitted(rows: list[ScalingRow]) -> ScalingStudy:
    return ScalingStudy(rows=rows, law=fit_scaling_law(runs_of(rows)), resampled=())


def test_what_the_runs_do_not_say_is_said() -> None:
    grid = [(n, d) for n in (10**5, 10**6, 10**7) for d in (10**4, 10**5, 10**6)]
    assert fitted([row(n, d) for n, d in grid]).doubts() == []
    line = [replace(row(n, d), nats=12.0 - 0.3 * float(np.log(d))) for n, d in grid]
    doubts = " ".join(fitted(line).doubts())
    assert "more parameters would buy is not identified" in doubts
    assert "more data" not in doubts
    assert "irreducible loss is not identified" in doubts


@pytest.mark.usefixtures("few_draws")
def test_the_whole_study_on_pretended_losses(
    options: ScalingOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(jobs: list[BenchmarkJob], say: object) -> None:
        for job in jobs:
            width = job.recipe.model.width
            nats = LAW.loss(float(12 * width**2), float(job.history().num_events))
            values = np.full(3, float(nats))
            Validation(ndcg=values, recall=values, nats=values, seconds=2.0).save(job)

    monkeypatch.setattr(runs, "_run_side_by_side", pretend)
    monkeypatch.setattr(runs, "_read_texts", lambda one: None)
    study = run(options, lambda line: None)
    assert len(study.rows) == len(runs_table(study, options.epochs).rows) == 12
    parameters = [one.num_parameters for one in study.rows]
    assert parameters == sorted(parameters)
    written = {path.name for path in options.out.iterdir()}
    assert {"scaling.json", "scaling.html", "scaling.svg"} <= written


def test_what_gives_no_law_is_refused(options: ScalingOptions) -> None:
    with pytest.raises(UserError, match=r"--sizes 0\.4M,tiny,0\.402048M: a law needs 2 sizes"):
        run(replace(options, sizes=("0.4M", "tiny", "0.402048M")), lambda line: None)
    with pytest.raises(UserError, match="--epochs 0: give 1"):
        run(replace(options, epochs=0), lambda line: None)
    with pytest.raises(UnknownNameError, match="Unknown size 'huge'"):
        run(replace(options, sizes=("tiny", "huge")), lambda line: None)
