"""The audit finds what was planted, and nothing where nothing was."""

from __future__ import annotations

import numpy as np
import pytest

from behavior_model.audit import profiles
from behavior_model.audit.groups import GroupFigure, binary_figures, compare, judged, mean_figure
from behavior_model.audit.profiles import (
    BOOSTED,
    BOTH,
    EMBEDDING,
    FEATURES,
    MIN_USERS,
    SHUFFLED,
    guess,
    usable,
)

NUM_USERS = 400


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_rare_values_and_unknown_ones_are_left_out() -> None:
    codes, kept = usable(["b"] * MIN_USERS + ["a"] * MIN_USERS + ["rare"] * 3 + [None])
    assert kept == ["a", "b"]
    assert codes.tolist() == [1] * MIN_USERS + [0] * MIN_USERS + [-1] * 4


def test_a_field_with_one_usable_value_is_not_usable() -> None:
    codes, kept = usable(["a"] * MIN_USERS + ["rare"] * (MIN_USERS - 1))
    assert kept == []
    assert (codes == -1).all()


def test_what_the_embedding_holds_is_guessed_and_what_it_lacks_is_not(
    rng: np.random.Generator,
) -> None:
    labels = rng.integers(0, 3, NUM_USERS)
    embedding = rng.normal(size=(NUM_USERS, 8))
    embedding[:, 2] += labels == 1
    embedding[:, 5] += 2 * (labels == 2)
    features = rng.normal(size=(NUM_USERS, 5))
    features[::7, 1] = np.nan
    found = guess("income", [f"level {i}" for i in labels], embedding, features, seed=0)
    assert found is not None
    assert found.num_users == NUM_USERS
    assert found.values == ["level 0", "level 1", "level 2"]
    assert found.aucs[EMBEDDING] > 0.75
    assert found.aucs[BOTH] > 0.75
    for name in (FEATURES, BOOSTED, SHUFFLED):
        assert abs(found.aucs[name] - 0.5) < 0.08, name


def test_two_seeds_share_no_repeat(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def chance(inputs: np.ndarray, labels: np.ndarray, folds: object, seed: int) -> np.ndarray:
        seeds.append(seed)
        return np.zeros((len(labels), 2))

    monkeypatch.setattr(profiles, "_boosted", chance)
    values = ["a", "b"] * 40
    for seed in (0, 1):
        guess("field", values, rng.normal(size=(80, 2)), rng.normal(size=(80, 2)), seed=seed)
    assert seeds == list(range(2 * profiles.NUM_REPEATS))


def test_trees_find_what_a_line_cannot(rng: np.random.Generator) -> None:
    features = rng.normal(size=(NUM_USERS, 5))
    labels = (np.abs(features[:, 3]) > 0.7).astype(int)
    embedding = rng.normal(size=(NUM_USERS, 4))
    found = guess("band", [str(i) for i in labels], embedding, features, seed=0)
    assert found is not None
    assert found.aucs[BOOSTED] > 0.9 > 0.7 > found.aucs[FEATURES]


def comparisons(chances: np.ndarray, groups: np.ndarray, seed: int) -> list[GroupFigure]:
    labels = (np.random.default_rng(seed).random(len(chances)) < chances).astype(float)
    shown = np.where(groups == "planted", chances * 0.5, chances)
    return judged(compare("group", groups.tolist(), binary_figures("churn", labels, shown), seed=0))


def test_a_group_whose_risk_is_understated_stands_out(rng: np.random.Generator) -> None:
    chances = rng.uniform(0.2, 0.9, 600)
    groups = np.asarray(["planted", "other"])[rng.integers(0, 2, len(chances))]
    found = comparisons(chances, groups, seed=3)
    gaps = {row.value: row for row in found if row.metric == "calibration gap"}
    assert gaps["planted"].differs
    assert gaps["planted"].group < -0.15
    assert gaps["planted"].interval[1] < 0
    assert gaps["planted"].num_users == (groups == "planted").sum()


def test_equal_groups_seldom_stand_out(rng: np.random.Generator) -> None:
    chances = rng.uniform(0.2, 0.9, 600)
    groups = np.asarray(["one", "two"])[rng.integers(0, 2, len(chances))]
    found = [row for seed in range(3) for row in comparisons(chances, groups, seed)]
    assert len(found) == 12
    assert sum(row.differs for row in found) <= 4


def test_users_that_are_not_asked_are_in_no_figure(rng: np.random.Generator) -> None:
    per_user = rng.uniform(size=200)
    per_user[:50] = np.nan
    groups = ["a"] * 100 + ["b"] * 100
    rows = compare("group", groups, [mean_figure("recommendation", "ndcg@10", per_user)], seed=0)
    assert [(row.value, row.num_users) for row in rows] == [("a", 50), ("b", 100)]
    assert rows[0].group == pytest.approx(per_user[50:100].mean())
    assert rows[0].others == pytest.approx(per_user[100:].mean())


def test_a_rare_outcome_that_did_not_happen_to_few_is_no_alarm(rng: np.random.Generator) -> None:
    chances = rng.uniform(0.04, 0.1, 630)
    labels = (rng.random(630) < chances).astype(float)
    labels[:30] = 0.0
    groups = ["few"] * 30 + ["many"] * 600
    (few,) = [
        row
        for row in judged(compare("g", groups, binary_figures("drop", labels, chances), seed=0))
        if row.value == "few" and row.metric == "calibration gap"
    ]
    assert few.group > 0.05
    assert not few.differs
    assert few.interval[0] < few.difference < few.interval[1]


def test_a_group_of_nearly_one_outcome_has_no_auc(rng: np.random.Generator) -> None:
    labels = np.concatenate([np.ones(55), np.zeros(5), rng.integers(0, 2, 60)]).astype(float)
    chances = rng.uniform(size=120)
    rows = compare("g", ["a"] * 60 + ["b"] * 60, binary_figures("churn", labels, chances), seed=0)
    assert "auc" not in {row.metric for row in rows if row.value == "a"}
    assert "calibration gap" in {row.metric for row in rows if row.value == "a"}
