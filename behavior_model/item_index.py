"""Nearest items in a file: exact inner products below 200,000 items, a graph above."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from pipelines.errors import BundleError

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

INDEX_FILE: Final = "items.faiss"
BIASES_FILE: Final = "biases.safetensors"
MAX_FLAT_ITEMS: Final = 200_000
_NEIGHBOURS: Final = 32
_EF_CONSTRUCTION: Final = 200
_EF_SEARCH: Final = 128


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """Unit embeddings of all items behind a nearest-neighbour search (Malkov and Yashunin, 2018,
    for the graph).

    Args:
        index: Position = item index; the reserved ones are in it and must be left out by callers.
        biases: float32[N], what the backbone adds to every product with the item.
    """

    index: Any
    biases: Floats

    @classmethod
    def build(cls, item_embeddings: Floats) -> ItemIndex:
        """Index float32[N, D + 1] rows as `embedding.item_embeddings` gives them."""
        embeddings, biases = item_embeddings[:, :-1], item_embeddings[:, -1]
        width = embeddings.shape[1]
        index: Any
        if len(embeddings) < MAX_FLAT_ITEMS:
            index = faiss.IndexFlatIP(width)
        else:
            index = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = _EF_CONSTRUCTION
            index.hnsw.efSearch = _EF_SEARCH
        index.add(np.ascontiguousarray(embeddings, dtype=np.float32))
        return cls(index, np.ascontiguousarray(biases, dtype=np.float32))

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def width(self) -> int:
        """D."""
        return int(self.index.d)

    def embeddings(self, item_idx: Longs) -> Floats:
        """float32[n, D]: the rows of some items."""
        if not len(item_idx):
            return np.zeros((0, self.width), dtype=np.float32)
        return np.stack([self.index.reconstruct(int(i)) for i in item_idx])

    def item_embeddings(self) -> Floats:
        """float32[N, D + 1]: what `build` was given."""
        rows = self.index.reconstruct_n(0, len(self))
        return np.concatenate([rows, self.biases[:, None]], axis=1)

    def nearest(self, queries: Floats, count: int) -> tuple[Longs, Floats]:
        """int64[n, count] item indices and float32[n, count] products, best first; -1 where an
        approximate search found fewer."""
        products, found = self.index.search(np.ascontiguousarray(queries), min(count, len(self)))
        return found, products

    def save(self, folder: Path) -> None:
        """Write faiss's own file and the biases."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"biases": self.biases}, folder / BIASES_FILE)
        faiss.write_index(self.index, str(folder / INDEX_FILE))

    @classmethod
    def load(cls, folder: Path) -> ItemIndex:
        """Read what `save` wrote.

        Raises:
            BundleError: nothing here.
        """
        missing = [n for n in (INDEX_FILE, BIASES_FILE) if not (folder / n).is_file()]
        if missing:
            raise BundleError(f"{folder / missing[0]}: missing. Make it again with: bfm embed")
        biases = load_file(folder / BIASES_FILE)["biases"]
        return cls(faiss.read_index(str(folder / INDEX_FILE)), biases)
