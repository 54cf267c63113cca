"""Search: words, misspellings, products never sold, and what the user bought before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from behavior_model.heads.catalogue_queries import (
    catalogue_queries,
    item_types,
    misspell,
    shopper_words,
)
from behavior_model.heads.choice import fit_choice_weights
from behavior_model.heads.item_counts import own_counts, popularity
from behavior_model.heads.lexical_index import ItemTexts, LexicalIndex, item_texts
from behavior_model.heads.search import SearchHead
from behavior_model.heads.search_candidates import (
    FEATURES,
    Candidates,
    match,
)
from behavior_model.memory.queries import QueryMemory
from behavior_model.text_encoder import HashedBackend, TextEncoder
from behavior_model.typed_queries import TypedQueries
from pipelines.tokens.binning import FIRST_IDX
from tests.rhythm_shop import (
    CUT_US,
    NUM_ITEMS,
    shop_catalogue,
    shop_content,
    shop_histories,
    shop_vocabulary,
)
from tests.unit.test_tasks import future

NAMES = [
    "orange juice",
    "apple juice",
    "ground coffee",
    "ジュース リンゴ",
    "corn flakes",
    "Crème brûlée",
]
WEIGHTS = dict.fromkeys(FEATURES, 0.0) | {"words": 7.0, "spelling": 3.0, "popularity": 0.5}


@pytest.fixture(scope="module")
def index() -> LexicalIndex:
    details = ["own brand", "", "fair trade", "", "family size", ""]
    return LexicalIndex(ItemTexts(names=NAMES, details=details))


def best(index: LexicalIndex, query: str) -> str:
    hits = index.search(query)
    top = hits.item_idx[np.argmax(hits.word_scores + hits.gram_scores + hits.detail_scores)]
    return NAMES[int(top) - FIRST_IDX]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("coffee", "ground coffee"),
        ("cofee", "ground coffee"),
        ("ornage juice", "orange juice"),
        ("flaeks corn", "corn flakes"),
        ("リンゴ", "ジュース リンゴ"),
        ("creme brulee", "Crème brûlée"),
    ],
)
def test_words_misspellings_scripts_and_details(
    index: LexicalIndex, query: str, wanted: str
) -> None:
    assert best(index, query) == wanted


def test_details_are_searched_too(index: LexicalIndex) -> None:
    hits = index.search("fair trade")
    found = hits.item_idx[hits.detail_scores > 0]
    assert [NAMES[int(item) - FIRST_IDX] for item in found] == ["ground coffee"]


def test_query_syntax_is_only_text(index: LexicalIndex) -> None:
    plain, odd = (index.search(text) for text in ("and or corn", '(AND OR "corn"* AND -'))
    np.testing.assert_array_equal(plain.item_idx, odd.item_idx)
    np.testing.assert_array_equal(plain.word_scores, odd.word_scores)


@pytest.mark.parametrize("query", ["", "   ", "!?", "*:*", "\ud800", "x" * 10_000])
def test_odd_queries_give_no_hit_and_no_error(index: LexicalIndex, query: str) -> None:
    assert len(index.search(query).item_idx) == 0


def test_an_own_item_is_found_past_the_limit_of_hits() -> None:
    many = LexicalIndex(ItemTexts(names=["plain bread"] * 3_000, details=[""] * 3_000))
    last = FIRST_IDX + 2_999
    assert last not in many.search("bread").item_idx
    assert last in many.search("bread", [last]).item_idx


@pytest.fixture(scope="module")
def head() -> SearchHead:
    vocabulary = shop_vocabulary()
    return SearchHead(
        vocabulary=vocabulary,
        index=LexicalIndex(item_texts(shop_catalogue(), vocabulary)),
        content=shop_content(vocabulary),
        encoder=TextEncoder(None, HashedBackend(32)),
        popularity=popularity(vocabulary, shop_histories(12), CUT_US),
        queries=QueryMemory.empty(),
        weights=np.asarray([(WEIGHTS | {"own": 5.0})[name] for name in FEATURES]),
        matches=np.linspace(1.0, 12.0, 101),
    )


def test_a_product_never_sold_is_found_by_its_words(head: SearchHead) -> None:
    unsold = FIRST_IDX + NUM_ITEMS - 1  # "toys number 9"
    assert head.popularity[unsold] == 0.0
    ranked, scores, _ = head.predict(["toys number 9"], 3)
    assert ranked[0, 0] == unsold
    assert scores[0, 0] > scores[0, 1]


def test_what_others_took_after_the_words_is_found_though_no_text_says_it(
    head: SearchHead,
) -> None:
    users, item = ["a", "b", "c"], FIRST_IDX + 7
    typed = TypedQueries(users, np.zeros(3, np.int64), ["soirée"] * 3, [np.asarray([item])] * 3)
    weights = np.asarray([(WEIGHTS | {"taken": 2.0})[name] for name in FEATURES])
    taught = replace(head, queries=QueryMemory.fit(typed), weights=weights)
    for query in ("soirée", "Soirée!", "soirrée"):
        ranked, scores, _ = taught.predict([query], 2)
        assert ranked[0, 0] == item
        assert scores[0, 0] > scores[0, 1]
    found = taught.candidates("soirée", taught.encode(["soirée"])[0], None)
    category_of = taught.vocabulary.category_by_item_idx
    same_category = np.flatnonzero(category_of == category_of[item])
    assert set(same_category.tolist()) <= set(found.item_idx.tolist())
    shares = found.features[:, FEATURES.index("category_taken")]
    assert (shares[np.isin(found.item_idx, same_category)] > 0).all()
    assert (shares[~np.isin(found.item_idx, same_category)] == 0).all()


def test_what_the_user_bought_comes_first(head: SearchHead) -> None:
    histories = shop_histories(12)
    anonymous, *_ = head.predict(["bread"], 5)
    for user in range(3):
        one = histories.select([user])
        items = set(one.tokens["item"].tolist())
        breads = {i for i in items if (i - FIRST_IDX) % 4 == 0}
        ranked, *_ = head.predict(["bread"], 5, histories=one, prediction_times_us=CUT_US)
        if breads:
            assert ranked[0, 0] in breads
    assert (anonymous[0] >= FIRST_IDX).all()


def test_short_lists_are_filled(head: SearchHead) -> None:
    ranked, scores, _ = head.predict(["bread"], 500)
    filled = ranked[0] == -1
    assert filled.any()
    assert np.isneginf(scores[0, filled]).all()
    assert len(set(ranked[0, ~filled].tolist())) == (~filled).sum()


def test_a_query_unlike_all_is_told_from_one_that_matches(head: SearchHead) -> None:
    *_, familiarities = head.predict(["qzxvw", "bread"], 3)
    assert familiarities[0] == 0.0
    assert familiarities[1] > 0.5
    nothing = Candidates(np.zeros(0, np.int64), np.zeros((0, len(FEATURES)), np.float32))
    assert match(nothing, head.weights) == -np.inf


def test_who_asks_changes_no_familiarity(head: SearchHead) -> None:
    one = shop_histories(12).select([0])
    *_, theirs = head.predict(["bread"], 3, histories=one, prediction_times_us=CUT_US)
    *_, nobodys = head.predict(["bread"], 3)
    assert theirs.tolist() == nobodys.tolist()


def test_a_warm_head_has_nothing_left_to_make(head: SearchHead) -> None:
    fresh = replace(head, index=LexicalIndex(head.index.texts))
    fresh.warm()
    made = (set(vars(fresh)), set(vars(fresh.index)))
    found, *_ = fresh.predict(["sugar"], 3)
    assert (set(vars(fresh)), set(vars(fresh.index))) == made
    np.testing.assert_array_equal(found, head.predict(["sugar"], 3)[0])


def test_shoppers_type_words() -> None:
    assert shopper_words("SFT DRNK 2 LITER BTL CARB") == "sft drnk liter"
    assert shopper_words("7UP & 2") == ""


def test_popularity_and_own_counts_by_hand() -> None:
    vocabulary, histories = shop_vocabulary(), shop_histories(4)
    own = own_counts(vocabulary, histories, 0, CUT_US)
    one = histories.select([0])
    expected = np.bincount(one.tokens["item"], minlength=vocabulary.num_item_indices)
    np.testing.assert_allclose(np.expm1(own.totals), expected[own.item_idx], rtol=1e-5)
    assert (own.decayed <= own.totals).all()
    asked = np.asarray([own.item_idx[0], 2])
    assert own.lookup(asked, own.totals).tolist() == [own.totals[0], 0.0]
    everything = popularity(vocabulary, histories, CUT_US)
    assert everything[expected > 0].min() > 0


def test_choice_weights_follow_what_was_chosen() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300 * 10, 3)).astype(np.float32)
    utility = 2.0 * features[:, 0] - 1.0 * features[:, 1] + generator.gumbel(size=3_000)
    winners = utility.reshape(300, 10).argmax(axis=1)
    chosen = (np.arange(10) == winners[:, None]).ravel()
    offsets = np.arange(301) * 10
    weights = fit_choice_weights(features, chosen, offsets, columns=[0, 1, 2])
    np.testing.assert_allclose(weights, [2.0, -1.0, 0.0], atol=0.35)
    assert fit_choice_weights(features, chosen, offsets, columns=[0])[1] == 0.0
    with pytest.raises(ValueError, match="no question"):
        fit_choice_weights(features, np.zeros_like(chosen), offsets, columns=[0])


def test_misspellings_are_one_slip_and_repeatable() -> None:
    for seed in range(30):
        slipped = misspell("orange juice", seed=seed)
        assert slipped == misspell("orange juice", seed=seed)
        assert abs(len(slipped) - len("orange juice")) <= 1
    assert len({misspell("orange juice", seed=seed) for seed in range(30)}) > 10
    assert misspell("tea", seed=0) == "tea"


def test_queries_ask_for_what_was_bought() -> None:
    vocabulary = shop_vocabulary()
    types = item_types(shop_catalogue(), vocabulary)
    assert types[FIRST_IDX] == "bread"
    ahead = future([1.0] * 3, [1, 1, 0])
    ahead.items[:] = [
        np.asarray([FIRST_IDX, FIRST_IDX + 4]),
        np.asarray([FIRST_IDX + 1]),
        ahead.items[2],
    ]
    queries = catalogue_queries(types, ahead, num_queries=10, seed=0)
    assert sorted(zip(queries.users.tolist(), queries.clean, strict=True)) == [
        (0, "bread"),
        (1, "milk"),
    ]
    by_user = dict(zip(queries.users.tolist(), queries.truths, strict=True))
    assert by_user[0].tolist() == [FIRST_IDX, FIRST_IDX + 4]
