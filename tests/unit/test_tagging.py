"""Tagging: hidden words come back from behaviour and partial text, and never from themselves."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from behavior_model.context import ModelContext
from behavior_model.evaluation import tagging as judging
from behavior_model.heads.tag_evidence import basket_tags, tag_matrix, tag_words
from behavior_model.heads.tagging import TaggingHead
from behavior_model.heads.tagging_fitting import fit
from behavior_model.text_encoder import HashedBackend, TextEncoder
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.history import Histories
from tests.rhythm_shop import (
    CATEGORIES,
    CUT_US,
    NUM_ITEMS,
    shop_catalogue,
    shop_content,
    shop_histories,
    shop_vocabulary,
)

HIDDEN = np.asarray([FIRST_IDX + 8, FIRST_IDX + 13])


def makers(catalogue: pa.Table) -> pa.Table:
    """A column that goes with the category: every maker makes one kind of thing."""
    names = [f"maker {i % 4}{(i // 4) % 2}" for i in range(NUM_ITEMS)]
    return catalogue.append_column("maker", pa.array(names))


def context() -> ModelContext:
    histories = shop_histories(60)
    vocabulary = shop_vocabulary()
    fake: dict[str, Any] = {
        "vocabulary": vocabulary,
        "content": shop_content(vocabulary),
        "as_of_us": CUT_US,
        "histories": lambda time: histories.before(time),
    }
    return cast(ModelContext, SimpleNamespace(**fake))


@pytest.fixture(scope="module")
def head() -> TaggingHead:
    return fit(context(), catalogue=makers(shop_catalogue()), hidden=HIDDEN)


def test_without_baskets_and_columns_the_usual_weights_hold() -> None:
    asked = context()
    alone = SimpleNamespace(**{**vars(asked), "histories": lambda time: shop_histories(60).tail(1)})
    catalogue = shop_catalogue().select(["item_id", "title", "category"])
    head = fit(cast(ModelContext, alone), catalogue=catalogue, with_price=False)
    assert head.weights.tolist() == [1.0, 0.2, 0.0]


def test_the_hidden_category_comes_first(head: TaggingHead) -> None:
    found, shares = head.predict(HIDDEN, 3)
    wanted = [CATEGORIES[(int(item) - FIRST_IDX) % 4] for item in HIDDEN]
    assert [names[0] for names in head.names(found)] == wanted
    assert (np.diff(shares, axis=1) <= 0).all()
    assert (shares.sum(axis=1) <= 1 + 1e-6).all()


def test_hidden_words_change_nothing() -> None:
    """Whatever a held-out product is called, its prediction stays the same."""
    catalogue = makers(shop_catalogue())
    renamed = catalogue.to_pylist()
    for item in HIDDEN:
        renamed[int(item) - FIRST_IDX] |= {
            "title": "zebra umbrella",
            "category": "toys",
            "category_path": "zoo > zebra",
        }
    other = pa.Table.from_pylist(renamed, schema=catalogue.schema)
    heads = [fit(context(), catalogue=table, hidden=HIDDEN) for table in (catalogue, other)]
    answers = [head.predict(HIDDEN, 5) for head in heads]
    assert heads[0].tags == heads[1].tags
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_array_equal(answers[0][1], answers[1][1])


def test_own_words_are_not_read_where_nothing_is_hidden(head: TaggingHead) -> None:
    """Of an item that stands alone (own maker, no baskets) its own words are not suggested."""
    rows = makers(shop_catalogue()).to_pylist()
    unsold = NUM_ITEMS - 1
    rows[unsold] |= {
        "title": "bread",
        "maker": "nobody else",
        "brand": None,
        "shelf": None,
        "price": None,
    }
    alone = fit(
        context(), catalogue=pa.Table.from_pylist(rows, schema=makers(shop_catalogue()).schema)
    )
    found, _ = alone.predict(np.asarray([FIRST_IDX + unsold]), 3)
    assert (found == -1).all()


def test_texts_are_tagged_by_meaning(head: TaggingHead) -> None:
    encoder = TextEncoder(None, HashedBackend(32))
    found, _ = head.predict_texts(
        shop_content(shop_vocabulary()), encoder, ["fresh milk", "soap"], 2
    )
    for names, wanted in zip(head.names(found), ("milk", "soap"), strict=True):
        assert wanted in names


def test_baskets_leave_the_item_itself_out() -> None:
    """Two items always bought together: each is told by the other alone."""
    vocabulary = shop_vocabulary()
    one = shop_histories(1).tail(2)
    items = np.asarray([FIRST_IDX, FIRST_IDX + 1], dtype=np.int32)
    together = Histories(
        user_ids=one.user_ids,
        offsets=one.offsets,
        times_us=np.full(2, CUT_US),
        event_hashes=one.event_hashes,
        amounts=one.amounts,
        quantities=one.quantities,
        tokens=one.tokens | {"item": items},
    )
    tags = [[] for _ in range(vocabulary.num_item_indices)]
    for item in range(FIRST_IDX, FIRST_IDX + NUM_ITEMS):
        tags[item] = [CATEGORIES[(item - FIRST_IDX) % 4]]
    names, rows = tag_matrix(tags, np.ones(len(tags), dtype=np.bool_))
    scores = basket_tags(vocabulary, together, rows).toarray()
    assert names[int(scores[FIRST_IDX].argmax())] == "milk"
    assert scores[FIRST_IDX, names.index("bread")] == 0.0
    assert scores[FIRST_IDX + 2].sum() == 0.0


def test_tags_are_words_without_numbers() -> None:
    assert tag_words("SFT DRNK 2 LITER, 12-PK A") == ["sft", "drnk", "liter", "pk"]
    assert tag_words(None) == []


def evidence(num_items: int, num_tags: int, num_features: int) -> TaggingHead:
    """What naive Bayes reads of a head."""
    rng = np.random.default_rng(0)
    dense = rng.random((num_items, num_tags)) < 0.2
    dense[0] = True
    tag_rows = sparse.csr_matrix(dense, dtype=np.float32)
    text = sparse.random(num_items, num_features, 0.05, "csr", np.float32, rng)
    return cast(TaggingHead, SimpleNamespace(tag_rows=tag_rows, text=text))


def test_naive_bayes_ranks_as_its_formula_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "CHUNK", 7)
    head, judged = evidence(80, 30, 60), np.arange(20, 40)
    has = head.text.toarray() > 0
    counts = head.tag_rows.toarray().T @ has + judging.SMOOTHING
    shares = np.log(counts / counts.sum(axis=1, keepdims=True))
    scores = has[judged] @ shares.T + np.log(head.tag_rows.toarray().sum(axis=0))
    ranked = judging._naive_bayes(head, judged)
    found = np.take_along_axis(scores, ranked, axis=1)
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1), rtol=1e-5)


def test_naive_bayes_keeps_its_counts_sparse() -> None:
    head = evidence(20, 300, 60_000)
    head.text.data[1_000:] = 0.0
    head.text.eliminate_zeros()
    dense = 300 * 60_000 * 8
    tracemalloc.start()
    judging._naive_bayes(head, np.arange(10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < dense / 4
