"""A bundle: everything that serving needs in one folder, sealed by the hash of every file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.contracts import CATEGORY, ITEM_ID, TITLE, SemanticType
from pipelines.errors import BundleError, VocabularyMismatchError
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import write_json_atomically

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


@dataclass(frozen=True, kw_only=True)
class BundleParts:
    """What goes into a bundle.

    Args:
        vocabulary: Frozen.
        as_of_us: Test cut, UTC microseconds.
        training_cut_us: UTC microseconds.
        window_days: Days that tasks look ahead.
        event_fields: The company's own event fields.
        backbone: Folder that `load_backbone` reads.
        items: Folder that `ItemContent.load` reads.
        index: Folder that `ItemIndex.load` reads.
        heads: Task -> folder that its head's own `load` reads.
        catalogue: Canonical catalogue.
        trained_version: As in `Manifest`.
        memories_us: As in `Manifest`.
    """

    vocabulary: Vocabulary
    as_of_us: int
    training_cut_us: int
    window_days: int
    event_fields: Mapping[str, SemanticType]
    backbone: Path
    items: Path
    index: Path
    heads: Mapping[str, Path]
    catalogue: pa.Table
    trained_version: str | None = None
    memories_us: int | None = None


def write_bundle(target: Path, parts: BundleParts) -> Manifest:
    """Write a whole bundle or nothing; an equal one that stands there already is kept.

    What killed processes have left beside it is removed: one process at a time writes a bundle.

    Args:
        target: The bundle's folder.
        parts: What goes into it.

    Raises:
        BundleError: a part is missing.
    """
    for source in (parts.backbone, parts.items, parts.index, *parts.heads.values()):
        if not source.is_dir():
            raise BundleError(f"{source}: missing. Make it with: bfm run --workspace DIR")
    with _fresh_folder(target) as folder:
        _fill(folder, parts)
        manifest = _describe(folder, parts)
        write_json_atomically(folder / MANIFEST_FILE, asdict(manifest))
        if not _same(target, manifest):
            _replace(target, folder)
    for leftover in target.parent.glob(f"{_prefix(target)}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return manifest


def read_manifest(root: Path) -> Manifest:
    """The manifest of a bundle, its files unchecked.

    Raises:
        BundleError: no bundle here, an unreadable manifest, or another schema version.
    """
    path = root / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"{root}: no bundle here ({MANIFEST_FILE} is missing). {_WAY_OUT}")
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{path}: not readable as JSON ({error}). {_WAY_OUT}") from error
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise BundleError(
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
    present = set(_files_below(root)) - {MANIFEST_FILE}
    for names, what in (
        (sorted(set(manifest.files) - present), "is missing"),
        (sorted(present - set(manifest.files)), "does not belong to this bundle"),
    ):
        if names:
            raise BundleError(f"{root / names[0]}: {what}. {_WAY_OUT}")
    for name, expected in manifest.files.items():
        _check(root / name, expected)
    expected_version = _model_version(manifest.files, _facts(manifest))
    if manifest.model_version != expected_version:
        raise BundleError(
            f"{root / MANIFEST_FILE}: was changed; it names model version "
            f"{manifest.model_version}, its content makes {expected_version}. {_WAY_OUT}"
        )
    return Bundle(root, manifest, _vocabulary(root, manifest))


def _check(path: Path, expected: BundledFile) -> None:
    found = _digest(path)
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


def _fill(folder: Path, parts: BundleParts) -> None:
    parts.vocabulary.save(folder / VOCABULARY_FILE)
    shutil.copytree(parts.backbone, folder / BACKBONE_FOLDER)
    shutil.copytree(parts.items, folder / ITEMS_FOLDER)
    shutil.copytree(parts.index, folder / INDEX_FOLDER)
    for task, head in parts.heads.items():
        shutil.copytree(head, folder / HEADS_FOLDER / task)
    pq.write_table(_display(parts), folder / CATALOGUE_FILE)


def _display(parts: BundleParts) -> pa.Table:
    wanted = pa.table({ITEM_ID: pa.array(parts.vocabulary.items, type=pa.string())})
    wanted = wanted.append_column("row", pa.array(range(wanted.num_rows), type=pa.int64()))
    columns = parts.catalogue.select([ITEM_ID, TITLE, CATEGORY])
    joined = wanted.join(columns, keys=ITEM_ID, join_type="left outer").sort_by("row")
    return joined.select([ITEM_ID, TITLE, CATEGORY])


def _describe(folder: Path, parts: BundleParts) -> Manifest:
    files = {name: _digest(folder / name) for name in sorted(_files_below(folder))}
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        model_version="",
        vocabulary_id=parts.vocabulary.vocabulary_id,
        company=parts.vocabulary.company,
        as_of_us=parts.as_of_us,
        training_cut_us=parts.training_cut_us,
        window_days=parts.window_days,
        tasks=tuple(sorted(parts.heads)),
        event_fields=dict(sorted(parts.event_fields.items())),
        files=files,
        trained_version=parts.trained_version,
        memories_us=parts.memories_us,
    )
    return Manifest(**{**vars(manifest), "model_version": _model_version(files, _facts(manifest))})


def _facts(manifest: Manifest) -> dict[str, Any]:
    """All that a manifest says beside its files and its own version; nothing of what it leaves
    unsaid, so that bundles of before keep their version."""
    left_out = ("files", "model_version")
    said = {name: value for name, value in asdict(manifest).items() if name not in left_out}
    return {name: value for name, value in said.items() if value is not None}


def _model_version(files: Mapping[str, BundledFile], facts: Mapping[str, Any]) -> str:
    hashes = {name: file.sha256 for name, file in files.items()}
    text = json.dumps({"files": hashes, **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parse(raw: Mapping[str, Any]) -> Manifest:
    fields = {name: SemanticType(value) for name, value in raw["event_fields"].items()}
    files = {name: BundledFile(**file) for name, file in raw["files"].items()}
    typed = {"tasks": tuple(raw["tasks"]), "event_fields": fields, "files": files}
    return Manifest(**{**raw, **typed})


def _digest(path: Path) -> BundledFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return BundledFile(sha256=digest.hexdigest(), bytes=file.tell())


def _files_below(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        if path.is_file():
            yield path.relative_to(root).as_posix()


def _same(target: Path, manifest: Manifest) -> bool:
    try:
        return open_bundle(target).manifest == manifest
    except BundleError:
        return False


def _prefix(target: Path) -> str:
    """How folders beside a bundle begin that are gone when it is written."""
    return f".{target.name}."


@contextmanager
def _fresh_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that is gone afterwards, unless it was moved into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=_prefix(target)))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bring_back(target: Path) -> None:
    """Put the bundle back that a process moved away and was killed before it had put another there.

    Call it where no other process writes the bundle.
    """
    if not target.exists():
        for old in target.parent.glob(f"{_prefix(target)}*/{target.name}"):
            os.rename(old, target)
            return


def _replace(target: Path, folder: Path) -> None:
    """Move the old bundle away, the new one into place, then delete the old one.

    An interrupt in between brings the old one back, `bring_back` after a kill.
    """
    with _fresh_folder(target) as away:
        old = away / target.name
        try:
            if target.exists():
                os.rename(target, old)
            os.rename(folder, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.rename(old, target)
            raise
