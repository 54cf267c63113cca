"""Writing a bundle: whole or not at all, in place of the one that stood there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from behavior_model.bundle import (
    BACKBONE_FOLDER,
    CATALOGUE_FILE,
    HEADS_FOLDER,
    INDEX_FOLDER,
    ITEMS_FOLDER,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    VOCABULARY_FILE,
    Manifest,
    digest_of,
    facts_of,
    files_below,
    open_bundle,
    version_of,
)
from pipelines.contracts import CATEGORY, ITEM_ID, TITLE, SemanticType
from pipelines.errors import BundleError
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import write_json_atomically


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
    files = {name: digest_of(folder / name) for name in sorted(files_below(folder))}
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
    return Manifest(**{**vars(manifest), "model_version": version_of(files, facts_of(manifest))})


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
