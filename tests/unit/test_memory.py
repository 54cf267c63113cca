import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from behavior_model.baselines import own_frequency
from behavior_model.memory.collective import ITEM_COLUMNS, CollectiveMemory
from behavior_model.memory.content import ContentMemory
from behavior_model.memory.factors import fit_factors, fold_in
from behavior_model.memory.neighbours import Neighbours
from behavior_model.memory.own import own_groups, own_pairs, own_users, seen_pairs
from behavior_model.memory.purchases import Level, Purchases, read_purchases
from pipelines.contracts import PURCHASE
from pipelines.errors import BundleError
from pipelines.tokens.binning import DAY_US, FIRST_IDX
from pipelines.tokens.encoder import encode
from tests.rhythm_shop import CUT_US, NUM_ITEMS, shop_content, shop_histories, shop_vocabulary

VOCABULARY = shop_vocabulary()


def purchases(users: list[list[tuple[float, int, str]]], level: Level = Level.ITEM) -> Purchases:
    """Users from (days before the cut, item, type)."""
    rows = [
        {
            "event_id": f"{user}-{n}",
            "event_time": CUT_US - round(days * DAY_US),
            "event_type": kind,
            "item_id": f"item-{item:02d}",
            "quantity": 2.0,
            "amount": 3.0,
        }
        for user, events in enumerate(users)
        for n, (days, item, kind) in enumerate(events)
    ]
    offsets = np.cumsum([0, *map(len, users)]).astype(np.int64)
    table = pa.Table.from_pylist(rows)
    histories = encode(VOCABULARY, table, [f"u{i}" for i in range(len(users))], offsets)
    return read_purchases(histories, VOCABULARY, level, CUT_US)


WEEKLY = [(21.0, 0, PURCHASE), (14.0, 0, PURCHASE), (14.0, 1, PURCHASE), (7.0, 0, PURCHASE)]


def test_events_of_half_an_hour_are_one_visit() -> None:
    past = purchases([[(1.0, 0, PURCHASE), (1.0 - 0.02, 1, PURCHASE), (0.5, 2, PURCHASE)]])
    assert past.visits.tolist() == [0, 0, 1]
    assert past.visits_ago.tolist() == [1, 1, 0]


def test_only_purchases_are_interactions_and_other_events_are_seen() -> None:
    past = purchases([[(3.0, 0, PURCHASE), (2.0, 5, "page_view")]])
    assert past.targets.tolist() == [FIRST_IDX]
    seen = seen_pairs(past)
    assert (seen.keys % past.num_targets).tolist() == [FIRST_IDX + 5]
    assert seen.columns["seen_recency"][0] == pytest.approx(2.0)


def test_counting_own_events_reads_views_and_purchases_alike() -> None:
    looked = [(days, 5, "page_view") for days in (9.0, 8.0, 7.0)]
    past = purchases([[*looked, (2.0, 3, PURCHASE)], [(4.0, 5, "page_view"), (3.0, 5, "cart")]])
    wanted = [[FIRST_IDX + 5, FIRST_IDX + 3, -1], [FIRST_IDX + 5, -1, -1]]
    assert own_frequency._rank_events(past, 1_000.0, 3).tolist() == wanted
    assert own_frequency._rank_events(past, 0.5, 3)[0, 0] == FIRST_IDX + 3
    assert own_frequency._rank(past, None, 3).tolist() == [[FIRST_IDX + 3, -1, -1], [-1] * 3]


def test_nothing_at_or_after_the_prediction_time_is_read() -> None:
    histories = shop_histories(4)
    early = CUT_US - 60 * DAY_US
    whole = read_purchases(histories, VOCABULARY, Level.ITEM, early)
    cut = read_purchases(histories.before(early), VOCABULARY, Level.ITEM, early)
    np.testing.assert_array_equal(whole.keys, cut.keys)
    assert whole.ages.min() > 0


def test_own_memory_knows_count_rhythm_and_how_overdue() -> None:
    own = own_pairs(purchases([WEEKLY]))
    regular = {name: values[0] for name, values in own.columns.items()}
    assert regular["count"] == 3
    assert regular["visits"] == 3
    assert regular["recency"] == pytest.approx(7.0)
    assert regular["gap"] == pytest.approx(7.0)
    assert regular["gap_deviation"] == pytest.approx(0.0, abs=1e-6)
    assert regular["overdue"] == pytest.approx(1.0)
    assert regular["per_visit"] == pytest.approx(1.0)
    assert regular["decayed_7d"] == pytest.approx(0.5 + 0.25 + 0.125)
    assert np.isnan(own.columns["gap"][1])
    assert own.columns["visits_ago"].tolist() == [0, 1]


def test_pairs_that_never_happened_are_missing_or_zero() -> None:
    own = own_pairs(purchases([WEEKLY]))
    found = own.at(np.asarray([FIRST_IDX, FIRST_IDX + 9]), {"recency": np.nan})
    assert found["count"].tolist() == [3, 0]
    assert np.isnan(found["recency"][1])


def test_groups_add_up_over_their_items() -> None:
    groups = Level.ITEM.groups_of(VOCABULARY)
    table = own_groups(purchases([[*WEEKLY, (1.0, 4, PURCHASE)]]), groups, 4)
    assert table.keys.tolist() == [0, 1]
    assert table.columns["count"].tolist() == [4, 1]
    assert table.columns["recency"].tolist() == pytest.approx([1.0, 14.0])


def test_users_are_described_alone_as_in_a_crowd() -> None:
    crowd = purchases([WEEKLY, [(2.0, 7, PURCHASE)], []])
    for user in range(3):
        alone = own_users(crowd.users_between(user, user + 1))
        for name, values in own_users(crowd).items():
            np.testing.assert_array_equal(alone[name][0], values[user], err_msg=name)


def test_what_follows_is_told_from_what_accompanies() -> None:
    users = [[(9.0, 0, PURCHASE), (9.0, 1, PURCHASE), (8.0, 2, PURCHASE)]] * 6
    past = purchases(users)
    rows = past.targets - FIRST_IDX
    tied = Neighbours.fit(past.visits, rows, past.visit_users, 3)
    assert tied.accompany[0, 1] > 0
    assert tied.accompany[0, 2] == 0
    assert tied.follow[0, 2] > 0
    assert tied.follow[0, 1] == 0
    assert tied.follow.diagonal().tolist() == [0, 0, 0]


def test_a_visit_of_the_next_user_does_not_follow() -> None:
    past = purchases([[(9.0, 0, PURCHASE)], [(8.0, 1, PURCHASE)]])
    tied = Neighbours.fit(past.visits, past.targets - FIRST_IDX, past.visit_users, 2)
    assert tied.follow.nnz == 0


def test_folding_in_solves_the_normal_equations() -> None:
    rng = np.random.default_rng(0)
    tastes = sparse.csr_matrix(rng.poisson(0.2, size=(40, 12)).astype(np.float32))
    lengths = np.diff(tastes.indptr)
    assert min(lengths) == 0  # nobody known, fewer targets than factors, and more
    assert 0 < np.count_nonzero(lengths >= 3) < np.count_nonzero(lengths)
    factors = fit_factors(tastes, num_factors=3)
    users = fold_in(tastes, factors, confidence=0.5, regularisation=10.0)
    dense = tastes.toarray()
    weights = 1.0 + 0.5 * dense * (dense > 0)
    for user in range(40):
        error = (dense[user] > 0) - factors @ users[user]
        gradient = factors.T @ (weights[user] * error) - 10.0 * users[user]
        np.testing.assert_allclose(gradient, 0.0, atol=1e-4)


def test_where_nothing_was_bought_often_nothing_is_told() -> None:
    past = purchases([[(9.0, 0, PURCHASE)], [(8.0, 1, PURCHASE)]])
    memory = CollectiveMemory.fit(past, Level.ITEM.groups_of(VOCABULARY))
    scores = memory.pair_scores(past)
    assert len(memory.known) == 0
    assert scores.follow.shape == scores.accompany.shape == (2, 0)


def collective(num_users: int = 30) -> tuple[CollectiveMemory, Purchases]:
    past = read_purchases(shop_histories(num_users), VOCABULARY, Level.ITEM, CUT_US)
    return CollectiveMemory.fit(past, Level.ITEM.groups_of(VOCABULARY)), past


def test_collective_memory_counts() -> None:
    memory, past = collective()
    counts = np.bincount(past.targets, minlength=past.num_targets)
    np.testing.assert_array_equal(memory.items[:, ITEM_COLUMNS.index("popular")], counts)
    np.testing.assert_array_equal(memory.known, np.flatnonzero(counts >= 5))
    assert memory.popular[0][0] == memory.items[:, ITEM_COLUMNS.index("popular_28d")].argmax()


def test_what_people_repeat_has_a_higher_repeat_rate() -> None:
    loyal = [[(80.0, 0, PURCHASE), (50.0, 0, PURCHASE), (20.0, 0, PURCHASE)]] * 8
    once = [[(80.0, 1, PURCHASE), (50.0, 2, PURCHASE), (20.0, 3, PURCHASE)]] * 8
    memory = CollectiveMemory.fit(purchases([*loyal, *once]), Level.ITEM.groups_of(VOCABULARY))
    rates = memory.items[:, ITEM_COLUMNS.index("repeat_rate")]
    assert rates[FIRST_IDX] > 2 * rates[FIRST_IDX + 1]


def test_collective_scores_of_a_user_do_not_depend_on_the_crowd() -> None:
    memory, past = collective()
    crowd = memory.pair_scores(past)
    for user in (0, 7, 29):
        alone = memory.pair_scores(past.users_between(user, user + 1))
        np.testing.assert_allclose(alone.follow[0], crowd.follow[user], atol=1e-6)
        np.testing.assert_allclose(alone.accompany[0], crowd.accompany[user], atol=1e-6)
        np.testing.assert_allclose(alone.tastes[0], crowd.tastes[user], atol=1e-6)


def test_collective_memory_survives_its_file(tmp_path) -> None:
    memory, past = collective()
    memory.save(tmp_path)
    again = CollectiveMemory.load(tmp_path)
    np.testing.assert_array_equal(again.items, memory.items)
    np.testing.assert_array_equal(again.popular, memory.popular)
    np.testing.assert_array_equal(again.pair_scores(past).follow, memory.pair_scores(past).follow)
    with pytest.raises(BundleError, match="bfm heads"):
        CollectiveMemory.load(tmp_path / "elsewhere")


def test_content_memory_likes_what_reads_alike(tmp_path) -> None:
    memory = ContentMemory.fit(shop_content(VOCABULARY), VOCABULARY.count_by_item_idx)
    past = purchases([[(1.0, 0, PURCHASE), (2.0, 4, PURCHASE)], []])
    profile, nothing = memory.profiles(past)
    likeness = memory.texts[FIRST_IDX:] @ profile
    same = np.arange(NUM_ITEMS) % 4 == 0
    assert likeness[same].mean() > likeness[~same].mean() + 0.2
    assert not nothing.any()
    memory.save(tmp_path)
    np.testing.assert_array_equal(ContentMemory.load(tmp_path).texts, memory.texts)
