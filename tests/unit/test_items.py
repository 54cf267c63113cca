from pathlib import Path

import numpy as np
import pytest

from behavior_model.items import ItemContent, build_item_content
from behavior_model.text_encoder import HashedBackend, TextEncoder
from pipelines.errors import WorkspaceError
from pipelines.tokens.binning import FIRST_IDX, MISSING_IDX, UNKNOWN_IDX
from tests.rhythm_shop import CATEGORIES, NUM_ITEMS, shop_catalogue, shop_content, shop_vocabulary


@pytest.fixture(scope="module")
def content() -> ItemContent:
    return shop_content(shop_vocabulary())


def test_arrays_are_aligned_to_item_indices(content: ItemContent) -> None:
    assert len(content) == FIRST_IDX + NUM_ITEMS
    assert content.text.shape == (
        len(content),
        content.descriptors.shape[1] + content.words.shape[1],
    )
    assert content.text.dtype == np.float32


def test_reserved_indices_hold_nothing(content: ItemContent) -> None:
    assert not content.text[:FIRST_IDX].any()
    assert (content.category_idx[:FIRST_IDX] == MISSING_IDX).all()


def test_category_is_the_vocabularys(content: ItemContent) -> None:
    positions = content.category_idx[FIRST_IDX:] - FIRST_IDX
    np.testing.assert_array_equal(positions, np.arange(NUM_ITEMS) % len(CATEGORIES))


def test_an_item_nobody_bought_has_content_like_its_kind(content: ItemContent) -> None:
    unsold = content.text[-1]
    likeness = content.text[FIRST_IDX:-1] @ unsold
    same = np.arange(NUM_ITEMS - 1) % len(CATEGORIES) == (NUM_ITEMS - 1) % len(CATEGORIES)
    assert likeness[same].mean() > likeness[~same].mean()


def test_columns_with_few_values_become_categorical(content: ItemContent) -> None:
    names = [field.name for field in content.categorical_fields]
    assert names == ["brand", "shelf"]
    assert content.categorical[FIRST_IDX:].min() >= FIRST_IDX


def test_rare_values_are_unknown() -> None:
    catalogue = shop_catalogue()
    shelf = ["lonely", *catalogue.column("shelf").to_pylist()[1:]]
    column = catalogue.schema.get_field_index("shelf")
    changed = catalogue.set_column(column, "shelf", [shelf])
    encoder = TextEncoder(None, HashedBackend(8))
    content = build_item_content(changed, shop_vocabulary(), encoder)
    assert content.categorical[FIRST_IDX, 1] == UNKNOWN_IDX


def test_the_richest_descriptor_that_fits_is_chosen() -> None:
    encoder = TextEncoder(None, HashedBackend(8))

    def distinct(limit: int) -> int:
        built = build_item_content(
            shop_catalogue(), shop_vocabulary(), encoder, max_descriptors=limit
        )
        return len(built.descriptors) - 1

    assert distinct(NUM_ITEMS) == NUM_ITEMS
    assert distinct(NUM_ITEMS - 1) == len(CATEGORIES)
    assert distinct(2) == 2


def test_an_item_missing_from_the_catalogue_has_an_empty_place() -> None:
    encoder = TextEncoder(None, HashedBackend(8))
    content = build_item_content(shop_catalogue().slice(0, 30), shop_vocabulary(), encoder)
    assert len(content) == FIRST_IDX + NUM_ITEMS
    assert not content.text[FIRST_IDX + 35].any()


def test_saved_content_comes_back_exactly(content: ItemContent, tmp_path: Path) -> None:
    content.save(tmp_path)
    loaded = ItemContent.load(tmp_path, shop_vocabulary())
    np.testing.assert_array_equal(loaded.text, content.text)
    np.testing.assert_array_equal(loaded.categorical, content.categorical)
    assert loaded.categorical_fields == content.categorical_fields
    assert loaded.encoder_name == content.encoder_name


def test_nothing_saved_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="bfm pretrain"):
        ItemContent.load(tmp_path, shop_vocabulary())


def test_given_texts_stand_near_their_items(content: ItemContent) -> None:
    encoder = TextEncoder(None, HashedBackend(32))
    row = content.encode_texts(encoder, ["shop, soap: soap number 3"])[0]
    scores = content.text[FIRST_IDX:] @ row
    assert int(np.argmax(scores)) % len(CATEGORIES) == CATEGORIES.index("soap")


def test_texts_of_another_encoder_are_refused(content: ItemContent) -> None:
    with pytest.raises(WorkspaceError, match=r"hashed-32.*hashed-8"):
        content.encode_texts(TextEncoder(None, HashedBackend(8)), ["soap"])
