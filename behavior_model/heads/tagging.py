"""Tagging: what a product would be called, from how it is bought and what is known without words.

For an item, candidates from its likest items (partial text and price) and from its baskets are
mixed by three weights (conditional logit), learned on items whose own words play no part. For a raw
text, tags come from the catalogue texts of like meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from scipy import sparse

from behavior_model.heads.documents import read_document
from behavior_model.heads.tag_evidence import neighbour_tags
from behavior_model.items import ItemContent
from behavior_model.text_encoder import TextEncoder
from behavior_model.unit_rows import unit_rows
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import write_json_atomically

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

FEATURES: Final = ("neighbours", "baskets", "frequency")
NUM_LIKE_TEXTS: Final = 10
TEXT_SHARPNESS: Final = 20.0
FLOORS: Final = np.asarray([1e-2, 1e-3, 1e-5])
"""Added to each feature before its logarithm is taken."""
SCHEMA_VERSION: Final = 1
_JSON: Final = "tagging.json"
_TENSORS: Final = "tagging.safetensors"
_MATRICES: Final = ("text", "tag_rows", "baskets", "descriptor_tags")


@dataclass(frozen=True, eq=False)
class TaggingHead:
    """A fitted tagging head over N item indices and T tags.

    Args:
        vocabulary: What item indices mean.
        tags: T words, most frequent first.
        text: float32[N, F], partial texts.
        tag_rows: float32[N, T], which visible item has which tag.
        baskets: float32[N, T], tags of what shares baskets with an item.
        descriptor_tags: float32[P, T], share of items with a tag per distinct catalogue text.
        weights: float64[len(FEATURES)].
    """

    vocabulary: Vocabulary
    tags: tuple[str, ...]
    text: sparse.csr_matrix
    tag_rows: sparse.csr_matrix
    baskets: sparse.csr_matrix
    descriptor_tags: sparse.csr_matrix
    weights: Doubles

    def predict(self, item_idx: Longs, k: int) -> tuple[Longs, Floats]:
        """The best tags of items, from everything but their own words.

        Args:
            item_idx: int64[Q].
            k: Length of the lists.

        Returns:
            int64[Q, k] positions in `tags` (-1 fills short lists) and float32[Q, k], shares of
            belief that sum to 1 over all candidate tags of an item.
        """
        features = self.features(item_idx)
        possible = (features[:, :, :2] > 0).any(axis=2)
        logits = np.log(features + FLOORS) @ self.weights
        logits = np.where(possible, logits, -np.inf)
        beliefs = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-1e9))
        return _best(beliefs, k)

    def features(self, item_idx: Longs) -> Doubles:
        """float64[Q, T, len(FEATURES)]: what speaks for every tag."""
        near = neighbour_tags(self.text, self.tag_rows, item_idx, self._text_columns)
        with_it = self.baskets[item_idx].toarray()
        often = np.broadcast_to(self._frequency, near.shape)
        return np.stack([near, with_it, often], axis=2).astype(np.float64)

    def predict_texts(
        self, content: ItemContent, encoder: TextEncoder, texts: Sequence[str], k: int
    ) -> tuple[Longs, Floats]:
        """The best tags of raw texts: those of the catalogue texts of like meaning.

        Args:
            content: Content of the items, made by the same encoder.
            encoder: Text encoder.
            texts: Q texts.
            k: Length of the lists.

        Returns:
            As `predict`.
        """
        width = content.descriptors.shape[1]
        asked = unit_rows(content.encode_texts(encoder, list(texts))[:, :width])
        likeness = asked @ unit_rows(content.descriptors[1:]).T
        count = min(NUM_LIKE_TEXTS, likeness.shape[1])
        nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :count]
        values = np.take_along_axis(likeness, nearest, axis=1)
        beliefs = np.exp(TEXT_SHARPNESS * (values - values.max(axis=1, keepdims=True)))
        shares = [
            self.descriptor_tags[rows + 1].T @ weights
            for rows, weights in zip(nearest, beliefs, strict=True)
        ]
        return _best(np.asarray(shares, dtype=np.float64), k)

    def with_weights(self, weights: Doubles) -> TaggingHead:
        """The same evidence, mixed by other weights."""
        return replace(self, weights=weights)

    def names(self, positions: Longs) -> list[list[str]]:
        """Tags of the positions that `predict` gave, without the fill."""
        return [[self.tags[i] for i in row if i >= 0] for row in positions.tolist()]

    @cached_property
    def _text_columns(self) -> sparse.csc_matrix:
        return sparse.csr_matrix(self.text.T)

    @cached_property
    def _frequency(self) -> Doubles:
        counts = np.asarray(self.tag_rows.sum(axis=0)).ravel()
        return np.asarray(counts / max(counts.sum(), 1.0), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write JSON and safetensors into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, npt.NDArray[Any]] = {"weights": self.weights}
        for name in _MATRICES:
            matrix: sparse.csr_matrix = getattr(self, name)
            arrays[f"{name}.data"] = matrix.data.astype(np.float32)
            arrays[f"{name}.indices"] = matrix.indices.astype(np.int32)
            arrays[f"{name}.indptr"] = matrix.indptr.astype(np.int64)
            arrays[f"{name}.shape"] = np.asarray(matrix.shape, dtype=np.int64)
        save_file(arrays, folder / _TENSORS)
        facts = {
            "schema_version": SCHEMA_VERSION,
            "vocabulary_id": self.vocabulary.vocabulary_id,
            "tags": list(self.tags),
        }
        write_json_atomically(folder / _JSON, facts)

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> TaggingHead:
        """Read what `save` wrote.

        Raises:
            BundleError: a file is missing, or of another schema version.
            VocabularyMismatchError: the head was fitted with another vocabulary.
        """
        facts = read_document(folder, _JSON, SCHEMA_VERSION, vocabulary, _TENSORS)
        tensors = load_file(folder / _TENSORS)
        return cls(
            vocabulary=vocabulary,
            tags=tuple(facts["tags"]),
            weights=tensors["weights"],
            **{name: _matrix(tensors, name) for name in _MATRICES},
        )


def _matrix(tensors: dict[str, npt.NDArray[Any]], name: str) -> sparse.csr_matrix:
    parts = (tensors[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
    return sparse.csr_matrix(tuple(parts), shape=tuple(tensors[f"{name}.shape"].tolist()))


def _best(beliefs: Doubles, k: int) -> tuple[Longs, Floats]:
    """Rows as shares; the k largest, of equals the more frequent tag first; -1 where nothing."""
    shares = beliefs / np.maximum(beliefs.sum(axis=1, keepdims=True), 1e-300)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(shares, best, axis=1)
    pad = ((0, 0), (0, k - best.shape[1]))
    found = np.pad(np.where(values > 0, best, -1), pad, constant_values=-1)
    return found.astype(np.int64), np.pad(values, pad).astype(np.float32)
