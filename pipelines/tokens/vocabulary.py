"""The vocabulary: what was seen before the training cut, frozen under a content hash."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipelines.errors import VocabularyMismatchError
from pipelines.tokens.binning import FIRST_IDX, NUM_GAP_BINS, NUM_WORD_BUCKETS
from pipelines.workspace import Workspace, write_json_atomically

SCHEMA_VERSION: Final = 1
PROBE_TYPE: Final = "[PROBE]"


class TokenKind(StrEnum):
    """How a token field is encoded from an event."""

    CATEGORICAL = "categorical"  # index of a value
    ITEM = "item"  # index into the vocabulary's items
    NUMBER = "number"  # quantile bin
    WORD = "word"  # one hashed word of a text field
    GAP = "gap"  # time since the previous event
    HOUR = "hour"  # hour of day, UTC
    WEEKDAY = "weekday"  # Monday is the first
    SESSION_START = "session_start"  # first event after 30 minutes of silence


TIME_KINDS: Final = (
    TokenKind.GAP,
    TokenKind.HOUR,
    TokenKind.WEEKDAY,
    TokenKind.SESSION_START,
)
"""Kinds that follow from event times alone."""

_PER_ITEM: Final = ("items", "item_counts", "item_categories")
_TIME_SIZES: Final = {
    TokenKind.GAP: NUM_GAP_BINS,
    TokenKind.HOUR: 24,
    TokenKind.WEEKDAY: 7,
    TokenKind.SESSION_START: 2,
}


@dataclass(frozen=True, kw_only=True)
class TokenField:
    """One integer of every position.

    Args:
        name: Unique name; the column of `token_sequences` is `token_<name>`.
        kind: How it is encoded.
        column: The events column that it reads ("" for time fields).
        values: Ordinary values in order of index (categorical only).
        edges: Inner bin edges, ascending (number only).
        slot: Position of the word in the text (word only).
    """

    name: str
    kind: TokenKind
    column: str = ""
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    slot: int = 0

    @property
    def table(self) -> str:
        """Name of the embedding table; the words of one text share theirs."""
        return self.column if self.kind is TokenKind.WORD else self.name

    @property
    def size(self) -> int:
        """Number of indices, reserved ones included. Items take theirs from the vocabulary."""
        if self.kind is TokenKind.CATEGORICAL:
            return FIRST_IDX + len(self.values)
        if self.kind is TokenKind.NUMBER:
            return FIRST_IDX + 2 + len(self.edges)
        if self.kind is TokenKind.WORD:
            return FIRST_IDX + NUM_WORD_BUCKETS
        if self.kind is TokenKind.ITEM:
            raise ValueError("the size of an item field is Vocabulary.num_item_indices")
        return FIRST_IDX + _TIME_SIZES[self.kind]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Everything that turns outside values into indices.

    Args:
        company: Name of the company.
        fitted_before: ISO time; nothing at or after it was looked at.
        fields: Token fields in the order of the model's inputs.
        items: Outside item ids; most bought in the training period first, ties by id. The index of
            `items[i]` is `FIRST_IDX + i`. Holds the whole catalogue, sold or not.
        item_counts: int per item, events in the training period.
        categories: Outside category names in order.
        item_categories: Position in `categories` per item, -1 where an item has none.
        num_added: Items at the end of `items` that came after the vocabulary was fitted. They
            change no index, so what was encoded before stays as it is; count 0.
    """

    company: str
    fitted_before: str
    fields: tuple[TokenField, ...]
    items: tuple[str, ...]
    item_counts: tuple[int, ...]
    categories: tuple[str, ...]
    item_categories: tuple[int, ...]
    schema_version: int = field(default=SCHEMA_VERSION)
    num_added: int = 0

    def __post_init__(self) -> None:
        _refuse_twice("token field", [f.name for f in self.fields])
        _refuse_twice("item", list(self.items))
        _refuse_twice("category", list(self.categories))
        if not len(self.items) == len(self.item_counts) == len(self.item_categories):
            raise ValueError("items, item_counts and item_categories differ in length")

    @property
    def num_item_indices(self) -> int:
        return FIRST_IDX + len(self.items)

    @cached_property
    def item_idx_of(self) -> dict[str, int]:
        """Outside item id -> index."""
        return {item: FIRST_IDX + i for i, item in enumerate(self.items)}

    @cached_property
    def category_by_item_idx(self) -> npt.NDArray[np.int32]:
        """int32[num_item_indices]: position in `categories`, -1 where there is none."""
        head = np.full(FIRST_IDX, -1, dtype=np.int32)
        return np.concatenate([head, np.asarray(self.item_categories, dtype=np.int32)])

    @cached_property
    def count_by_item_idx(self) -> npt.NDArray[np.int64]:
        """int64[num_item_indices]: events in the training period."""
        head = np.zeros(FIRST_IDX, dtype=np.int64)
        return np.concatenate([head, np.asarray(self.item_counts, dtype=np.int64)])

    def category_of_items(self) -> dict[str, str | None]:
        """Outside item id -> name of its category, None where there is none."""
        names = [None if idx < 0 else self.categories[idx] for idx in self.item_categories]
        return dict(zip(self.items, names, strict=True))

    @cached_property
    def item_field(self) -> str:
        """Name of the token field that holds item indices."""
        return next(one.name for one in self.fields if one.kind is TokenKind.ITEM)

    def field(self, name: str) -> TokenField:
        """The token field of that name (KeyError when there is none)."""
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    @cached_property
    def vocabulary_id(self) -> str:
        """Content hash (16 hex digits of SHA-256 over canonical JSON) without added items: two
        vocabularies of one id encode alike what both know."""
        content = asdict(self.fitted)
        del content["num_added"]
        return _digest(content)

    @cached_property
    def content_id(self) -> str:
        """Content hash with added items; `vocabulary_id` where there are none."""
        return _digest(asdict(self)) if self.num_added else self.vocabulary_id

    @property
    def fitted(self) -> Vocabulary:
        """Without added items."""
        stop = len(self.items) - self.num_added
        cut = {name: getattr(self, name)[:stop] for name in _PER_ITEM}
        return replace(self, **cut, num_added=0) if self.num_added else self

    def grown_by(self, items: Mapping[str, str | None]) -> Vocabulary:
        """With further items behind all others; items that it knows are passed over.

        Args:
            items: Outside item id -> name of its category; a category that the vocabulary does
                not know is none.
        """
        known = self.item_idx_of
        added = sorted(item for item in items if item not in known)
        position = {name: i for i, name in enumerate(self.categories)}
        places = [position.get(items[item] or "", -1) for item in added]
        return replace(
            self,
            items=(*self.items, *added),
            item_counts=(*self.item_counts, *(0 for _ in added)),
            item_categories=(*self.item_categories, *places),
            num_added=self.num_added + len(added),
        )

    def save(self, path: Path) -> None:
        """Write as JSON, with its ids."""
        ids = {"vocabulary_id": self.vocabulary_id, "content_id": self.content_id}
        write_json_atomically(path, {**ids, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a vocabulary and check its content against its id.

        Raises:
            VocabularyMismatchError: no such file, another schema version, or changed content.
        """
        if not path.is_file():
            raise VocabularyMismatchError(
                f"{path}: no vocabulary here. Make one with: bfm tokenize --workspace DIR"
            )
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise VocabularyMismatchError(
                f"{path}: schema version {raw.get('schema_version')} came, {SCHEMA_VERSION} is "
                "read. Make the workspace again with: bfm run"
            )
        claimed = raw.pop("vocabulary_id", None)
        whole = raw.pop("content_id", claimed)
        vocabulary = cls._from_json(raw)
        for found, said in ((vocabulary.vocabulary_id, claimed), (vocabulary.content_id, whole)):
            if found != said:
                raise VocabularyMismatchError(
                    f"{path}: content hashes to {found}, the file says {said}. "
                    "It was changed after it was written; make it again with: bfm tokenize"
                )
        return vocabulary

    @classmethod
    def _from_json(cls, raw: dict[str, Any]) -> Vocabulary:
        fields = tuple(
            TokenField(
                **{
                    **one,
                    "kind": TokenKind(one["kind"]),
                    "values": tuple(one["values"]),
                    "edges": tuple(one["edges"]),
                }
            )
            for one in raw["fields"]
        )
        tuples = (*_PER_ITEM, "categories")
        return cls(**{**raw, "fields": fields, **{name: tuple(raw[name]) for name in tuples}})

    def require(self, vocabulary_id: str, where: str) -> None:
        """Refuse an artefact that was made with another vocabulary.

        Raises:
            VocabularyMismatchError: the ids differ.
        """
        if vocabulary_id != self.vocabulary_id:
            raise VocabularyMismatchError(
                f"{where} was made with vocabulary {vocabulary_id}, this workspace has "
                f"{self.vocabulary_id}. Make it again with: bfm run --workspace DIR"
            )


def latest_vocabulary(workspace: Workspace) -> Vocabulary:
    """The workspace's vocabulary with the items that came after it was fitted.

    Raises:
        VocabularyMismatchError: no vocabulary, or one that was changed.
    """
    fitted = Vocabulary.load(workspace.vocabulary_path)
    if not workspace.grown_vocabulary_path.is_file():
        return fitted
    grown = Vocabulary.load(workspace.grown_vocabulary_path)
    return grown if grown.vocabulary_id == fitted.vocabulary_id else fitted


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _refuse_twice(kind: str, names: list[str]) -> None:
    if len(set(names)) == len(names):
        return
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    raise ValueError(f"{kind} given twice: {', '.join(twice[:5])}")
