"""The vocabulary as a file: frozen under its hash, refused when it was changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.errors import VocabularyMismatchError
from pipelines.tokens.binning import FIRST_IDX, NUM_GAP_BINS, NUM_WORD_BUCKETS
from pipelines.tokens.vocabulary import TokenField, TokenKind, Vocabulary, latest_vocabulary
from pipelines.workspace import Workspace
from tests.tiny_histories import tiny_vocabulary


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    vocabulary = tiny_vocabulary()
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert loaded == vocabulary
    assert loaded.vocabulary_id == vocabulary.vocabulary_id


def test_the_id_follows_the_content() -> None:
    vocabulary = tiny_vocabulary()
    assert replace(vocabulary, items=("i1", "i3", "i2")).vocabulary_id != vocabulary.vocabulary_id
    assert replace(vocabulary).vocabulary_id == vocabulary.vocabulary_id


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.json"
    tiny_vocabulary().save(path)
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "items": ["i1", "i2", "i9"]}))
    with pytest.raises(VocabularyMismatchError, match=r"changed after it was written"):
        Vocabulary.load(path)
    path.write_text(json.dumps({**raw, "schema_version": 99}))
    with pytest.raises(VocabularyMismatchError, match=r"schema version 99 came, 1 is read"):
        Vocabulary.load(path)


def test_added_items_stand_behind_the_others_under_the_same_id(tmp_path: Path) -> None:
    vocabulary = tiny_vocabulary()
    first = vocabulary.grown_by({"i9": "food", "i1": "food", "i4": None, "i7": "unheard of"})
    grown = first.grown_by({"i0": None, "i9": None})
    assert grown.items == (*vocabulary.items, "i4", "i7", "i9", "i0")
    food = vocabulary.categories.index("food")
    assert grown.item_categories[-4:] == (-1, -1, food, -1)
    assert grown.item_counts[-4:] == (0, 0, 0, 0)
    assert grown.vocabulary_id == vocabulary.vocabulary_id != grown.content_id
    assert first.content_id != grown.content_id
    assert grown.fitted == vocabulary
    grown.save(tmp_path / "grown.json")
    assert Vocabulary.load(tmp_path / "grown.json") == grown


def test_a_changed_added_item_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "grown.json"
    tiny_vocabulary().grown_by({"i9": None}).save(path)
    path.write_text(path.read_text().replace('"i9"', '"i8"'))
    with pytest.raises(VocabularyMismatchError, match=r"changed after it was written"):
        Vocabulary.load(path)


def test_a_grown_vocabulary_of_another_fit_is_passed_over(tmp_path: Path) -> None:
    workspace, vocabulary = Workspace(tmp_path), tiny_vocabulary()
    vocabulary.save(workspace.vocabulary_path)
    assert latest_vocabulary(workspace) == vocabulary
    grown = vocabulary.grown_by({"i9": None})
    grown.save(workspace.grown_vocabulary_path)
    assert latest_vocabulary(workspace) == grown
    replace(vocabulary, company="another").save(workspace.vocabulary_path)
    assert latest_vocabulary(workspace).num_added == 0


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(VocabularyMismatchError, match="bfm tokenize"):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(VocabularyMismatchError, match=r"heads was made with vocabulary 1234"):
        tiny_vocabulary().require("1234", "heads")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": ("i1", "i1", "i3")}, "item given twice: i1"),
        ({"categories": ("food", "food")}, "category given twice: food"),
        ({"item_counts": (1,)}, "differ in length"),
    ],
)
def test_twins_and_ragged_items_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_vocabulary(), **changes)


def test_positions_become_indices_after_the_reserved_ones() -> None:
    vocabulary = tiny_vocabulary()
    assert vocabulary.item_idx_of == {"i1": 3, "i2": 4, "i3": 5}
    assert vocabulary.category_by_item_idx.tolist() == [-1, -1, -1, 0, -1, 0]
    assert vocabulary.count_by_item_idx.tolist() == [0, 0, 0, 5, 2, 0]
    assert vocabulary.num_item_indices == FIRST_IDX + 3


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("event_type", FIRST_IDX + 3),
        ("amount", FIRST_IDX + 2 + 2),
        ("query_0", FIRST_IDX + NUM_WORD_BUCKETS),
        ("gap", FIRST_IDX + NUM_GAP_BINS),
        ("hour", FIRST_IDX + 24),
        ("weekday", FIRST_IDX + 7),
        ("session_start", FIRST_IDX + 2),
    ],
)
def test_sizes_cover_every_index(name: str, size: int) -> None:
    assert tiny_vocabulary().field(name).size == size


def test_items_have_no_size_of_their_own() -> None:
    with pytest.raises(ValueError, match="num_item_indices"):
        _ = TokenField(name="item", kind=TokenKind.ITEM).size
    with pytest.raises(KeyError):
        tiny_vocabulary().field("no such field")


def test_words_of_one_text_share_a_table() -> None:
    vocabulary = tiny_vocabulary()
    assert {vocabulary.field(f"query_{i}").table for i in range(2)} == {"query"}
    assert vocabulary.field("store").table == "store"
