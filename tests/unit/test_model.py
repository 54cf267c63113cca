from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from behavior_model.embedding import UserStates, embed_users, item_embeddings, text_embeddings
from behavior_model.model.backbone import Backbone, load_backbone, new_backbone, save_backbone
from behavior_model.model.batch import Segments, lay_out
from behavior_model.model.item_tower import ContentTensors
from behavior_model.model.rotary import frequencies, rotate, rotation
from pipelines.errors import VocabularyMismatchError, WorkspaceError
from pipelines.tokens.binning import DAY_US, FIRST_IDX
from pipelines.tokens.history import Histories
from tests.rhythm_shop import (
    CUT_US,
    NUM_ITEMS,
    NUM_UNSOLD,
    WINDOW_US,
    shop_content,
    shop_histories,
    shop_recipe,
    shop_vocabulary,
)

VOCABULARY = shop_vocabulary()
CONTENT = shop_content(VOCABULARY)
HISTORIES = shop_histories(10)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    made = new_backbone(VOCABULARY, CONTENT, shop_recipe().model, WINDOW_US).eval()
    return made.requires_grad_(False)


def embed(backbone: Backbone, histories: Histories, batch_size: int = 32) -> UserStates:
    times = np.full(len(histories), CUT_US)
    return embed_users(backbone, CONTENT, histories, times, batch_size=batch_size)


def states_of(backbone: Backbone, histories: Histories, probe_times: list[int]) -> torch.Tensor:
    """States of the events of one user, with probes beside them."""
    segments = Segments(
        starts=histories.offsets[:1],
        stops=histories.offsets[1:2],
        users=np.asarray([0]),
        probe_segments=np.zeros(len(probe_times), dtype=np.int64),
        probe_times_us=np.asarray(probe_times, dtype=np.int64),
    )
    batch = lay_out(VOCABULARY, histories, segments, int(segments.lengths[0]))
    items = backbone.embed_items(ContentTensors(CONTENT), batch.items_BL)
    return backbone(batch, items).flatten(0, 1)[batch.event_flat]


def test_an_answer_does_not_depend_on_who_else_is_asked(backbone: Backbone) -> None:
    together = embed(backbone, HISTORIES)
    for batch_size in (1, 3):
        apart = embed(backbone, HISTORIES, batch_size)
        np.testing.assert_allclose(apart.embedding, together.embedding, atol=1e-5)
        np.testing.assert_allclose(apart.item_query, together.item_query, atol=1e-4)
        np.testing.assert_allclose(apart.category_logits, together.category_logits, atol=1e-5)
    reversed_ = embed(backbone, HISTORIES.select(list(range(10))[::-1]))
    np.testing.assert_allclose(reversed_.embedding[::-1], together.embedding, atol=1e-5)
    assert reversed_.user_ids == together.user_ids[::-1]


def test_the_same_call_gives_the_same_bits(backbone: Backbone) -> None:
    np.testing.assert_array_equal(
        embed(backbone, HISTORIES).embedding, embed(backbone, HISTORIES).embedding
    )


def test_what_comes_later_changes_nothing_before(backbone: Backbone) -> None:
    one = HISTORIES.select([0])
    half = one.tail(40).before(int(one.tail(40).times_us[20]))
    longer = one.tail(40)
    short = states_of(backbone, half, [])
    long = states_of(backbone, longer, [])
    torch.testing.assert_close(long[: len(short)], short, atol=1e-5, rtol=1e-5)


def test_no_event_sees_a_probe(backbone: Backbone) -> None:
    one = HISTORIES.select([0]).tail(30)
    times = [int(one.times_us[5]) + 1, int(one.times_us[-1]) + DAY_US]
    without = states_of(backbone, one, [])
    torch.testing.assert_close(states_of(backbone, one, times), without, atol=1e-5, rtol=1e-5)


def test_events_at_the_prediction_time_are_not_read(backbone: Backbone) -> None:
    time = CUT_US - 50 * DAY_US
    times = np.full(len(HISTORIES), time)
    whole = embed_users(backbone, CONTENT, HISTORIES, times)
    cut = embed_users(backbone, CONTENT, HISTORIES.before(time), times)
    np.testing.assert_allclose(whole.embedding, cut.embedding, atol=1e-6)


def test_silence_moves_the_embedding(backbone: Backbone) -> None:
    times = np.full(len(HISTORIES), CUT_US)
    soon = embed_users(backbone, CONTENT, HISTORIES, times)
    late = embed_users(backbone, CONTENT, HISTORIES, times + 90 * DAY_US)
    assert np.abs(soon.embedding - late.embedding).max() > 0.01


def test_a_user_without_events_is_answered_with_numbers(backbone: Backbone) -> None:
    empty = HISTORIES.select([0, 1]).before(int(HISTORIES.times_us[HISTORIES.offsets[0]]))
    states = embed(backbone, empty)
    assert empty.lengths[0] == 0
    for array in (states.embedding, states.item_query, states.category_logits, states.survival):
        assert np.isfinite(array).all()


def test_survival_falls_and_chances_are_chances(backbone: Backbone) -> None:
    states = embed(backbone, HISTORIES)
    assert (np.diff(states.survival, axis=1) <= 0).all()
    assert ((states.inactive > 0) & (states.inactive < 1)).all()


def test_order_within_a_basket_leaves_the_probe_almost_alone(backbone: Backbone) -> None:
    """All of a basket has one time: only the causal mask can tell the order."""
    cos, sin = rotation(torch.zeros(1, 3, 2), frequencies(16))
    x = torch.randn(1, 2, 3, 16)
    torch.testing.assert_close(rotate(x, cos, sin), x)


def test_attention_sees_differences_of_clocks_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 4, 32), torch.randn(1, 1, 4, 32)
    clocks = torch.rand(1, 4, 2) * 10

    def scores(shift: float) -> torch.Tensor:
        cos, sin = rotation(clocks + shift, frequencies(32))
        return rotate(q, cos, sin) @ rotate(k, cos, sin).transpose(-1, -2)

    torch.testing.assert_close(scores(0.0), scores(7.0), atol=1e-4, rtol=1e-4)


def test_item_embeddings_have_length_one_and_a_bias(backbone: Backbone) -> None:
    table = item_embeddings(backbone, CONTENT)
    assert table.shape == (FIRST_IDX + NUM_ITEMS, backbone.config.model.width + 1)
    np.testing.assert_allclose(np.linalg.norm(table[FIRST_IDX:, :-1], axis=1), 1.0, atol=1e-5)
    sold = table[FIRST_IDX : FIRST_IDX + NUM_ITEMS - NUM_UNSOLD, -1]
    assert sold.min() > table[-NUM_UNSOLD:, -1].max()


def test_an_item_nobody_bought_stands_with_its_kind(backbone: Backbone) -> None:
    table = item_embeddings(backbone, CONTENT)[FIRST_IDX:, :-1]
    likeness = table[:-1] @ table[-1]
    same = np.arange(NUM_ITEMS - 1) % 4 == (NUM_ITEMS - 1) % 4
    assert likeness[same].mean() > likeness[~same].mean() + 0.1


def test_texts_stand_in_the_space_of_items(backbone: Backbone) -> None:
    rows = text_embeddings(backbone, CONTENT.text[[FIRST_IDX]])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    own, other = item_embeddings(backbone, CONTENT)[[-4, -3], :-1]
    assert rows[0] @ own > rows[0] @ other


def test_a_saved_backbone_answers_alike(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(tmp_path, backbone)
    loaded = load_backbone(tmp_path, VOCABULARY)
    assert not loaded.training
    np.testing.assert_array_equal(
        embed(loaded, HISTORIES).embedding, embed(backbone, HISTORIES).embedding
    )
    assert loaded.config == backbone.config


def test_a_backbone_of_another_vocabulary_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    save_backbone(tmp_path, backbone)
    other = replace(VOCABULARY, company="another")
    with pytest.raises(VocabularyMismatchError, match=VOCABULARY.vocabulary_id):
        load_backbone(tmp_path, other)


def test_no_backbone_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="bfm pretrain"):
        load_backbone(tmp_path, VOCABULARY)
