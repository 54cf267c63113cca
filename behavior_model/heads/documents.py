"""What every head's folder begins with: one JSON document of a version, and the files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.errors import BundleError, SchemaVersionError
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace


def read_document(
    folder: Path, name: str, version: int, vocabulary: Vocabulary, *beside: str
) -> dict[str, Any]:
    """The document of a head that was saved to a folder.

    Args:
        folder: The head's own.
        name: File name of the document.
        version: Its `schema_version` in this code.
        vocabulary: What the head must have been fitted with.
        beside: Files that must be there too.

    Raises:
        BundleError: a file is missing.
        SchemaVersionError: the document is of another version.
        VocabularyMismatchError: the head was fitted with another vocabulary.
    """
    missing = [one for one in (name, *beside) if not (folder / one).is_file()]
    if missing:
        raise BundleError(
            f"{folder}: no {', '.join(missing)} here, so this head cannot be loaded. "
            f"Make it again with: bfm heads --workspace {_workspace(folder)}"
        )
    facts: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    if facts.get("schema_version") != version:
        came = facts.get("schema_version", "none (made by an older release)")
        raise SchemaVersionError(
            f"{folder / name}: schema version {came} came, {version} is read. "
            f"Make it again with: bfm run --workspace {_workspace(folder)}"
        )
    vocabulary.require(facts["vocabulary_id"], str(folder))
    return facts


def _workspace(folder: Path) -> str:
    """The workspace around a folder, as far as one can be recognised."""
    around = (one for one in folder.absolute().parents if Workspace(one).company_path.is_file())
    return str(next(around, "DIR"))
