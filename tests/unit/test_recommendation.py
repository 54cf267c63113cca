import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from behavior_model.context import ModelContext
from behavior_model.embedding import embed_users
from behavior_model.evaluation.ranking import evaluate, fit_and_judge
from behavior_model.heads import candidates, recommendation_fitting
from behavior_model.heads.explanation import explain
from behavior_model.heads.mixture import TREES, Mixture
from behavior_model.heads.pair_features import pair_features
from behavior_model.heads.ranking_trees import SEEDS, RankingTrees, seeds_of
from behavior_model.heads.recommendation import RecommendationHead
from behavior_model.memory.purchases import Level, Purchases, read_purchases
from behavior_model.metrics import ndcg_at_k
from behavior_model.session import Session
from pipelines.contracts import EVENTS, PURCHASE
from pipelines.erasure import suppress, suppression_path, user_hash
from pipelines.errors import (
    BundleError,
    UnknownNameError,
    UserError,
    VocabularyMismatchError,
)
from pipelines.tokens.binning import DAY_US, FIRST_IDX
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories, merge
from pipelines.workspace import Workspace
from tests.ranking_shop import AS_OF_US, ranking_context
from tests.rhythm_shop import NUM_ITEMS, NUM_UNSOLD, WINDOW_US

K = 5
UNSOLD = set(range(FIRST_IDX + NUM_ITEMS - NUM_UNSOLD, FIRST_IDX + NUM_ITEMS))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ModelContext:
    return ranking_context(Workspace(tmp_path_factory.mktemp("ranking")))


@pytest.fixture(scope="module")
def heads(context: ModelContext) -> dict[Level, RecommendationHead]:
    return {level: RecommendationHead.fit(context, level) for level in Level}


def bought(context: ModelContext, user: str, items: list[int], days_ago: float) -> Histories:
    rows = [
        {
            "event_id": f"new-{user}-{item}",
            "event_time": AS_OF_US - round(days_ago * DAY_US),
            "event_type": PURCHASE,
            "item_id": context.vocabulary.items[item],
        }
        for item in items
    ]
    table = pa.Table.from_pylist(rows)
    return encode(context.vocabulary, table, [user], np.asarray([0, len(rows)], dtype=np.int64))


def nobody(context: ModelContext) -> Histories:
    one = context.histories(AS_OF_US).select([0]).before(0)
    return replace(one, user_ids=["nobody"])


@pytest.mark.parametrize("level", list(Level))
def test_lists_are_ranked_distinct_and_full(
    context: ModelContext, heads: dict[Level, RecommendationHead], level: Level
) -> None:
    histories, states = context.histories(AS_OF_US), context.states(AS_OF_US)
    k = 3 if level is Level.CATEGORY else K
    ranking = heads[level].rank(histories, states, AS_OF_US, k)
    for user in range(len(histories)):
        targets, scores = ranking.of(user)
        assert len(set(targets.tolist())) == k
        assert (np.diff(scores) <= 0).all()
    assert ranking.ranks.min() == 1
    assert ranking.ranks.max() == k
    assert not ranking.fallbacks.any()


@pytest.mark.parametrize("level", list(Level))
def test_an_explanation_adds_up_to_the_score(
    context: ModelContext, heads: dict[Level, RecommendationHead], level: Level
) -> None:
    head = heads[level]
    histories = context.histories(AS_OF_US).select([3])
    states = embed_users(context.backbone, context.content, histories, np.asarray([AS_OF_US]))
    _, table = head.candidates(histories, states, AS_OF_US)
    scores = head.mixture.score(table)
    parts = sum(head.mixture.contributions(table).values())
    np.testing.assert_allclose(parts, scores, rtol=1e-6, atol=1e-6)
    best = int(np.argmax(scores))
    found = explain(head, histories, states, AS_OF_US, int(table.targets[best]), K)
    assert found is not None
    assert found.lifts.sum() == pytest.approx(scores[best] - scores.mean(), abs=1e-6)
    assert (np.diff(np.abs(found.lifts)) <= 0).all()
    place = found.names.index("own/count")
    assert found.values[place] == table.column("own/count")[best]
    assert explain(head, histories, states, AS_OF_US, 10**6, K) is None
    unknown = nobody(context)
    states = embed_users(context.backbone, context.content, unknown, np.asarray([AS_OF_US]))
    popular = int(head.rank(unknown, states, AS_OF_US, 1).of(0)[0][0])
    assert explain(head, unknown, states, AS_OF_US, popular, K) is None


def test_an_item_that_a_longer_list_brings_is_explained_with_that_length(
    rhythm_shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NUM_POPULAR", "NUM_COLLECTIVE", "NUM_TRANSFORMER", "NUM_UNSOLD"):
        monkeypatch.setattr(candidates, name, 1)
    session = Session(rhythm_shop.root)
    user = session.users[0]
    last = session.recommend([user], k=30)["id"].iloc[-1]
    with pytest.raises(UserError, match="was not weighed for a list of 10"):
        session.explain(user, last)
    assert session.explain(user, last, k=30).lift.any()


def test_a_notebook_says_what_it_takes(rhythm_shop: Workspace) -> None:
    session = Session(rhythm_shop.root)
    with pytest.raises(UserError, match="the list of user ids is empty"):
        session.recommend([])
    with pytest.raises(UserError, match="the text '1' came"):
        session.recommend("1")
    with pytest.raises(UserError, match="user id 1 is of type int; ids are texts: give '1'"):
        session.recommend(cast(Any, [1]))
    with pytest.raises(UserError, match="blank query"):
        session.search(" ")
    item = session.predictor.vocabulary.items[0]
    with pytest.raises(UnknownNameError, match="Known: behavior, content"):
        session.similar_items(item, by=cast(Any, "x"))


def test_a_notebook_reads_the_history_of_who_may_be_read(rhythm_shop: Workspace) -> None:
    session = Session(rhythm_shop.root)
    first, second = session.users[:2]
    before = pa.array([AS_OF_US - 1] * 2).cast(pa.timestamp("us", "UTC"))
    nothing = pa.nulls(2, pa.string())
    events = pa.table({"user_id": [first, second], "event_time": before, "item_id": nothing})
    place = rhythm_shop.table(EVENTS.name)
    write_deltalake(str(place), events)
    try:
        assert list(session.history(first).columns) == ["user_id", "event_time"]
        with pytest.raises(UnknownNameError, match="nobody"):
            session.history("nobody")
        suppress(rhythm_shop, user_hash(second))
        with pytest.raises(UnknownNameError):
            Session(rhythm_shop.root).history(second)
    finally:
        shutil.rmtree(place)
        suppression_path(rhythm_shop).unlink(missing_ok=True)


def test_trees_are_taken_apart_into_their_features(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    _, table = heads[Level.ITEM].candidates(
        context.histories(AS_OF_US), context.states(AS_OF_US), AS_OF_US
    )
    bought = table.column("own/count") > 2
    trees = RankingTrees.fit([table], [bought], ["own/count", "own/recency"], num_trees=5)
    mixture = Mixture(weights={TREES: 2.0, "own/recency": -0.5}, trees=trees)
    parts = mixture.contributions(table)
    np.testing.assert_allclose(sum(parts.values()), mixture.score(table), rtol=1e-6, atol=1e-6)
    assert np.corrcoef(parts["own/count"], bought)[0, 1] > 0.9
    assert not parts["collective/taste"].any()


@pytest.mark.parametrize("level", list(Level))
def test_repeats_are_found(
    context: ModelContext, heads: dict[Level, RecommendationHead], level: Level
) -> None:
    ranking = heads[level].rank(context.histories(AS_OF_US), context.states(AS_OF_US), AS_OF_US, K)
    truths = level.truths_of(context.test_futures)
    popular = heads[level].memories.collective.popular[0][:K]
    everyone = np.tile(popular, (len(truths), 1))
    model = np.nanmean(ndcg_at_k(ranking.padded(K), truths, K))
    assert model > np.nanmean(ndcg_at_k(everyone, truths, K)) + 0.1


@pytest.mark.parametrize("level", list(Level))
def test_one_user_alone_gets_the_answer_of_the_batch(
    context: ModelContext, heads: dict[Level, RecommendationHead], level: Level
) -> None:
    histories, states = context.histories(AS_OF_US), context.states(AS_OF_US)
    whole = heads[level].rank(histories, states, AS_OF_US, K)
    for user in (0, 11, 30):
        one = histories.select([user])
        state = embed_users(context.backbone, context.content, one, np.asarray([AS_OF_US]))
        targets, scores = heads[level].rank(one, state, np.asarray([AS_OF_US]), K).of(0)
        np.testing.assert_array_equal(targets, whole.of(user)[0])
        np.testing.assert_allclose(scores, whole.of(user)[1], atol=1e-5)


@pytest.mark.parametrize("level", list(Level))
def test_a_saved_head_answers_alike(
    context: ModelContext,
    heads: dict[Level, RecommendationHead],
    level: Level,
    tmp_path: Path,
) -> None:
    heads[level].save(tmp_path)
    again = RecommendationHead.load(tmp_path, context.vocabulary)
    histories, states = context.histories(AS_OF_US), context.states(AS_OF_US)
    first = heads[level].rank(histories, states, AS_OF_US, K)
    second = again.rank(histories, states, AS_OF_US, K)
    np.testing.assert_array_equal(first.targets, second.targets)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-9)
    assert again.selection == heads[level].selection


def test_a_head_refuses_another_vocabulary_and_an_empty_folder(
    context: ModelContext, heads: dict[Level, RecommendationHead], tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="bfm heads"):
        RecommendationHead.load(tmp_path, context.vocabulary)
    heads[Level.ITEM].save(tmp_path)
    with pytest.raises(VocabularyMismatchError):
        RecommendationHead.load(tmp_path, replace(context.vocabulary, company="other"))


def test_fitting_twice_gives_the_same_weights(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    again = RecommendationHead.fit(context, Level.CATEGORY)
    assert again.mixture.weights == heads[Level.CATEGORY].mixture.weights


def test_whoever_did_nothing_gets_what_is_popular(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    ranking = heads[Level.ITEM].rank(nobody(context), None, AS_OF_US, K)
    assert ranking.fallbacks.tolist() == [True]
    popular = heads[Level.ITEM].memories.collective.popular[0][:K]
    np.testing.assert_array_equal(ranking.of(0)[0], popular)


def test_one_event_is_enough_to_leave_popularity(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    once = bought(context, "new", [30], days_ago=3)
    ranking = heads[Level.ITEM].rank(once, None, AS_OF_US, K)
    assert ranking.fallbacks.tolist() == [False]
    assert FIRST_IDX + 30 in ranking.of(0)[0]


def test_a_new_event_counts_at_once(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    one = context.histories(AS_OF_US).select([5])
    owned = set(one.tokens["item"].tolist())
    new = next(i for i in range(NUM_ITEMS - NUM_UNSOLD) if FIRST_IDX + i not in owned)
    latest = [bought(context, one.user_ids[0], [new], days_ago=d) for d in (9.0, 5.0, 0.5)]
    longer = one
    for number, events in enumerate(latest):
        longer = merge(longer, replace(events, event_hashes=events.event_hashes + number))
    before = heads[Level.ITEM].candidates(one, None, AS_OF_US)[1]
    after = heads[Level.ITEM].candidates(longer, None, AS_OF_US)[1]
    score = heads[Level.ITEM].mixture.score
    rank_after = _place(after.targets, score(after), FIRST_IDX + new)
    rank_before = _place(before.targets, score(before), FIRST_IDX + new)
    assert rank_after < rank_before
    assert rank_after < 10


def _place(targets: np.ndarray, scores: np.ndarray, target: int) -> int:
    if target not in targets:
        return len(targets)
    return int((scores > scores[targets == target][0]).sum())


def test_an_item_with_a_text_and_no_sales_is_a_candidate(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    once = bought(context, "new", [0], days_ago=3)
    purchases = read_purchases(once, context.vocabulary, Level.ITEM, AS_OF_US)
    table = pair_features(purchases, heads[Level.ITEM].memories, None)
    assert UNSOLD & set(table.targets.tolist())


def test_owned_items_can_be_left_out(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    histories = context.histories(AS_OF_US)
    ranking = heads[Level.ITEM].rank(histories, None, AS_OF_US, K, exclude_owned=True)
    for user in range(len(histories)):
        owned = histories.select([user]).tokens["item"]
        targets, _ = ranking.of(user)
        assert len(targets) == K
        assert not np.isin(targets, owned).any()


def test_no_users_give_no_rows(
    heads: dict[Level, RecommendationHead], context: ModelContext
) -> None:
    nothing = context.histories(AS_OF_US).select([])
    assert len(heads[Level.ITEM].rank(nothing, None, AS_OF_US, K).users) == 0


def test_a_longer_list_begins_with_the_shorter(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    histories, states = context.histories(AS_OF_US), context.states(AS_OF_US)
    short = heads[Level.ITEM].rank(histories, states, AS_OF_US, 3).padded(3)
    long = heads[Level.ITEM].rank(histories, states, AS_OF_US, 20).padded(20)
    np.testing.assert_array_equal(long[:, :3], short)


def test_weights_favour_the_input_that_tells(
    context: ModelContext, heads: dict[Level, RecommendationHead]
) -> None:
    table = heads[Level.ITEM].candidates(context.histories(AS_OF_US), None, AS_OF_US)[1]
    chosen = table.column("own/visits") >= 4
    names = ["own/visits", "collective/known_days"]
    mixture = Mixture.fit([table], [chosen], names)
    visits = np.log1p(table.column("own/visits")).std() * mixture.weights["own/visits"]
    days = np.log1p(table.column("collective/known_days")).std()
    assert visits > 3 * abs(days * mixture.weights["collective/known_days"])
    with pytest.raises(ValueError, match="needs trees"):
        Mixture(weights={TREES: 1.0}).score(table)


def test_the_evaluation_shows_every_part_beside_every_baseline(
    context: ModelContext, tmp_path: Path
) -> None:
    ndcg, recall = fit_and_judge(context, tmp_path, Level.ITEM, seed=0)
    assert (ndcg.metric, recall.metric) == ("ndcg@10", "recall@10")
    assert ndcg.task == "recommendation"
    assert {"own", "collective", "content", "transformer", "linear"} <= set(ndcg.parts)
    assert {"popularity", "item_knn", "als", "boosted_ranker"} <= set(ndcg.baselines)
    assert ndcg.interval[0] < ndcg.model < ndcg.interval[1]
    assert ndcg.num_users == sum(len(t) > 0 for t in context.test_futures.items)
    assert ndcg.num_items == NUM_ITEMS
    assert ndcg.model > ndcg.baselines["popularity"]


def test_a_head_without_transformer_is_judged_without_states(context: ModelContext) -> None:
    head = RecommendationHead.fit(context, Level.CATEGORY, use_transformer=False)
    ndcg, _ = evaluate(context, head, baselines={})
    assert "transformer" not in ndcg.parts
    assert ndcg.task == "category_recommendation"


@pytest.mark.parametrize("level", list(Level))
def test_earlier_windows_without_a_purchase_are_left_out(tmp_path: Path, level: Level) -> None:
    latest = AS_OF_US - WINDOW_US
    context = ranking_context(Workspace(tmp_path), num_users=24, sells_from_us=latest)
    assert context.training_times, "there are earlier windows"
    head = RecommendationHead.fit(context, level)
    assert head.selection.keys() == {"linear"}


@pytest.mark.parametrize("level", list(Level))
def test_of_many_users_some_active_ones_are_learned_from(
    tmp_path: Path, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates are made for no others, and a window in which nobody bought is no trouble."""
    latest = AS_OF_US - WINDOW_US
    context = ranking_context(Workspace(tmp_path), num_users=24, sells_from_us=latest)
    futures = context.futures(latest)
    for nothing in (futures.items, futures.categories):
        nothing[:8] = [one[:0] for one in nothing[:8]]
    active = context.histories(latest).user_ids[8:]
    asked: list[list[str]] = []

    def read(histories: Histories, *given: Any) -> Purchases:
        asked.append(histories.user_ids)
        return read_purchases(histories, *given)

    monkeypatch.setattr(recommendation_fitting, "MAX_LEARNED_USERS", 12)
    monkeypatch.setattr(recommendation_fitting, "read_purchases", read)
    head = RecommendationHead.fit(context, level)
    assert head.selection.keys() == {"linear"}
    small = {tuple(users) for users in asked if len(users) <= 12}
    drawn = max(small, key=len)
    assert small == {(), drawn}
    assert len(drawn) == 12
    assert set(drawn) <= set(active)


def test_runs_of_two_seeds_share_no_tree() -> None:
    assert seeds_of(0) == list(SEEDS)
    assert not set(seeds_of(0)) & set(seeds_of(1))


@pytest.mark.parametrize("k", [1, 20])
def test_lists_of_new_items_are_full_for_who_owns_much(
    context: ModelContext, heads: dict[Level, RecommendationHead], k: int
) -> None:
    head = heads[Level.ITEM]
    popular = head.memories.collective.popular[0]
    owned = [int(item) - FIRST_IDX for item in popular[:18]]
    rich, poor = (bought(context, user, owned[:n], 5.0) for user, n in (("rich", 18), ("poor", 1)))
    for alone in (rich, poor):
        states = embed_users(context.backbone, context.content, alone, np.asarray([AS_OF_US]))
        targets, _ = head.rank(alone, states, AS_OF_US, k, exclude_owned=True).of(0)
        assert not set(alone.tokens["item"].tolist()) & set(targets.tolist())
        assert len(targets) == k
    crowd = read_purchases(context.histories(AS_OF_US), context.vocabulary, Level.ITEM, AS_OF_US)
    table = pair_features(crowd, head.memories, None, k, exclude_owned=True)
    assert not (table.column("own/count") > 0).any()
    assert np.bincount(table.users).min() >= k
