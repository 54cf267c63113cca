"""Memory of typed queries: which items those who typed like words then took.

Nothing here is learned. A query is answered by the queries of the past that are spelled like it:
the cosine of their character n-grams, weighted by inverse document frequency, says how much each
of them counts. So what customers call a product is known though the catalogue never says it, in
any language and with the slips that they make. A text is kept only where several customers
typed it: who is alone with theirs is not to be found in a bundle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from behavior_model.largest import largest_in_groups
from behavior_model.typed_queries import TypedQueries, spelled

Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

MIN_TYPISTS: Final = 2
MAX_TEXTS: Final = 200_000
MAX_ITEMS_PER_TEXT: Final = 100
NUM_LIKE: Final = 50
"""Queries of the past that answer one query, at most."""
SHARPNESS: Final = 4
"""A query of the past counts as its cosine to this power."""
UNSEEN: Final = 1.0
"""Typists who took nothing that are added to those of a query: the fewer typed it, the less is
believed."""
_COLUMNS: Final = ["text", "typists", "item_idx", "takers"]


@dataclass(frozen=True, eq=False)
class Taken:
    """What is taken after words like those of one query.

    Args:
        item_idx: int64[C], ascending.
        shares: float64[C], share of typists who take the item.
    """

    item_idx: Longs
    shares: Doubles

    def by_category(self, category_of: npt.NDArray[np.int32], count: int) -> tuple[Longs, Doubles]:
        """The categories that are taken from most, at most so many, and their shares, at most 1.

        Args:
            category_of: int32[num_item_indices], -1 where an item has none.
            count: How many at most.
        """
        categories = category_of[self.item_idx]
        some = categories >= 0
        totals = np.bincount(categories[some], weights=self.shares[some])
        best = np.argsort(-totals, kind="stable")[:count]
        best = best[totals[best] > 0]
        return best, np.minimum(totals[best], 1.0)


@dataclass(frozen=True, eq=False)
class QueryMemory:
    """What T queries led to.

    Args:
        texts: T distinct texts, as `spelled` writes them.
        typists: int64[T], users who typed it and took something.
        offsets: int64[T + 1]; the items of text t are offsets[t]:offsets[t + 1].
        item_idx: int64[P], ascending within a text.
        takers: int64[P], users who typed the text and took the item.
    """

    texts: list[str]
    typists: Longs
    offsets: Longs
    item_idx: Longs
    takers: Longs

    @classmethod
    def fit(cls, queries: TypedQueries) -> QueryMemory:
        """Count users; one who typed and took the same twice counts once."""
        if len(queries) == 0:
            return cls.empty()
        names, text = np.unique(np.asarray(queries.texts, dtype=object), return_inverse=True)
        _, user = np.unique(np.asarray(queries.user_ids, dtype=object), return_inverse=True)
        typists = np.bincount(np.unique(np.stack([text, user], axis=1), axis=0)[:, 0])
        lengths = np.asarray([len(items) for items in queries.taken])
        triples = np.column_stack(
            [np.repeat(text, lengths), np.concatenate(queries.taken), np.repeat(user, lengths)]
        )
        pairs, takers = np.unique(np.unique(triples, axis=0)[:, :2], axis=0, return_counts=True)
        order = np.argsort(-typists, kind="stable")
        kept = order[typists[order] >= MIN_TYPISTS][:MAX_TEXTS]
        rank = np.full(len(names), -1, dtype=np.int64)
        rank[kept] = np.arange(len(kept))
        best, _ = largest_in_groups(
            pairs[:, 0], takers.astype(np.float64), pairs[:, 1], MAX_ITEMS_PER_TEXT
        )
        rows = best[rank[pairs[best, 0]] >= 0]
        rows = rows[np.lexsort((pairs[rows, 1], rank[pairs[rows, 0]]))]
        counts = np.bincount(rank[pairs[rows, 0]], minlength=len(kept))
        return cls(
            texts=[str(names[i]) for i in kept],
            typists=typists[kept].astype(np.int64),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            item_idx=pairs[rows, 1].astype(np.int64),
            takers=takers[rows].astype(np.int64),
        )

    @classmethod
    def empty(cls) -> QueryMemory:
        """Of a company whose customers type nothing."""
        none = np.zeros(0, dtype=np.int64)
        return cls([], none, np.zeros(1, dtype=np.int64), none, none)

    def taken(self, query: str) -> Taken:
        """What those took who typed words like these.

        Args:
            query: Any text; one like no other gives nothing.
        """
        texts, weights = self._like(spelled(query))
        lengths = np.diff(self.offsets)[texts]
        rows = np.concatenate(
            [np.zeros(0, dtype=np.int64)]
            + [np.arange(self.offsets[t], self.offsets[t + 1]) for t in texts.tolist()]
        )
        item_idx, place = np.unique(self.item_idx[rows], return_inverse=True)
        takers = np.bincount(
            place, weights=np.repeat(weights, lengths) * self.takers[rows], minlength=len(item_idx)
        )
        return Taken(item_idx, takers / (weights @ self.typists[texts] + UNSEEN))

    def to_arrow(self) -> pa.Table:
        """A row per text: the text, its typists, and lists of items and their takers."""
        offsets = pa.array(self.offsets, type=pa.int32())
        lists = [pa.ListArray.from_arrays(offsets, one) for one in (self.item_idx, self.takers)]
        texts = pa.array(self.texts, type=pa.string())
        return pa.table([texts, pa.array(self.typists), *lists], names=_COLUMNS)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> QueryMemory:
        """What `to_arrow` made."""
        texts, typists, items, takers = (table.column(n).combine_chunks() for n in _COLUMNS)
        lengths = pc.list_value_length(items).to_numpy()
        return cls(
            texts=texts.to_pylist(),
            typists=typists.to_numpy(),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            item_idx=items.flatten().to_numpy(),
            takers=takers.flatten().to_numpy(),
        )

    def warm(self) -> None:
        """Make now what the first query would otherwise wait for."""
        if self.texts:
            _ = self._grams

    def _like(self, text: str) -> tuple[Longs, Doubles]:
        """The texts most like this one, and how much each counts, in (0, 1]."""
        if not self.texts or not text:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        vectorizer, matrix = self._grams
        found = vectorizer.transform([text]) @ matrix
        best, _ = largest_in_groups(
            np.zeros(found.nnz, dtype=np.int64), found.data, found.indices, NUM_LIKE
        )
        cosines = np.minimum(found.data[best].astype(np.float64), 1.0)
        return found.indices[best].astype(np.int64), cosines**SHARPNESS

    @cached_property
    def _grams(self) -> tuple[TfidfVectorizer, Any]:
        """n-grams of texts and a sparse float32[G, T], so that a query reads those it holds."""
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), dtype=np.float32)
        rows = vectorizer.fit_transform(self.texts)
        return vectorizer, scipy.sparse.csr_array(rows.T)
