"""A model that begins with another: what is shared says the same, the rest begins anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from behavior_model.core import Core
from behavior_model.embedding import UserStates, embed_users, item_embeddings
from behavior_model.items import ItemContent, build_item_content
from behavior_model.model.backbone import Backbone, new_backbone
from behavior_model.recipes import ModelConfig, after_core, recipe_for
from behavior_model.text_encoder import HashedBackend, TextEncoder
from pipelines.errors import UserError
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.encoder import encode
from pipelines.tokens.vocabulary import PROBE_TYPE, TokenField, Vocabulary
from tests.rhythm_shop import (
    CATEGORIES,
    CUT_US,
    NUM_ITEMS,
    NUM_UNSOLD,
    WINDOW_US,
    _user_rows,
    shop_catalogue,
    shop_content,
    shop_recipe,
    shop_vocabulary,
)

SHAPE: ModelConfig = shop_recipe().model
NEW_CATEGORIES = ("toys", "wine", "bread", "milk", "soap")


def filled(vocabulary: Vocabulary, content: ItemContent, seed: int) -> Backbone:
    """A backbone none of whose weights is where all others begin."""
    torch.manual_seed(seed)
    backbone = new_backbone(vocabulary, content, SHAPE, WINDOW_US).eval().requires_grad_(False)
    for weights in backbone.parameters():
        weights += 0.1 * torch.randn_like(weights)
    return backbone


@pytest.fixture(scope="module")
def core() -> Core:
    content = shop_content(shop_vocabulary())
    return Core(
        path=Path("core"),
        backbone=filled(shop_vocabulary(), content, seed=1),
        content=content,
        model_version="v1",
        training_cut_us=CUT_US,
    )


def later_vocabulary(company: str = "rhythm-shop") -> Vocabulary:
    """Items in another order, categories in another order and one more, event types one more."""
    before = shop_vocabulary()
    sold = NUM_ITEMS - NUM_UNSOLD
    items = (*reversed(before.items[:sold]), *before.items[sold:])
    category = dict(zip(before.items, before.item_categories, strict=True))
    return replace(
        before,
        company=company,
        fields=tuple(_grown(field) for field in before.fields),
        items=items,
        categories=NEW_CATEGORIES,
        item_categories=tuple(NEW_CATEGORIES.index(CATEGORIES[category[one]]) for one in items),
    )


def _grown(field: TokenField) -> TokenField:
    if field.name != "event_type":
        return field
    return replace(field, values=(PROBE_TYPE, "search", *field.values[1:]))


def begun(core: Core, vocabulary: Vocabulary, catalogue: pa.Table | None = None) -> Backbone:
    content = shop_content(vocabulary, catalogue)
    backbone = filled(vocabulary, content, seed=2)
    core.shared_with(vocabulary, content).give_to(backbone)
    return backbone


def states(backbone: Backbone) -> UserStates:
    """Of twelve users, whose events the backbone's own vocabulary encodes."""
    rng = np.random.default_rng(0)
    parts = [_user_rows(user, rng) for user in range(12)]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    rows = pa.Table.from_pylist([row for part in parts for row in part])
    histories = encode(backbone.vocabulary, rows, [f"u{i}" for i in range(12)], offsets)
    times = np.full(12, CUT_US, dtype=np.int64)
    return embed_users(backbone, shop_content(backbone.vocabulary), histories, times)


def by_name(backbone: Backbone) -> dict[str, np.ndarray]:
    rows = item_embeddings(backbone, shop_content(backbone.vocabulary))[FIRST_IDX:, :-1]
    return dict(zip(backbone.vocabulary.items, rows, strict=True))


def test_the_same_company_begins_where_its_last_model_ended(core: Core) -> None:
    backbone = begun(core, later_vocabulary())
    expected, found = by_name(core.backbone), by_name(backbone)
    assert all(np.allclose(found[item], expected[item], atol=1e-6) for item in expected)
    before, after = states(core.backbone), states(backbone)
    assert np.allclose(after.embedding, before.embedding, atol=1e-4)
    assert np.allclose(after.item_query, before.item_query, atol=1e-4)
    assert np.allclose(after.survival, before.survival, atol=1e-4)
    order = [NEW_CATEGORIES.index(name) for name in CATEGORIES]
    assert np.allclose(after.category_logits[:, order], before.category_logits, atol=1e-4)
    wine = FIRST_IDX + NEW_CATEGORIES.index("wine")
    fresh = filled(later_vocabulary(), shop_content(later_vocabulary()), seed=2)
    assert torch.equal(backbone.items.category.weight[wine], fresh.items.category.weight[wine])


def test_equal_ids_of_another_company_are_chance(core: Core) -> None:
    vocabulary = later_vocabulary("another shop")
    shared = core.shared_with(vocabulary, shop_content(vocabulary))
    assert str(shared) == (
        "model v1: 6 of 7 fields, the reading of texts, 4 of 5 categories, 0 of 40 items"
    )
    backbone = begun(core, vocabulary)
    fresh = filled(vocabulary, shop_content(vocabulary), seed=2)
    identities = [one.items.identity.weight for one in (backbone, fresh, core.backbone)]
    assert torch.equal(identities[0][FIRST_IDX:], identities[1][FIRST_IDX:])
    assert torch.equal(identities[0][:FIRST_IDX], identities[2][:FIRST_IDX]), "no item is no chance"
    assert torch.equal(backbone.items.descriptor.weight, core.backbone.items.descriptor.weight)
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            backbone.transformer.parameters(), core.backbone.transformer.parameters(), strict=True
        )
    )
    note = {field.name: start for field, start in _starts(backbone)}["note_0"]
    assert torch.equal(backbone.events.fields.weight[note], fresh.events.fields.weight[note])


def _starts(backbone: Backbone) -> list[tuple[TokenField, int]]:
    fields = [field for field in backbone.vocabulary.fields if field.name != "item"]
    return list(zip(fields, backbone.events.starts.tolist(), strict=True))


def test_texts_of_another_encoder_are_read_anew(core: Core) -> None:
    vocabulary = later_vocabulary()
    other = build_item_content(
        shop_catalogue(), vocabulary, TextEncoder(None, HashedBackend(24)), word_width=16
    )
    backbone = filled(vocabulary, other, seed=2)
    before = backbone.items.descriptor.weight.clone()
    shared = core.shared_with(vocabulary, other)
    shared.give_to(backbone)
    assert "not the reading of texts" in str(shared)
    assert torch.equal(backbone.items.descriptor.weight, before)


@pytest.mark.parametrize(("num_events", "epochs"), [(1_000, 4), (2_000_000, 2)])
def test_after_a_core_few_passes_follow_at_a_lower_rate(num_events: int, epochs: int) -> None:
    before = recipe_for("tiny", num_events=num_events)
    after = after_core(before)
    assert after.training.epochs == epochs
    assert after.training.learning_rate == pytest.approx(before.training.learning_rate / 3)
    assert after.model == before.model


def test_a_core_that_does_not_fit_is_refused(core: Core) -> None:
    core.check(SHAPE, CUT_US)
    with pytest.raises(UserError, match=r"width 32 and 64.*--size"):
        core.check(replace(SHAPE, width=64), CUT_US)
    with pytest.raises(UserError, match="know the future"):
        core.check(SHAPE, CUT_US - 1)
