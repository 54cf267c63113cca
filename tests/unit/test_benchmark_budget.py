"""How a benchmark run divides its wall time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from behavior_model.benchmark import full_ranking
from behavior_model.benchmark.answers import Options
from behavior_model.benchmark.baselines.task import LeaveOneOutTask
from behavior_model.benchmark.budget import (
    MAX_LEARNED_PAIRS,
    MAX_LEARNED_USERS,
    MAX_MEMBERS,
    MIN_LEARNED_USERS,
    Deadline,
    UserCost,
    plan,
)
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.memories import HistoryMemories
from behavior_model.benchmark.recipe import EPOCHS
from behavior_model.benchmark.split import leave_one_out
from behavior_model.benchmark.training import BenchmarkJob
from tests.ring_shop import ring_recipe, write_shop

CHEAP = UserCost(listing_s=1e-4, learning_s=1e-3, num_pairs=100)
DEAR = UserCost(listing_s=5e-3, learning_s=5e-2, num_pairs=100)


def seconds(seconds_left: float, epoch_s: float, cost: UserCost, users: int, seeds: int) -> float:
    """What a plan takes, by its own reckoning."""
    found = plan(seconds_left, epoch_s, cost, users, seeds)
    training = found.epochs * found.share * found.num_members * epoch_s * 1.3
    learning = min(found.num_learned, users) * cost.learning_s
    return seeds * (training + learning + users * cost.listing_s)


@pytest.mark.parametrize("cost", [CHEAP, DEAR])
@pytest.mark.parametrize("num_seeds", [1, 3])
@pytest.mark.parametrize("epoch_s", [0.5, 10.0, 60.0, 5_000.0])
def test_a_plan_keeps_to_its_time(cost: UserCost, num_seeds: int, epoch_s: float) -> None:
    assert seconds(1_800.0, epoch_s, cost, 20_000, num_seeds) <= 1_800.0


def test_more_time_buys_epochs_first_and_members_then() -> None:
    plans = [plan(left, 10.0, CHEAP, 20_000, 1) for left in (1.0, 300.0, 900.0, 1_800.0, 1e6)]
    assert [one.epochs for one in plans] == sorted(one.epochs for one in plans)
    assert (plans[0].epochs, plans[0].num_members) == (1, 1)
    assert (plans[2].epochs, plans[2].num_members) == (EPOCHS, 1)
    assert (plans[3].epochs, plans[3].num_members) == (EPOCHS, 3)
    assert plans[4].num_members == MAX_MEMBERS


def test_dear_users_leave_fewer_to_learn_from() -> None:
    assert plan(1_800.0, 10.0, CHEAP, 200_000, 1).num_learned == MAX_LEARNED_USERS
    assert plan(1_800.0, 10.0, DEAR, 200_000, 1).num_learned == 9_000
    assert plan(60.0, 10.0, DEAR, 200_000, 1).num_learned == MIN_LEARNED_USERS
    many = replace(CHEAP, num_pairs=500)
    assert plan(1_800.0, 10.0, many, 200_000, 1).num_learned == MAX_LEARNED_PAIRS // 500


def test_where_a_whole_pass_takes_too_long_a_part_of_one_is_read() -> None:
    found = plan(600.0, 4_000.0, CHEAP, 1_000, 1)
    assert found.epochs == 1
    assert 0.08 < found.share < 0.12
    assert "of an epoch" in str(found)
    assert plan(1_800.0, 10.0, CHEAP, 1_000, 1).share == 1


def test_nothing_to_train_takes_no_time() -> None:
    assert plan(60.0, 0.0, CHEAP, 100, 1).epochs == EPOCHS


def test_the_cost_of_a_user_is_measured_on_a_few() -> None:
    rng = np.random.default_rng(0)
    history = Interactions(
        user_ids=pa.array(range(500)),
        item_ids=pa.array(range(300)),
        texts=[""] * 300,
        offsets=np.arange(501) * 6,
        items=rng.integers(0, 300, 3_000),
    )
    task = LeaveOneOutTask(history=history)
    cost = UserCost.measured(task, HistoryMemories.fit(history, None, None), width=16)
    assert 0 < cost.listing_s < cost.learning_s < 1


def test_a_deadline_that_passed_leaves_nothing() -> None:
    assert Deadline.after(-1.0).left_s == 0
    assert 50 < Deadline.after(1.0).left_s <= 60


def test_quick_baselines_stand_beside_the_model_when_the_time_is_over(tmp_path: Path) -> None:
    interactions, _ = write_shop(tmp_path)
    fold = leave_one_out(read_interactions(interactions)).test
    options = Options(interactions=interactions, items=None, out=tmp_path, split=leave_one_out)
    said: list[str] = []
    task = LeaveOneOutTask(history=fold.history)
    found = full_ranking._baselines(options, task, Deadline.after(-1.0), said.append)
    quick = {"popularity", "popularity_recent", "item_knn", "als", "ease", "transition_graph"}
    assert found.keys() == quick
    assert any("sasrec left out: --budget-minutes are over" in line for line in said)


def test_the_model_has_its_share_whatever_reading_and_baselines_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_ranking, "seconds_per_epoch", lambda job: 10.0)
    interactions, _ = write_shop(tmp_path)
    full = read_interactions(interactions)
    fold = leave_one_out(full).test
    job = BenchmarkJob(
        interactions=interactions,
        items=None,
        cutoff=fold.cutoff,
        folder=tmp_path,
        text_cache=tmp_path / "texts",
        recipe=ring_recipe(full),
        seed=0,
    )
    test = full_ranking.Question(
        fold=fold,
        task=LeaveOneOutTask(history=fold.history),
        memories=HistoryMemories.fit(fold.history, None, None),
    )

    said: list[str] = []

    def epochs(
        *, with_baselines: bool = True, baseline_minutes: float | None = None, minutes: float = 2.0
    ) -> int:
        options = Options(
            interactions=interactions,
            items=None,
            out=tmp_path,
            split=leave_one_out,
            budget_minutes=2.0,
            with_baselines=with_baselines,
            baseline_minutes=baseline_minutes,
        )
        deadline = Deadline.after(minutes)
        plan = full_ranking._within_budget(options, job, test, deadline, said.append)[1]
        assert 0 < plan.share <= 1
        return plan.epochs

    assert epochs(baseline_minutes=1.0) == epochs(with_baselines=False)
    assert epochs(baseline_minutes=1.0) > epochs()
    assert not any("Give more minutes" in line for line in said)
    assert epochs(minutes=-1.0) == 1
    assert any("leave 0 s of --budget-minutes to the model, which takes 24 s" in s for s in said)
    assert not any("The lists alone" in line for line in said)
