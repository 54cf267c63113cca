"""What every baseline of a benchmark promises, and what single ones compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from behavior_model.benchmark.baselines import (
    ease,
    item_knn,
    own_frequency,
    popularity,
    ranking,
    tuning,
)
from behavior_model.benchmark.baselines.gru4rec import Gru4Rec, Gru4RecConfig
from behavior_model.benchmark.baselines.ranking import best_columns, filled, rank_users
from behavior_model.benchmark.baselines.registry import (
    BENCHMARK_BASELINES,
)
from behavior_model.benchmark.baselines.sasrec import Sasrec, SasrecConfig
from behavior_model.benchmark.baselines.sequence_training import (
    EncoderConfig,
    SequenceTrainingConfig,
    padded_rows,
    rank_trained,
    sampled_softmax_loss,
    usual_length,
)
from behavior_model.benchmark.baselines.task import (
    Baseline,
    Floats,
    LeaveOneOutTask,
    Ranked,
    TooSlowError,
)
from behavior_model.benchmark.baselines.transition_graph import (
    RingKnob,
    rank_by_rings,
    ring_paths,
    transition_counts,
)
from behavior_model.benchmark.baselines.tuning import mean_ndcg, tuned
from behavior_model.benchmark.interactions import NO_ITEM, Interactions, Longs

NUM_ITEMS = 24
K = 6
SMALL: dict[str, EncoderConfig] = {
    "sasrec": SasrecConfig(width=16, length=8, dropout=0.1),
    "gru4rec": Gru4RecConfig(width=16, length=8, dropout=0.1),
}


def quick_training(name: str, max_epochs: int = 2) -> SequenceTrainingConfig:
    return SequenceTrainingConfig(
        encoder=SMALL[name],
        num_negatives=16,
        batch_users=16,
        learning_rate=1e-2,
        max_epochs=max_epochs,
        max_steps=0,
        patience=3,
        patient_steps=0,
    )


def interactions(histories: list[list[int]], num_items: int = NUM_ITEMS) -> Interactions:
    return Interactions(
        user_ids=pa.array([f"u{n:04d}" for n in range(len(histories))]),
        item_ids=pa.array([f"i{n:04d}" for n in range(num_items)]),
        texts=[""] * num_items,
        offsets=np.cumsum([0, *map(len, histories)]).astype(np.int64),
        items=np.asarray([item for one in histories for item in one], dtype=np.int64),
    )


def shoppers(*, repeats: bool, last_item: int | None = None) -> Interactions:
    """Sixty users who walk through the items in steps, two of them with next to no history."""
    rng = np.random.default_rng(0)
    histories: list[list[int]] = [[3], [5, 6]]
    for _ in range(60):
        steps = rng.choice([0, 1, 2] if repeats else [1, 2], size=rng.integers(3, 10))
        histories.append(((rng.integers(NUM_ITEMS) + np.cumsum(steps)) % NUM_ITEMS).tolist())
    if last_item is not None:
        histories = [[*one[:-1], last_item] for one in histories]
    return interactions(histories)


def task_of(data: Interactions, *, repeats: bool = False) -> LeaveOneOutTask:
    rng = np.random.default_rng(1)
    return LeaveOneOutTask(
        history=data.without_last(),
        mask_history=not repeats,
        text_embeddings=rng.normal(size=(NUM_ITEMS, 4)).astype(np.float32),
    )


def quick(name: str) -> Baseline:
    if name not in SMALL:
        return BENCHMARK_BASELINES[name].rank
    return partial(rank_trained, config=quick_training(name), seed=0)


@cache
def answer(name: str, repeats: bool) -> tuple[LeaveOneOutTask, Ranked]:
    task = task_of(shoppers(repeats=repeats), repeats=repeats)
    if (reason := BENCHMARK_BASELINES[name].obstacle(task)) is not None:
        pytest.skip(reason)
    return task, quick(name)(task, K, seed=3)


@dataclass
class Clock:
    """Stands still but for what a test says that something took."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("name", sorted(BENCHMARK_BASELINES))
class TestEveryBaseline:
    def test_ranks_every_user_with_distinct_items(self, name: str, repeats: bool) -> None:
        task, ranked = answer(name, repeats)
        assert ranked.lists.shape == (len(task.history), K)
        assert ranked.lists.dtype == np.int64
        assert ranked.seconds > 0
        for row in ranked.lists:
            assert len(set(row.tolist())) == K
            assert ((row >= 0) & (row < NUM_ITEMS)).all()

    def test_masks_what_the_user_took_unless_the_data_repeat(
        self, name: str, repeats: bool
    ) -> None:
        task, ranked = answer(name, repeats)
        both = [set(task.history.of(user)) & set(row) for user, row in enumerate(ranked.lists)]
        assert any(both) == repeats

    def test_gives_users_without_history_what_is_popular(self, name: str, repeats: bool) -> None:
        task, ranked = answer(name, repeats)
        if name != "popularity_recent":
            order = np.argsort(-task.history.counts, kind="stable")
            np.testing.assert_array_equal(ranked.lists[0], order[:K])

    def test_gives_the_same_lists_twice_whatever_came_before(
        self, name: str, repeats: bool
    ) -> None:
        task, ranked = answer(name, repeats)
        torch.manual_seed(99)
        again = quick(name)(task, K, seed=3)
        np.testing.assert_array_equal(again.lists, ranked.lists)
        assert again.knob == ranked.knob

    def test_has_not_seen_the_test_item(self, name: str, repeats: bool) -> None:
        _, ranked = answer(name, repeats)
        other = task_of(shoppers(repeats=repeats, last_item=7), repeats=repeats)
        np.testing.assert_array_equal(quick(name)(other, K, seed=3).lists, ranked.lists)

    def test_fills_lists_longer_than_the_catalogue_with_all_of_it(
        self, name: str, repeats: bool
    ) -> None:
        task = task_of(interactions([[0, 1, 2], [1, 2, 0], [2, 0, 1, 3]], 4), repeats=repeats)
        task = replace(task, text_embeddings=None)
        if BENCHMARK_BASELINES[name].obstacle(task) is None:
            ranked = quick(name)(task, K)
            assert (ranked.lists[:, 4:] == NO_ITEM).all()
            assert (np.sort(ranked.lists[:, :4]) == np.arange(4)).all()
            if ranked.knob.get("mask_history", not repeats):
                assert set(ranked.lists[0, :2]) == {2, 3}


def test_an_entry_says_why_it_does_not_fit() -> None:
    many = interactions([[0, 1]], ease.MAX_ITEMS + 1)
    assert "20,001 items" in str(
        BENCHMARK_BASELINES["ease"].obstacle(LeaveOneOutTask(history=many))
    )
    assert own_frequency.obstacle(task_of(shoppers(repeats=True), repeats=True)) is None
    assert own_frequency.obstacle(task_of(shoppers(repeats=True))) is not None


class TestRanking:
    def test_the_first_of_equal_scores_wins(self) -> None:
        scores = np.array([[1, 2, 2, 2, 0], [5, -np.inf, 5, -np.inf, -np.inf]], dtype=np.float32)
        expected = [[1, 2, 3, 0], [0, 2, NO_ITEM, NO_ITEM]]
        np.testing.assert_array_equal(best_columns(scores, 4), expected)

    def test_gaps_are_filled_in_order_without_masked_or_listed_items(self) -> None:
        task = LeaveOneOutTask(history=interactions([[0, 1], [4]], 6))
        lists = np.array([[2, NO_ITEM, NO_ITEM], [NO_ITEM] * 3])
        order = np.array([0, 2, 5, 1, 3, 4])
        np.testing.assert_array_equal(filled(task, lists, order), [[2, 5, 3], [0, 2, 5]])

    def test_who_took_nearly_everything_gets_own_items_at_the_end(self) -> None:
        task = LeaveOneOutTask(history=interactions([[0, 1, 3]], 4))
        lists = np.array([[NO_ITEM] * 4])
        order = np.array([3, 2, 1, 0])
        np.testing.assert_array_equal(filled(task, lists, order), [[2, 3, 1, 0]])

    def test_chunks_whose_pace_is_too_slow_are_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ten users at a time, 5 s for the first ten, then 2 s each; the last two take as long."""
        clock = Clock()
        monkeypatch.setattr(ranking, "perf_counter", clock)
        monkeypatch.setattr(ranking, "_MAX_CHUNK_USERS", 10)
        task = task_of(shoppers(repeats=False))
        seen: list[int] = []

        def score(users: slice) -> Floats:
            seen.append(users.start)
            clock.seconds += 2 if users.start else 5
            return np.zeros((users.stop - users.start, NUM_ITEMS), dtype=np.float32)

        assert (rank_users(replace(task, budget_s=15.0), K, score) >= 0).all()
        seen.clear()
        with pytest.raises(TooSlowError, match="it takes about 12 s, 10 s are allowed"):
            rank_users(replace(task, budget_s=10.0), K, score)
        assert seen == [0, 10], "the first ten warm up, the second tell"


class TestTuning:
    def test_only_users_with_three_items_judge_a_knob(self) -> None:
        task = LeaveOneOutTask(history=interactions([[0], [1, 2], [3, 4, 5]]))
        assert task.validation_truth.tolist() == [NO_ITEM, 2, 5]
        assert task.validation().history.last().tolist() == [NO_ITEM, 1, 4]

    def test_the_first_of_equal_knobs_wins_and_the_final_fit_sees_all(self) -> None:
        task = LeaveOneOutTask(history=interactions([[0, 1, 2]]))
        seen: list[tuple[int, int]] = []

        def ranker(asked: LeaveOneOutTask, knob: RingKnob, k: int) -> Longs:
            seen.append((knob.first, asked.history.num_events))
            return np.array([[knob.second, *range(10, 10 + k - 1)]])

        knobs = [RingKnob(first=n, second=right, third=0) for n, right in enumerate((5, 2, 2))]
        ranked = tuned(task, 4, ranker, knobs)
        assert seen == [(0, 2), (1, 2), (2, 2), (1, 3)]
        assert ranked.knob == {"first": 1, "second": 2, "third": 0}

    def test_masking_is_a_knob_where_users_repeat(self) -> None:
        history = interactions([[0, 1, 2], [1, 0, 3], [0, 2, 1]], 4)
        task = LeaveOneOutTask(history=history, mask_history=False)

        def own_first(asked: LeaveOneOutTask, knob: RingKnob, k: int) -> Longs:
            del knob
            own = np.stack([asked.history.of(user)[:2] for user in range(3)])
            rest = np.stack([np.setdiff1d(np.arange(4), row)[: k - 2] for row in own])
            parts = [rest, own] if asked.mask_history else [own, rest]
            return np.concatenate(parts, axis=1)

        ranked = tuned(task, 4, own_first, [RingKnob(first=1, second=0, third=0)])
        assert ranked.knob["mask_history"] is True
        assert ranked.lists[:, 0].tolist() == [2, 2, 1]

    def test_what_would_take_too_long_says_so(self) -> None:
        task = replace(task_of(shoppers(repeats=False)), budget_s=1e-9)
        with pytest.raises(TooSlowError, match=r"it takes about \d+ s, 0 s are allowed"):
            item_knn.rank(task, K)

    def test_the_first_users_decide_and_all_are_ranked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tuning, "MAX_TUNING_USERS", 20)
        task = task_of(shoppers(repeats=False))
        asked: list[int | None] = []

        def ranker(asked_of: LeaveOneOutTask, knob: item_knn.ItemKnnKnob, k: int) -> Longs:
            asked.append(asked_of.num_asked)
            return item_knn.rank_by_likeness(asked_of, knob, k)

        ranked = tuned(task, K, ranker, item_knn.KNOBS)
        assert asked == [20, 20, 20, 20, None]
        assert (ranked.lists >= 0).all()

    def test_a_fit_takes_no_longer_where_more_users_are_ranked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock()
        monkeypatch.setattr(tuning, "perf_counter", clock)
        monkeypatch.setattr(tuning, "MAX_TUNING_USERS", 2)
        task = replace(task_of(shoppers(repeats=False)), budget_s=3.5)

        def ranker(asked: LeaveOneOutTask, knob: RingKnob, k: int) -> Longs:
            del knob
            clock.seconds += 1
            return np.tile(np.arange(k), (len(asked.history), 1))

        knobs = [RingKnob(first=n, second=0, third=0) for n in (1, 2)]
        assert tuned(task, K, ranker, knobs).seconds == 3

    def test_ndcg_of_one_true_item(self) -> None:
        lists = np.arange(10)[None].repeat(3, axis=0)
        truth = np.array([0, 2, NO_ITEM])
        assert mean_ndcg(lists, truth) == pytest.approx((1.0 + 0.5) / 2)
        assert mean_ndcg(lists, np.full(3, NO_ITEM)) == 0.0


def test_recent_popularity_follows_a_change_of_fashion() -> None:
    old, new = [0, 1, 2], [3, 4, 5]
    task = LeaveOneOutTask(
        history=interactions([*[[*old, *new]] * 5, *[old] * 4, []]), mask_history=False
    )
    assert popularity.rank(task, 1).lists[-1].tolist() == [0]
    assert popularity.rank_recent(task, 1).lists[-1].tolist() == [5]


def test_own_frequency_counts_and_decays() -> None:
    task = LeaveOneOutTask(history=interactions([[1, 1, 1, 2, 3, 3], [4, 5]]), mask_history=False)
    knob = own_frequency.DecayKnob(half_life_places=1.0)
    assert own_frequency.rank_decayed(task, knob, 3)[0].tolist() == [3, 2, 1]
    knob = own_frequency.DecayKnob(half_life_places=1000.0)
    assert own_frequency.rank_decayed(task, knob, 4)[0].tolist() == [1, 3, 2, 4]


def test_item_knn_follows_shared_takers() -> None:
    pairs = [[0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [0], [2]]
    knob = item_knn.ItemKnnKnob(weighting="tf-idf", num_neighbours=10)
    lists = item_knn.rank_by_likeness(LeaveOneOutTask(history=interactions(pairs)), knob, 1)
    assert lists[5:, 0].tolist() == [1, 3]


def test_ease_is_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ease, "_BLOCK", 5)
    taken = np.random.default_rng(0).random((50, 12)) < 0.3
    gram = taken.T.astype(np.float64) @ taken + 3.0 * np.eye(12)
    precision = np.linalg.inv(gram)
    expected = np.eye(12) - precision / np.diagonal(precision)
    np.testing.assert_allclose(ease.item_weights(gram.astype(np.float32)), expected, atol=1e-5)


class TestTransitionGraph:
    HISTORIES = ([0, 1, 2, 3], [0, 1], [0, 4], [4, 5], [5, 6], [0])
    """From 0: ring 1 is {1 (twice), 4}, ring 2 {2, 5}, ring 3 {3, 6}."""

    def test_rings_hold_shortest_paths(self) -> None:
        counts = transition_counts(interactions(list(self.HISTORIES), 7))
        first, second, third = ring_paths(counts, np.array([0]))
        np.testing.assert_array_equal(first, [[0, 2, 0, 0, 1, 0, 0]])
        np.testing.assert_array_equal(second, [[0, 0, 2, 0, 0, 1, 0]])
        np.testing.assert_array_equal(third, [[0, 0, 0, 2, 0, 0, 1]])

    @pytest.mark.parametrize(
        ("shares", "expected"),
        [((1, 1, 1), [1, 2, 3, 4, 5, 6]), ((7, 2, 1), [1, 4, 2, 5, 3, 6])],
    )
    def test_a_list_takes_its_share_of_each_ring(
        self, shares: tuple[int, int, int], expected: list[int]
    ) -> None:
        task = LeaveOneOutTask(history=interactions(list(self.HISTORIES), 7))
        knob = RingKnob(first=shares[0], second=shares[1], third=shares[2])
        assert rank_by_rings(task, knob, 6)[-1].tolist() == expected

    def test_texts_order_a_ring_and_frequent_transitions_weigh_in(self) -> None:
        texts = np.array([[1, 0]] * 7, dtype=np.float32)
        texts[1], texts[2] = [0, 1], [0, 1]
        history = interactions(list(self.HISTORIES), 7)
        task = LeaveOneOutTask(history=history, text_embeddings=texts)
        knob = RingKnob(first=7, second=2, third=1)
        assert rank_by_rings(task, knob, 4)[-1].tolist() == [4, 1, 5, 2]
        texts[1] = [0.9, 0.4]
        assert rank_by_rings(task, knob, 4)[-1].tolist() == [1, 4, 5, 2]


@pytest.mark.parametrize("name", sorted(SMALL))
class TestSequenceEncoders:
    def test_reads_neither_later_items_nor_padding(self, name: str) -> None:
        model = SMALL[name].build(NUM_ITEMS).eval()
        padding = [NUM_ITEMS] * 5
        first, later = model(torch.tensor([[*padding, 1, 2, 3], [*padding, 1, 2, 9]]))[:, 5:]
        torch.testing.assert_close(first[:2], later[:2])
        assert not torch.allclose(first[2], later[2])
        with torch.no_grad():
            model.items.weight[NUM_ITEMS] = 7.0
        torch.testing.assert_close(model(torch.tensor([[*padding, 1, 2, 3]]))[0, 5:], first)

    def test_learns_a_cycle_and_stops(self, name: str) -> None:
        cycle = [[(start + n) % NUM_ITEMS for n in range(6)] for start in range(NUM_ITEMS)] * 4
        data = interactions(cycle)
        task = LeaveOneOutTask(history=data.without_last())
        ranked = rank_trained(task, 10, quick_training(name, max_epochs=40), seed=0)
        assert (ranked.lists[:, 0] == data.last()).mean() > 0.95
        assert 1 <= float(ranked.knob["num_epochs"]) <= 40
        assert ranked.train_events_per_second is not None
        assert ranked.train_events_per_second > 0

    def test_a_few_users_get_their_steps(self, name: str) -> None:
        task = task_of(shoppers(repeats=False))
        short = replace(quick_training(name, max_epochs=1), max_steps=12)
        ranked = rank_trained(task, K, short, seed=0)
        assert ranked.train_events_per_second is not None
        assert 1 <= ranked.knob["num_epochs"] <= 3  # of four steps each

    def test_leaves_own_items_out_where_validation_says_so(self, name: str) -> None:
        rng = np.random.default_rng(0)
        twice = [[a, a, b, b] for a, b in rng.integers(0, NUM_ITEMS, (40, 2)).tolist()]
        always_new = [[*history, (history[-1] + 1) % NUM_ITEMS] for history in twice]
        for histories, expected in ((twice, False), (always_new, True)):
            task = LeaveOneOutTask(history=interactions(histories), mask_history=False)
            ranked = rank_trained(task, K, quick_training(name, max_epochs=20), seed=0)
            assert ranked.knob["mask_history"] is expected

    def test_reads_as_much_as_most_histories_hold(self, name: str) -> None:
        lengths = [60] * 19 + [900]
        data = interactions([[n % NUM_ITEMS for n in range(length)] for length in lengths])
        assert usual_length(data) == 60
        assert usual_length(data.select(np.asarray([19]))) == 200
        assert usual_length(data.without_last(59)) == 50
        task = replace(task_of(data), budget_s=0.0)
        assert BENCHMARK_BASELINES[name].rank(task, K, seed=0).lists.shape == (20, K)

    def test_keeps_to_its_budget(self, name: str) -> None:
        task = replace(task_of(shoppers(repeats=False)), budget_s=0.0)
        ranked = rank_trained(task, K, quick_training(name, max_epochs=50), seed=0)
        assert ranked.knob == {"num_epochs": 1}


def test_rows_are_padded_on_the_left() -> None:
    rows = padded_rows(interactions([[1, 2, 3], [], [4]], 9), np.array([0, 1, 2]), 2)
    np.testing.assert_array_equal(rows, [[2, 3], [9, 9], [9, 4]])


def test_a_drawn_target_is_no_negative() -> None:
    model = Sasrec(NUM_ITEMS, SasrecConfig(width=8, length=4))
    hidden, targets = torch.randn(2, 8), torch.tensor([1, 2])
    loss = sampled_softmax_loss(model, hidden, targets, torch.tensor([1, 2]))
    logits = hidden @ model.items.weight[[1, 2]].T
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, torch.arange(2)))


def test_a_gru_state_starts_at_the_first_item_however_long_the_row() -> None:
    model = Gru4Rec(NUM_ITEMS, Gru4RecConfig(width=8)).eval()
    items = torch.tensor([[4, 5, 6], [NUM_ITEMS, 5, 6]])
    padded = torch.nn.functional.pad(items, (3, 0), value=NUM_ITEMS)
    expected, _ = model.gru(model.items(items[:1]))
    torch.testing.assert_close(model(padded)[:1, 3:], expected)
    torch.testing.assert_close(model(padded)[1, 4:], model(items[1:, 1:])[0])
