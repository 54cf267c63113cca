"""A bundle: everything that serving needs in one folder, sealed by the hash of every file.

`bundle_writer` makes one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.contracts import CATEGORY, ITEM_ID, TITLE, SemanticType
from pipelines.errors import BundleError, SchemaVersionError, VocabularyMismatchError
from pipelines.tokens.vocabulary import Vocabulary

SCHEMA_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
VOCABULARY_FILE: Final = "vocabulary.json"
CATALOGUE_FILE: Final = "catalogue.parquet"
BACKBONE_FOLDER: Final = "backbone"
ITEMS_FOLDER: Final = "items"
INDEX_FOLDER: Final = "index"
HEADS_FOLDER: Final = "heads"
_WAY_OUT: Final = "Make the bundle again with: bfm embed --workspace DIR"


@dataclass(frozen=True, kw_only=True)
class BundledFile:
    """Size and hash of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself.

    Args:
        schema_version: Of the folder's layout.
        model_version: Hash over all files and the time; every answer names it.
        vocabulary_id: The vocabulary that histories must be encoded with.
        company: Name of the company.
        as_of_us: Test cut; nothing at or after it was learned from. UTC microseconds.
        training_cut_us: The backbone has seen nothing at or after this time.
        window_days: Days that its tasks look ahead.
        tasks: Names of the tasks that it answers.
        event_fields: The company's own event fields and what they mean.
        files: Relative path -> size and hash, of every file but the manifest.
        trained_version: Model version of the bundle that this one was renewed from: the weights
            are the same, so embeddings of both compare. None: it is as it was trained.
        memories_us: Memories hold what happened before this time, UTC microseconds. None: the test
            cut, as everything else.
    """

    schema_version: int
    model_version: str
    vocabulary_id: str
    company: str
    as_of_us: int
    training_cut_us: int
    window_days: int
    tasks: tuple[str, ...]
    event_fields: dict[str, SemanticType]
    files: dict[str, BundledFile]
    trained_version: str | None = None
    memories_us: int | None = None

    @property
    def lineage(self) -> str:
        """Model version of the training; users' embeddings of one lineage compare."""
        return self.trained_version or self.model_version

    @property
    def knows_until_us(self) -> int:
        """Nothing at or after this time is in it, UTC microseconds."""
        return self.as_of_us if self.memories_us is None else self.memories_us


@dataclass(frozen=True)
class Card:
    """What people see of an item."""

    title: str | None
    category: str | None


@dataclass(frozen=True)
class Catalogue:
    """Titles and categories of all items, in order of the vocabulary.

    Args:
        rows: Columns item_id, title, category.
    """

    rows: pa.Table

    @cached_property
    def _position(self) -> dict[str, int]:
        return {item: i for i, item in enumerate(self.rows.column(ITEM_ID).to_pylist())}

    @cached_property
    def _texts(self) -> tuple[list[str | None], list[str | None]]:
        return self.rows.column(TITLE).to_pylist(), self.rows.column(CATEGORY).to_pylist()

    def cards(self, item_ids: Sequence[str]) -> list[Card]:
        """What people see of each item; nothing of an unknown one."""
        titles, categories = self._texts
        found = [self._position.get(item) for item in item_ids]
        return [Card(None, None) if i is None else Card(titles[i], categories[i]) for i in found]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was checked."""

    root: Path
    manifest: Manifest
    vocabulary: Vocabulary

    @property
    def backbone(self) -> Path:
        return self.root / BACKBONE_FOLDER

    @property
    def items(self) -> Path:
        return self.root / ITEMS_FOLDER

    @property
    def index(self) -> Path:
        return self.root / INDEX_FOLDER

    def head(self, task: str) -> Path:
        """Folder of one head."""
        return self.root / HEADS_FOLDER / task

    @cached_property
    def catalogue(self) -> Catalogue:
        """What people see of items."""
        return Catalogue(pq.read_table(self.root / CATALOGUE_FILE))


def read_manifest(root: Path) -> Manifest:
    """The manifest of a bundle, its files unchecked.

    Raises:
        BundleError: no bundle here, or an unreadable manifest.
        SchemaVersionError: it is of another schema version.
    """
    path = root / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"{root}: no bundle here ({MANIFEST_FILE} is missing). {_WAY_OUT}")
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: not readable as JSON ({error}). {_WAY_OUT}") from error
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path}: schema version {raw.get('schema_version')} came, {SCHEMA_VERSION} is read. "
            f"{_WAY_OUT}"
        )
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: incomplete or changed ({error}). {_WAY_OUT}") from error


def open_bundle(root: Path) -> Bundle:
    """Open a bundle after checking every file against the manifest.

    Raises:
        BundleError: a file is missing, was added, or was changed; the message names it with the
            expected and the found hash.
    """
    manifest = read_manifest(root)
    present = set(files_below(root)) - {MANIFEST_FILE}
    for names, what in (
        (sorted(set(manifest.files) - present), "is missing"),
        (sorted(present - set(manifest.files)), "does not belong to this bundle"),
    ):
        if names:
            raise BundleError(f"{root / names[0]}: {what}. {_WAY_OUT}")
    for name, expected in manifest.files.items():
        _check(root / name, expected)
    expected_version = version_of(manifest.files, facts_of(manifest))
    if manifest.model_version != expected_version:
        raise BundleError(
            f"{root / MANIFEST_FILE}: was changed; it names model version "
            f"{manifest.model_version}, its content makes {expected_version}. {_WAY_OUT}"
        )
    return Bundle(root, manifest, _vocabulary(root, manifest))


def _check(path: Path, expected: BundledFile) -> None:
    found = digest_of(path)
    if found.sha256 != expected.sha256:
        raise BundleError(
            f"{path}: was changed after the bundle was written: expected SHA-256 "
            f"{expected.sha256} ({expected.bytes} bytes), found {found.sha256} "
            f"({found.bytes} bytes). {_WAY_OUT}"
        )


def _vocabulary(root: Path, manifest: Manifest) -> Vocabulary:
    try:
        vocabulary = Vocabulary.load(root / VOCABULARY_FILE)
    except VocabularyMismatchError as error:
        raise BundleError(f"{error} {_WAY_OUT}") from error
    if vocabulary.vocabulary_id != manifest.vocabulary_id:
        raise BundleError(
            f"{root / MANIFEST_FILE}: names vocabulary {manifest.vocabulary_id}, the bundle holds "
            f"{vocabulary.vocabulary_id}. {_WAY_OUT}"
        )
    return vocabulary


def facts_of(manifest: Manifest) -> dict[str, Any]:
    """All that a manifest says beside its files and its own version; nothing of what it leaves
    unsaid, so that bundles of before keep their version."""
    left_out = ("files", "model_version")
    said = {name: value for name, value in asdict(manifest).items() if name not in left_out}
    return {name: value for name, value in said.items() if value is not None}


def version_of(files: Mapping[str, BundledFile], facts: Mapping[str, Any]) -> str:
    """Model version: a hash over all files and facts."""
    hashes = {name: file.sha256 for name, file in files.items()}
    text = json.dumps({"files": hashes, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parse(raw: Mapping[str, Any]) -> Manifest:
    fields = {name: SemanticType(value) for name, value in raw["event_fields"].items()}
    files = {name: BundledFile(**file) for name, file in raw["files"].items()}
    typed = {"tasks": tuple(raw["tasks"]), "event_fields": fields, "files": files}
    return Manifest(**{**raw, **typed})


def digest_of(path: Path) -> BundledFile:
    """Size and hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return BundledFile(sha256=digest.hexdigest(), bytes=file.tell())


def files_below(root: Path) -> Iterator[str]:
    """Relative paths of all files of a folder."""
    for path in root.rglob("*"):
        if path.is_file():
            yield path.relative_to(root).as_posix()
