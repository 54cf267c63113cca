"""A bundle is whole, or it is refused with the file, the hashes and the way out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from behavior_model.bundle import open_bundle, read_manifest
from behavior_model.bundle_writer import BundleParts, bring_back, write_bundle
from pipelines.contracts import CATEGORY, ITEM_ID, TITLE, SemanticType
from pipelines.errors import BundleError
from tests import small_shop
from tests.small_shop import AS_OF_US


@pytest.fixture
def parts(tmp_path: Path) -> BundleParts:
    folders = {}
    for name in ("backbone", "items", "index", "churn"):
        folders[name] = tmp_path / "made" / name
        folders[name].mkdir(parents=True)
        (folders[name] / "weights.safetensors").write_bytes(name.encode() * 100)
    catalogue = pa.table(
        {
            ITEM_ID: ["item-01", "item-00", "unknown"],
            TITLE: ["Tea", "Cup", "Not ours"],
            CATEGORY: ["food", None, None],
        }
    )
    return BundleParts(
        vocabulary=small_shop.vocabulary(),
        as_of_us=AS_OF_US,
        training_cut_us=AS_OF_US - 1,
        window_days=28,
        event_fields={"store": SemanticType.CATEGORICAL},
        backbone=folders["backbone"],
        items=folders["items"],
        index=folders["index"],
        heads={"churn": folders["churn"]},
        catalogue=catalogue,
    )


def test_what_a_killed_writer_left_beside_it_goes(tmp_path: Path, parts: BundleParts) -> None:
    (tmp_path / ".bundle.killed" / "backbone").mkdir(parents=True)
    write_bundle(tmp_path / "bundle", parts)
    assert not (tmp_path / ".bundle.killed").exists()


@pytest.fixture
def root(tmp_path: Path, parts: BundleParts) -> Path:
    write_bundle(tmp_path / "bundle", parts)
    return tmp_path / "bundle"


def test_what_was_written_is_opened(root: Path, parts: BundleParts) -> None:
    bundle = open_bundle(root)
    assert bundle.manifest.tasks == ("churn",)
    assert bundle.manifest.event_fields == {"store": SemanticType.CATEGORICAL}
    assert bundle.manifest.vocabulary_id == parts.vocabulary.vocabulary_id
    assert bundle.vocabulary == parts.vocabulary
    assert (bundle.head("churn") / "weights.safetensors").is_file()


def test_an_interrupt_between_two_renames_brings_the_old_bundle_back(
    root: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_bundle(root).manifest
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        if target == root and source.name != root.name:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr("behavior_model.bundle_writer.os.rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(root, replace(parts, window_days=7))
    monkeypatch.undo()
    assert open_bundle(root).manifest == before
    assert [path.name for path in root.parent.iterdir()].count("bundle") == 1
    assert not list(root.parent.glob(".bundle.*"))


def test_a_kill_between_two_renames_leaves_a_bundle_that_can_be_brought_back(root: Path) -> None:
    before = open_bundle(root).manifest
    away = root.with_name(".bundle.killed") / "bundle"
    away.parent.mkdir()
    root.rename(away)
    bring_back(root)
    assert open_bundle(root).manifest == before
    bring_back(root)
    assert open_bundle(root).manifest == before


def test_the_catalogue_follows_the_vocabulary(root: Path) -> None:
    catalogue = open_bundle(root).catalogue
    assert catalogue.rows.column(ITEM_ID).to_pylist() == list(small_shop.vocabulary().items)
    cup, tea, nothing, unknown = catalogue.cards(["item-00", "item-01", "item-02", "unknown"])
    assert (cup.title, cup.category) == ("Cup", None)
    assert (tea.title, tea.category) == ("Tea", "food")
    assert nothing.title is None
    assert unknown.title is None


def test_the_same_parts_make_the_same_version(tmp_path: Path, parts: BundleParts) -> None:
    first = write_bundle(tmp_path / "a", parts)
    assert write_bundle(tmp_path / "b", parts) == first
    (parts.backbone / "weights.safetensors").write_bytes(b"other")
    assert write_bundle(tmp_path / "c", parts).model_version != first.model_version


def test_an_equal_bundle_is_left_alone(root: Path, parts: BundleParts) -> None:
    before = (root / "manifest.json").stat().st_ino
    write_bundle(root, parts)
    assert (root / "manifest.json").stat().st_ino == before
    write_bundle(root, replace(parts, as_of_us=AS_OF_US + 1))
    assert open_bundle(root).manifest.as_of_us == AS_OF_US + 1
    assert [path.name for path in root.parent.glob(".bundle*")] == []


@pytest.mark.parametrize(
    "name",
    [
        "vocabulary.json",
        "catalogue.parquet",
        "backbone/weights.safetensors",
        "items/weights.safetensors",
        "index/weights.safetensors",
        "heads/churn/weights.safetensors",
    ],
)
def test_one_changed_byte_is_named_with_both_hashes(root: Path, name: str) -> None:
    path = root / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError) as raised:
        open_bundle(root)
    message = str(raised.value)
    assert str(path) in message
    assert "bfm embed" in message
    expected, found = re.findall(r"[0-9a-f]{64}", message)
    assert read_manifest(root).files[name].sha256 == expected
    assert expected != found


def _edit(key: str, value: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        manifest = json.loads((root / "manifest.json").read_text())
        manifest[key] = value
        (root / "manifest.json").write_text(json.dumps(manifest))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "catalogue.parquet").unlink(), "catalogue.parquet: is missing"),
        (lambda root: (root / "extra.bin").write_bytes(b""), "extra.bin: does not belong"),
        (lambda root: (root / "manifest.json").unlink(), "no bundle here"),
        (lambda root: (root / "manifest.json").write_text("{"), "not readable as JSON"),
        (_edit("schema_version", 99), "schema version 99 came, 1 is read"),
        (_edit("as_of_us", 5), "names model version"),
        (_edit("vocabulary_id", "feed"), "names model version"),
        (_edit("surprise", 5), "incomplete or changed"),
        (_edit("files", {}), "does not belong"),
    ],
)
def test_every_other_change_is_refused(
    root: Path, change: Callable[[Path], object], message: str
) -> None:
    change(root)
    with pytest.raises(BundleError, match=message) as raised:
        open_bundle(root)
    assert "bfm embed" in str(raised.value)


def test_a_missing_part_is_named(tmp_path: Path, parts: BundleParts) -> None:
    gone = replace(parts, heads={"churn": tmp_path / "nowhere"})
    with pytest.raises(BundleError, match="nowhere"):
        write_bundle(tmp_path / "bundle", gone)
    assert not (tmp_path / "bundle").exists()
