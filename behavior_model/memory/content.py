"""Content memory: likeness of what is written about items to what a user bought.

Legend: N item indices, U users, T text width, C compressed width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save

from behavior_model.items import ItemContent
from behavior_model.memory.own import HALF_LIVES_DAYS
from behavior_model.memory.purchases import Longs, Purchases
from behavior_model.unit_rows import unit_rows
from pipelines.errors import BundleError
from pipelines.workspace import write_bytes_atomically

Floats = npt.NDArray[np.float32]

WIDTH: Final = 64
_FILE: Final = "content.safetensors"
_HALF_LIFE_DAYS: Final = HALF_LIVES_DAYS[-1]


@dataclass(frozen=True, eq=False)
class ContentMemory:
    """Texts of items in few dimensions.

    Args:
        texts: float32[N, C], rows of length 1 (0 where nothing is known of an item), rounded to
            half precision.
        kinds: int64[N], items with the same description share a kind; 0 where there is none.
    """

    texts: Floats
    kinds: Longs

    @classmethod
    def fit(cls, content: ItemContent, counts: Longs) -> ContentMemory:
        """Compress texts to their principal directions, items weighted by log(2 + count).

        Args:
            content: Content of N item indices.
            counts: int64[N], events in the training period.
        """
        text = content.text
        weights = np.log(2.0 + counts).astype(np.float32)
        weights[~text.any(axis=1)] = 0.0
        mean = weights @ text / max(float(weights.sum()), 1e-9)
        covariance = (text * weights[:, None]).T @ text - weights.sum() * np.outer(mean, mean)
        _, directions = np.linalg.eigh(covariance.astype(np.float64))
        width = min(WIDTH, text.shape[1])
        compressed = (text - mean) @ directions[:, -width:].astype(np.float32)
        compressed[~text.any(axis=1)] = 0.0
        rounded = unit_rows(compressed).astype(np.float16).astype(np.float32)
        return cls(texts=rounded, kinds=content.descriptor_idx.astype(np.int64))

    @property
    def num_kinds(self) -> int:
        """One more than the largest kind."""
        return int(self.kinds.max(initial=0)) + 1

    def profiles(self, purchases: Purchases) -> Floats:
        """float32[U, C]: decayed mean text of what each user bought, of length 1 (or 0)."""
        weights = 0.5 ** (purchases.ages / _HALF_LIFE_DAYS)
        profiles = np.zeros((purchases.num_users, self.texts.shape[1]))
        for column in range(self.texts.shape[1]):
            values = weights * self.texts[purchases.targets, column]
            profiles[:, column] = np.bincount(
                purchases.users, values, minlength=purchases.num_users
            )
        length = np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-9)
        return np.asarray(profiles / length, dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write as one safetensors file."""
        tensors: dict[str, npt.NDArray[np.generic]] = {
            "texts": self.texts.astype(np.float16),
            "kinds": self.kinds.astype(np.int32),
        }
        write_bytes_atomically(folder / _FILE, save(tensors))

    @classmethod
    def load(cls, folder: Path) -> ContentMemory:
        """Read what `save` wrote.

        Raises:
            BundleError: nothing here.
        """
        if not (folder / _FILE).is_file():
            raise BundleError(f"{folder}: no content memory here. Make it with: bfm heads")
        tensors = load_file(folder / _FILE)
        return cls(
            texts=tensors["texts"].astype(np.float32), kinds=tensors["kinds"].astype(np.int64)
        )
