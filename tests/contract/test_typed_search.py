"""A shop whose customers type words that its catalogue lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import write_deltalake

from behavior_model.context import ModelContext
from behavior_model.evaluation import search
from behavior_model.heads.recommendation_fitting import rankings
from behavior_model.heads.search import SearchHead
from behavior_model.heads.search_candidates import (
    PERSONAL_FEATURES,
    RECOMMENDED,
    PersonalSearch,
)
from behavior_model.heads.search_fitting import Asked, at_cut, collect
from behavior_model.memory.queries import QueryMemory
from behavior_model.model.backbone import new_backbone, save_backbone
from behavior_model.text_encoder import HashedBackend, TextEncoder
from pipelines.contracts import EVENT_ID, EVENTS, QUERY, TOKEN_SEQUENCES, USER_FLAGS
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import TokenKind, Vocabulary
from pipelines.workspace import Workspace
from tests.rhythm_bundle import AS_OF_US, write_labels
from tests.rhythm_shop import WINDOW_US, shop_histories, shop_recipe, shop_workspace

NUM_USERS = 96
SLANG = ("stulle", "melk", "glibber", "daddelkram")
ENCODER = TextEncoder(None, HashedBackend(32))


def typing(vocabulary: Vocabulary) -> Vocabulary:
    """The note of every event is what was typed."""
    fields = [
        replace(field, column=QUERY) if field.kind is TokenKind.WORD else field
        for field in vocabulary.fields
    ]
    return replace(vocabulary, fields=tuple(fields))


def typed_events(vocabulary: Vocabulary, histories: Histories) -> pa.Table:
    """Every purchase was asked for by the slang of its category, or with a slip."""
    ids, texts = [], []
    categories = vocabulary.category_by_item_idx[histories.tokens["item"]]
    for user in range(len(histories)):
        start, stop = histories.offsets[user : user + 2]
        for number, category in enumerate(categories[start:stop].tolist()):
            word = SLANG[category]
            ids.append(f"{user}-{number}")
            texts.append(word[:-2] + word[-1] if number % 5 == 0 else word.capitalize())
    return pa.table({EVENT_ID: ids, QUERY: texts})


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ModelContext:
    workspace = shop_workspace(Workspace(tmp_path_factory.mktemp("typing")), NUM_USERS)
    vocabulary = typing(Vocabulary.load(workspace.vocabulary_path))
    vocabulary.save(workspace.vocabulary_path)
    histories = shop_histories(NUM_USERS)
    sequences = histories.to_arrow(vocabulary.vocabulary_id)
    write_deltalake(str(workspace.table(TOKEN_SEQUENCES.name)), sequences, mode="overwrite")
    events = typed_events(vocabulary, histories)
    write_deltalake(str(workspace.table(EVENTS.name)), events)
    write_labels(workspace, NUM_USERS)
    flags = {"user_id": ["user-005"], "flag": ["bot"], "reason": ["planted"], "score": [9.0]}
    write_deltalake(str(workspace.table(USER_FLAGS.name)), pa.table(flags))
    context = ModelContext.open(workspace, as_of_us=AS_OF_US)
    torch.manual_seed(0)
    backbone = new_backbone(vocabulary, context.content, shop_recipe().model, WINDOW_US)
    save_backbone(workspace.checkpoints / "backbone", backbone)
    return context


def test_nothing_typed_at_or_after_the_cut_is_learned_from(context: ModelContext) -> None:
    moment = context.validation_time
    for before in (moment, AS_OF_US):
        typed = context.typed_queries(before)
        assert len(typed) > 100
        assert typed.times_us.max() < before
        assert "user-005" not in typed.user_ids, "a bot"
    ahead = context.test_typed_queries
    assert ahead.times_us.min() >= AS_OF_US
    assert ahead.times_us.max() < AS_OF_US + WINDOW_US
    assert "user-005" not in ahead.user_ids
    with pytest.raises(ValueError, match="only test_typed_queries may judge it"):
        context.typed_queries(AS_OF_US + 1)


def test_search_is_learned_and_judged_on_what_was_typed(
    context: ModelContext, tmp_path: Path
) -> None:
    head, results = search.evaluate(context, ENCODER)
    (result,) = (r for r in results if (r.split, r.metric) == ("test/typed", "ndcg@10"))
    assert result.num_users >= 50
    assert result.model > result.baselines["BM25"] + 0.1, "no text has these words"
    assert result.model > result.parts["without what was taken after like words"] + 0.1
    assert result.model >= result.baselines["most taken after like words"] - 0.05
    assert {r.split for r in results} >= {"test/catalogue words"}
    *_, familiarities = head.predict([*SLANG, "qzx wvkj"], 5)
    assert (familiarities[:-1] > 0.01).all()
    assert familiarities[-1] < 0.01
    head.save(tmp_path)
    loaded = SearchHead.load(tmp_path, context.vocabulary, context.content, ENCODER)
    for word, category in zip(SLANG, range(4), strict=True):
        ranked, *_ = loaded.predict([word], 5)
        categories = context.vocabulary.category_by_item_idx[ranked[0]]
        assert (ranked[0] >= FIRST_IDX).all()
        assert (categories == category).mean() > 0.5
        np.testing.assert_array_equal(ranked, head.predict([word], 5)[0])


def test_strangers_are_looked_at_once(context: ModelContext) -> None:
    bare, _ = search.validation_examples(
        context, ENCODER, item_embeddings=None, num_queries=10, seed=0
    )
    weights = np.eye(len(PERSONAL_FEATURES))[PERSONAL_FEATURES.index(RECOMMENDED)]
    head = replace(bare, personal=PersonalSearch(rankings(context, seed=0).final, weights))
    texts, truths = ["Stulle", "Melk"], [np.asarray([FIRST_IDX]), np.asarray([FIRST_IDX + 1])]
    first = {f"{name}@10": np.asarray([0.25, 0.75]) for name in ("ndcg", "recall", "mrr")}
    for users, same in (([-1, -1], [True, True]), ([-1, 3], [True, False])):
        asked = Asked(np.asarray(users), texts, truths)
        found = collect(context, head, AS_OF_US, asked)
        figures = search._looked_at_again(context, head, asked, found, first)
        assert (figures["ndcg@10"] == first["ndcg@10"]).tolist() == same


def test_a_renewal_counts_what_was_typed_up_to_now(context: ModelContext) -> None:
    bare, _ = search.validation_examples(
        context, ENCODER, item_embeddings=None, num_queries=10, seed=0
    )
    assert bare.queries.typists.sum() < at_cut(bare, context, bare.weights).queries.typists.sum()
    later = ModelContext.open(context.workspace, as_of_us=AS_OF_US + WINDOW_US)
    renewed = at_cut(bare, later, bare.weights).queries
    expected = QueryMemory.fit(later.typed_queries(later.as_of_us))
    assert renewed.texts == expected.texts
    np.testing.assert_array_equal(renewed.takers, expected.takers)
