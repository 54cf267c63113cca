"""What every head's folder begins with: one JSON document of a version, and the files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.errors import BundleError
from pipelines.tokens.vocabulary import Vocabulary


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
        BundleError: a file is missing, or the document is of another version.
        VocabularyMismatchError: the head was fitted with another vocabulary.
    """
    missing = [one for one in (name, *beside) if not (folder / one).is_file()]
    if missing:
        raise BundleError(
            f"{folder}: no {', '.join(missing)} here, so this head cannot be loaded. "
            "Make it again with: bfm heads --workspace DIR"
        )
    facts: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    if facts.get("schema_version") != version:
        raise BundleError(
            f"{folder / name}: schema version {facts.get('schema_version')} came, {version} is "
            "read. Make it again with: bfm run --workspace DIR"
        )
    vocabulary.require(facts["vocabulary_id"], str(folder))
    return facts
