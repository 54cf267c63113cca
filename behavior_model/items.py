"""Content of every item, aligned to item index: what is known of it before anyone buys it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file, save

from behavior_model.recipes import ModelConfig
from behavior_model.text_encoder import Floats, HashedBackend, TextEncoder
from pipelines.contracts import (
    BRAND,
    CATALOGUE,
    CATEGORY_PATH,
    CATEGORY_SEPARATOR,
    DESCRIPTION,
    ITEM_ID,
    PRICE,
    TITLE,
)
from pipelines.errors import WorkspaceError
from pipelines.tokens.binning import FIRST_IDX, MISSING_IDX, UNKNOWN_IDX, Ints
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import write_bytes_atomically, write_json_atomically

MAX_VALUES: Final = 1_000
MIN_VALUE_ITEMS: Final = 5
SAME_TEXT: Final = 1e-3
"""Embeddings of mean square 1 that differ by less everywhere are those of one text."""
ARRAYS_FILE: Final = "items.safetensors"
META_FILE: Final = "items.json"
CONTRACT_FIELDS: Final = (BRAND, "market", "locale")
_TEXT_COLUMNS: Final = (TITLE, BRAND, DESCRIPTION)


class DescribedBy(StrEnum):
    """Texts that the text encoder may read of an item, the richest first."""

    PATH_AND_TITLE = "path and title"
    TITLE = "title"
    PATH = "path"


@dataclass(frozen=True, kw_only=True)
class CategoricalField:
    """A catalogue column with few values. The index of `values[i]` is FIRST_IDX + i."""

    name: str
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of indices, reserved ones included."""
        return FIRST_IDX + len(self.values)


@dataclass(frozen=True, eq=False)
class ItemContent:
    """Content of N item indices (the reserved ones hold nothing).

    Args:
        encoder_name: Text encoder behind `descriptors`.
        descriptors: float32[P, T1], embeddings of distinct texts, centred, mean square 1; row 0 is
            nothing.
        descriptor_idx: int32[N], row of `descriptors` per item.
        words: float32[N, T2], hashed words of title, brand, description and further columns.
        centre: float32[T1], what was taken off the text encoder's embeddings.
        scale: What they were multiplied by afterwards.
        category_idx: int32[N], position in `Vocabulary.categories` plus FIRST_IDX, or MISSING_IDX.
        categorical: int32[N, F], index per field of `categorical_fields`.
        categorical_fields: Brand and further columns with few values.
        described_by: Which text of an item its descriptor is.
    """

    encoder_name: str
    descriptors: Floats
    descriptor_idx: Ints
    words: Floats
    centre: Floats
    scale: float
    category_idx: Ints
    categorical: Ints
    categorical_fields: tuple[CategoricalField, ...]
    described_by: DescribedBy = DescribedBy.PATH_AND_TITLE

    def __len__(self) -> int:
        return len(self.descriptor_idx)

    @cached_property
    def text(self) -> Floats:
        """float32[N, T]: descriptor and words side by side."""
        return np.concatenate([self.descriptors[self.descriptor_idx], self.words], axis=1)

    def encode_texts(
        self, encoder: TextEncoder, texts: Sequence[str], *, is_query: bool = False
    ) -> Floats:
        """float32[n, T]: texts in the space of `text`.

        Raises:
            WorkspaceError: another text encoder made this content.
        """
        self.require(encoder)
        raw = encoder.encode_query(texts) if is_query else encoder.encode(texts)
        hashed = HashedBackend(self.words.shape[1]).embed(list(texts))
        return np.concatenate([(raw - self.centre) * self.scale, hashed * _word_scale(hashed)], 1)

    def require(self, encoder: TextEncoder) -> None:
        """Refuse an encoder whose embeddings do not compare with these.

        Raises:
            WorkspaceError: another text encoder made this content.
        """
        if encoder.name != self.encoder_name:
            raise WorkspaceError(
                f"item texts were made with text encoder '{self.encoder_name}', this machine has "
                f"'{encoder.name}'. Install that one here (`make setup` takes the pinned "
                "packages), or make the texts again with: bfm pretrain --workspace DIR"
            )

    def save(self, folder: Path) -> None:
        """Write arrays as safetensors and the rest as JSON."""
        arrays: dict[str, Any] = {
            "descriptors": self.descriptors,
            "descriptor_idx": self.descriptor_idx,
            "words": self.words.astype(np.float16),
            "centre": self.centre,
            "category_idx": self.category_idx,
            "categorical": self.categorical,
        }
        write_bytes_atomically(folder / ARRAYS_FILE, save(arrays))
        fields = [{"name": f.name, "values": list(f.values)} for f in self.categorical_fields]
        meta = {
            "encoder_name": self.encoder_name,
            "scale": self.scale,
            "fields": fields,
            "described_by": self.described_by,
        }
        write_json_atomically(folder / META_FILE, {**meta, "num_items": len(self)})

    @classmethod
    def load(cls, folder: Path, vocabulary: Vocabulary) -> ItemContent:
        """Read what `save` wrote.

        Raises:
            WorkspaceError: nothing here, or made for another catalogue.
        """
        if not (folder / META_FILE).is_file():
            raise WorkspaceError(f"{folder}: no item content. Make it with: bfm pretrain")
        meta: dict[str, Any] = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        arrays = load_file(folder / ARRAYS_FILE)
        if len(arrays["descriptor_idx"]) != vocabulary.num_item_indices:
            raise WorkspaceError(
                f"{folder}: content of {len(arrays['descriptor_idx'])} item indices, the "
                f"vocabulary has {vocabulary.num_item_indices}. Make it again with: bfm pretrain"
            )
        return cls(
            encoder_name=meta["encoder_name"],
            descriptors=arrays["descriptors"],
            descriptor_idx=arrays["descriptor_idx"],
            words=arrays["words"].astype(np.float32),
            centre=arrays["centre"],
            scale=float(meta["scale"]),
            category_idx=arrays["category_idx"],
            categorical=arrays["categorical"],
            categorical_fields=tuple(
                CategoricalField(name=f["name"], values=tuple(f["values"])) for f in meta["fields"]
            ),
            described_by=DescribedBy(meta.get("described_by", DescribedBy.PATH_AND_TITLE)),
        )


def build_item_content(
    catalogue: pa.Table,
    vocabulary: Vocabulary,
    text_encoder: TextEncoder,
    *,
    max_descriptors: int = ModelConfig.max_descriptors,
    word_width: int = ModelConfig.word_width,
) -> ItemContent:
    """Content of every item of the vocabulary.

    Each item has one *descriptor*: the richest of title and category path, title, category path
    that has at most `max_descriptors` distinct texts, so that the slow text encoder reads each
    text once. Hashed words cover the rest of what is written about the item. Where even the
    shortest descriptor has too many distinct texts, the most bought items get theirs and the
    others rely on hashed words.

    Args:
        catalogue: Canonical catalogue.
        vocabulary: Decides the order of items and categories.
        text_encoder: Encodes the distinct descriptors.
        max_descriptors: The most texts the text encoder is asked for.
        word_width: T2.
    """
    table = _aligned(catalogue, [None] * FIRST_IDX + [*vocabulary.items])
    described_by = _description(table, max_descriptors)
    texts, descriptor_idx = _descriptors(_texts(table, described_by), max_descriptors)
    descriptors, centre, scale = _normalised(text_encoder.encode(texts))
    extras = _extra_columns(catalogue)
    hashed = HashedBackend(word_width).embed(_word_texts(table, extras))
    category = vocabulary.category_by_item_idx
    columns = [_categorical_field(table, name) for name in (*CONTRACT_FIELDS, *extras)]
    used = [(field, idx) for field, idx in columns if len(field.values) > 1]
    return ItemContent(
        encoder_name=text_encoder.name,
        descriptors=descriptors,
        descriptor_idx=descriptor_idx,
        words=(hashed * _word_scale(hashed)).astype(np.float16).astype(np.float32),
        centre=centre,
        scale=scale,
        category_idx=np.where(category >= 0, category + FIRST_IDX, MISSING_IDX).astype(np.int32),
        categorical=np.stack([idx for _, idx in used], axis=1)
        if used
        else np.zeros((vocabulary.num_item_indices, 0), dtype=np.int32),
        categorical_fields=tuple(field for field, _ in used),
        described_by=described_by,
    )


def extend_item_content(
    content: ItemContent, catalogue: pa.Table, vocabulary: Vocabulary, text_encoder: TextEncoder
) -> ItemContent:
    """The content with rows for items that stand behind those that it knows; those rows stay.

    Args:
        content: Of the first item indices of the vocabulary.
        catalogue: Canonical catalogue.
        vocabulary: The grown vocabulary.
        text_encoder: The one that made the content.

    Raises:
        WorkspaceError: another text encoder made the content.
    """
    table = _aligned(catalogue, vocabulary.items[len(content) - FIRST_IDX :])
    texts = _texts(table, content.described_by)
    distinct, row_of_text = _descriptors(texts, len(texts))
    encoded = content.encode_texts(text_encoder, distinct)[:, : content.descriptors.shape[1]]
    descriptors, rows = _joined(content.descriptors, encoded)
    hashed = HashedBackend(content.words.shape[1]).embed(
        _word_texts(table, _extra_columns(catalogue))
    )
    words = (hashed * _word_scale(hashed)).astype(np.float16).astype(np.float32)
    category = vocabulary.category_by_item_idx[len(content) :]
    category_idx = np.where(category >= 0, category + FIRST_IDX, MISSING_IDX).astype(np.int32)
    columns = [_encoded(field, _column(table, field.name)) for field in content.categorical_fields]
    categorical = np.stack(columns, axis=1) if columns else content.categorical[: len(texts)]
    return replace(
        content,
        descriptors=descriptors,
        descriptor_idx=np.concatenate([content.descriptor_idx, rows[row_of_text]]),
        words=np.concatenate([content.words, words]),
        category_idx=np.concatenate([content.category_idx, category_idx]),
        categorical=np.concatenate([content.categorical, categorical]),
    )


def _joined(known: Floats, encoded: Floats) -> tuple[Floats, Ints]:
    """Distinct texts of both, and int32[1 + n]: the row of nothing and of each new text."""
    rows = np.zeros(1 + len(encoded), dtype=np.int32)
    fresh: list[Floats] = []
    for position, text in enumerate(encoded, start=1):
        distances = np.abs(known[1:] - text).max(axis=1, initial=0.0)
        if len(distances) and distances.min() < SAME_TEXT:
            rows[position] = 1 + int(distances.argmin())
        else:
            rows[position] = len(known) + len(fresh)
            fresh.append(text)
    return np.concatenate([known, np.stack(fresh)]) if fresh else known, rows


def _aligned(catalogue: pa.Table, items: Sequence[str | None]) -> dict[str, list[Any]]:
    """Catalogue columns as lists over items; None where the catalogue lacks an item."""
    row_of = {item: row for row, item in enumerate(catalogue.column(ITEM_ID).to_pylist())}
    rows = [None if item is None else row_of.get(item) for item in items]
    picked = catalogue.take(pa.array(rows, type=pa.int64()))
    return {name: picked.column(name).to_pylist() for name in picked.column_names}


def _extra_columns(catalogue: pa.Table) -> tuple[str, ...]:
    known = set(CATALOGUE.column_names)
    texts = (pa.string(), pa.large_string())
    return tuple(f.name for f in catalogue.schema if f.name not in known and f.type in texts)


def _texts(table: dict[str, list[Any]], described_by: DescribedBy) -> list[str]:
    titles = [_readable(title) for title in table[TITLE]]
    paths = [_readable(path) for path in _column(table, CATEGORY_PATH)]
    if described_by is DescribedBy.TITLE:
        return titles
    if described_by is DescribedBy.PATH:
        return paths
    return [
        f"{path}: {title}" if path else title for title, path in zip(titles, paths, strict=True)
    ]


def _description(table: dict[str, list[Any]], limit: int) -> DescribedBy:
    """The richest text of which there are at most so many."""
    for way in DescribedBy:
        texts = {*_texts(table, way)} - {""}
        if 0 < len(texts) <= limit:
            return way
    return DescribedBy.PATH_AND_TITLE


def _descriptors(texts: list[str], limit: int) -> tuple[list[str], Ints]:
    """At most `limit` distinct texts, the first ones, and the row of each; row 0 is nothing."""
    distinct = [text for text in dict.fromkeys(texts) if text][:limit]
    row_of = {text: row for row, text in enumerate(distinct, start=1)}
    return distinct, np.asarray([row_of.get(text, 0) for text in texts], dtype=np.int32)


def _column(table: dict[str, list[Any]], name: str) -> list[Any]:
    """A column that the catalogue may lack."""
    return table.get(name, [None] * len(table[TITLE]))


def _readable(text: str | None) -> str:
    return "" if text is None else text.replace(CATEGORY_SEPARATOR, ", ").strip()


def _normalised(raw: Floats) -> tuple[Floats, Floats, float]:
    """Centred embeddings of mean square 1 below a row of zeros, with the centre and the scale."""
    centre = raw.mean(axis=0) if len(raw) else np.zeros(raw.shape[1], dtype=np.float32)
    centred = raw - centre
    scale = 1.0 / max(float(np.sqrt(np.mean(centred**2))) if len(raw) else 1.0, 1e-6)
    nothing = np.zeros((1, raw.shape[1]), dtype=np.float32)
    return np.concatenate([nothing, centred * np.float32(scale)]), centre, scale


def _word_scale(hashed: Floats) -> np.float32:
    """Rows of length 1 become rows of mean square 1."""
    return np.float32(np.sqrt(hashed.shape[1]))


def _word_texts(table: dict[str, list[Any]], extras: tuple[str, ...]) -> list[str]:
    columns = [table[name] for name in (*_TEXT_COLUMNS, *extras) if name in table]
    prices = _column(table, PRICE)
    rows = zip(*columns, strict=True)
    return [
        " ".join([*(value for value in row if value), *_price_words(price)])
        for row, price in zip(rows, prices, strict=True)
    ]


def _price_words(price: float | None) -> list[str]:
    """A price is a word too: its half octave."""
    return [] if price is None else [f"priceband{int(2 * np.log2(1.0 + max(price, 0.0)))}"]


def _categorical_field(table: dict[str, list[Any]], name: str) -> tuple[CategoricalField, Ints]:
    values = _column(table, name)
    counts = Counter(value for value in values if value is not None)
    frequent = sorted((-n, value) for value, n in counts.items() if n >= MIN_VALUE_ITEMS)
    field = CategoricalField(name=name, values=tuple(v for _, v in frequent[:MAX_VALUES]))
    return field, _encoded(field, values)


def _encoded(field: CategoricalField, values: Sequence[Any]) -> Ints:
    index = {value: FIRST_IDX + i for i, value in enumerate(field.values)}
    encoded = [MISSING_IDX if v is None else index.get(v, UNKNOWN_IDX) for v in values]
    return np.asarray(encoded, dtype=np.int32)
