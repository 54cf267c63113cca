"""Likeness as behaviour sees it: who takes what with what, not what is written about it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from behavior_model.evaluation import likeness as judging
from behavior_model.likeness import BehaviourLikeness
from behavior_model.memory.collective import CollectiveMemory
from behavior_model.memory.purchases import Purchases
from pipelines.tokens.binning import FIRST_IDX

NUM_TARGETS = FIRST_IDX + 12
UNSOLD = NUM_TARGETS - 1
GROUPS = (range(FIRST_IDX, FIRST_IDX + 5), range(FIRST_IDX + 5, FIRST_IDX + 10))


def purchases() -> Purchases:
    """Users of two kinds, each of whom buys three of the five items of their kind, twice."""
    rng = np.random.default_rng(0)
    users, targets, visits = [], [], []
    for user in range(40):
        for visit in range(2):
            for item in rng.choice(GROUPS[user % 2], size=3, replace=False):
                users.append(user)
                targets.append(int(item))
                visits.append(2 * user + visit)
    num, nothing = len(users), np.zeros(0, dtype=np.int64)
    return Purchases(
        num_users=40,
        num_targets=NUM_TARGETS,
        users=np.asarray(users),
        targets=np.asarray(targets),
        ages=np.ones(num),
        visits=np.asarray(visits),
        quantities=np.ones(num),
        amounts=np.ones(num),
        visit_users=np.repeat(np.arange(40), 2),
        visit_ages=np.ones(80),
        seen_users=nothing,
        seen_targets=nothing,
        seen_ages=np.zeros(0),
        markets=np.zeros(40, dtype=np.int64),
    )


@pytest.fixture(scope="module")
def memory() -> CollectiveMemory:
    return CollectiveMemory.fit(purchases(), np.full(NUM_TARGETS, -1))


@pytest.fixture(scope="module")
def space() -> np.ndarray:
    """float32[NUM_TARGETS, 8]: says nothing of the kinds, but where the unsold item stands."""
    rows = np.random.default_rng(1).normal(size=(NUM_TARGETS, 8)).astype(np.float32)
    rows[UNSOLD] = rows[[*GROUPS[1]]].sum(axis=0)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def likest(memory: CollectiveMemory, space: np.ndarray, item: int, at: int) -> list[int]:
    alike = BehaviourLikeness(memory, space[memory.known])
    found, scores = alike.to_embeddings(space[[at]], np.asarray([item]), 4)
    assert scores[0].tolist() == sorted(scores[0].tolist(), reverse=True)
    return found[0].tolist()


def test_the_likest_are_taken_by_the_same_people(
    memory: CollectiveMemory, space: np.ndarray
) -> None:
    assert memory.known.tolist() == [*GROUPS[0], *GROUPS[1]]
    for group in GROUPS:
        for item in group:
            assert {*likest(memory, space, item, item)} == {*group} - {item}


@pytest.mark.parametrize("item", [UNSOLD, -1])
def test_what_nobody_took_stands_where_its_nearest_do(
    memory: CollectiveMemory, space: np.ndarray, item: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("behavior_model.likeness.NUM_NEAREST", 3)
    found = likest(memory, space, item, UNSOLD)
    assert UNSOLD not in found
    assert len({*found} & {*GROUPS[1]}) >= 3


def test_lists_are_no_longer_than_what_is_known(
    memory: CollectiveMemory, space: np.ndarray
) -> None:
    alike = BehaviourLikeness(memory, space[memory.known])
    found, _ = alike.to_embeddings(space[[FIRST_IDX]], np.asarray([FIRST_IDX]), 50)
    assert found.shape == (1, 10)


def test_the_nearest_are_looked_for_a_few_at_a_time() -> None:
    rows = np.random.default_rng(0).normal(size=(12_000, 4)).astype(np.float32)
    asked = np.arange(FIRST_IDX, FIRST_IDX + 1_500)
    tracemalloc.start()
    found = judging._nearest(rows, asked)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(asked) * len(rows) * 4, "products of all with all are held at once"
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for place in (0, 300, 1_499):
        products = unit @ unit[asked[place]]
        products[:FIRST_IDX] = products[asked[place]] = -np.inf
        wanted = np.argsort(-products)[: judging.K]
        assert set(found[place].tolist()) == set(wanted.tolist())
