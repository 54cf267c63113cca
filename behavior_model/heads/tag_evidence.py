"""What speaks for a tag: items of like partial text and price, and what shares baskets.

Tags are the words of an item's title and category. No evidence about an item reads that item's own
title, category or category path: its partial text is brand, further catalogue columns and price;
its behaviour is the baskets it lies in. Text embeddings and the backbone's item embeddings are made
from titles, so neither is used for an item. What other items are called may be used, its own not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from behavior_model.largest import largest_in_groups
from pipelines.contracts import BRAND, CATALOGUE, CATEGORY, ITEM_ID, PRICE, TITLE
from pipelines.tokens.binning import FIRST_IDX, words
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MIN_TAG_ITEMS: Final = 5
MAX_FEATURE_ITEMS: Final = 1_000
MAX_FEATURE_WORDS: Final = 6
PRICE_BINS_PER_OCTAVE: Final = 2.0
NUM_NEIGHBOURS: Final = 20
SHARPNESS: Final = 4
NUM_BASKET_TAGS: Final = 30
CHUNK_ROWS: Final = 2_000
ROUNDING: Final = 1e-9


def item_tags(catalogue: pa.Table, vocabulary: Vocabulary) -> list[list[str]]:
    """Per item index the distinct words of title and category, without numbers and letters."""
    columns = [catalogue.column(name).to_pylist() for name in (ITEM_ID, TITLE, CATEGORY)]
    tags_of = {
        item: list(dict.fromkeys(tag_words(title) + tag_words(category)))
        for item, title, category in zip(*columns, strict=True)
    }
    return [[]] * FIRST_IDX + [tags_of.get(item, []) for item in vocabulary.items]


def tag_words(text: str | None) -> list[str]:
    """Words of a text that can be tags: two characters at least, no digits."""
    found = [] if text is None else words(text)
    return [word for word in found if len(word) > 1 and not any(c.isdigit() for c in word)]


def tag_matrix(
    tags: Sequence[Sequence[str]], visible: Bools
) -> tuple[tuple[str, ...], sparse.csr_matrix]:
    """Known tags, most frequent first, and float32[N, T]: which visible item has which tag.

    Args:
        tags: N lists of tags.
        visible: bool[N]; rows of other items are empty, and their tags are not counted.
    """
    shown = [row if keep else [] for row, keep in zip(tags, visible.tolist(), strict=True)]
    counts = Counter(tag for row in shown for tag in row)
    known = sorted(
        (tag for tag, count in counts.items() if count >= MIN_TAG_ITEMS),
        key=lambda tag: (-counts[tag], tag),
    )
    return tuple(known), _indicator(shown, known)


def partial_texts(
    catalogue: pa.Table, vocabulary: Vocabulary, prices: Doubles | None
) -> list[list[str]]:
    """Per item index its features: brand, extra columns, price band, their pairs and words.

    Args:
        catalogue: Canonical catalogue.
        vocabulary: Decides the order of items.
        prices: float64[num_item_indices], log price, NaN where unknown; None to leave prices out.
    """
    known = set(CATALOGUE.column_names)
    extras = [f.name for f in catalogue.schema if f.name not in known and f.type == pa.string()]
    names = [name for name in (BRAND, *extras) if name in catalogue.column_names]
    columns = [catalogue.column(name).to_pylist() for name in names]
    ids = catalogue.column(ITEM_ID).to_pylist()
    values_of = {item: tuple(column[i] for column in columns) for i, item in enumerate(ids)}
    rows = [()] * FIRST_IDX + [values_of.get(item, ()) for item in vocabulary.items]
    bands = _bands(prices, len(rows))
    return [_features(names, row, band) for row, band in zip(rows, bands, strict=True)]


def text_matrix(features: Sequence[Sequence[str]]) -> sparse.csr_matrix:
    """float32[N, F]: features weighted by rarity, rows of length 1.

    A feature that one item alone has, or more than MAX_FEATURE_ITEMS, tells nothing apart.
    """
    counts = Counter(feature for row in features for feature in row)
    known = sorted(f for f, count in counts.items() if 2 <= count <= MAX_FEATURE_ITEMS)
    matrix = _indicator(features, known)
    rarity = np.log(len(features) / np.asarray([counts[f] for f in known], dtype=np.float64))
    weighted = sparse.csr_matrix(matrix @ sparse.diags(rarity), dtype=np.float32)
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    unit = sparse.diags(1.0 / np.maximum(lengths, 1e-9)) @ weighted
    return sparse.csr_matrix(unit, dtype=np.float32)


def neighbour_tags(
    text: sparse.csr_matrix, tags: sparse.csr_matrix, rows: Longs, columns: sparse.csc_matrix
) -> Floats:
    """float32[Q, T]: mean tags of the likest other items, weighted by a power of their likeness.

    Args:
        text: float32[N, F] of `text_matrix`.
        tags: float32[N, T]; items without tags are no neighbours.
        rows: int64[Q], the items asked about; each is left out of its own neighbours.
        columns: The same as `text`, transposed and ready for products: float32[F, N].
    """
    tagged = np.diff(tags.indptr) > 0
    likeness = sparse.csr_matrix(text[rows] @ columns)
    result = np.zeros((len(rows), tags.shape[1]), dtype=np.float32)
    for place, row in enumerate(rows.tolist()):
        span = slice(likeness.indptr[place], likeness.indptr[place + 1])
        items, values = likeness.indices[span], likeness.data[span]
        useful = tagged[items] & (items != row)
        items, values = items[useful], values[useful]
        best = np.lexsort((items, -values))[:NUM_NEIGHBOURS]
        weights = values[best] ** SHARPNESS
        if len(best):
            result[place] = tags[items[best]].T @ (weights / weights.sum())
    return result


def basket_tags(
    vocabulary: Vocabulary, histories: Histories, tags: sparse.csr_matrix
) -> sparse.csr_matrix:
    """float32[N, T]: tags of what lies in the same baskets, rows of sum 1, the best per item only.

    A walk of two steps, item to basket to item, in which large baskets and frequent items count
    less (by the root of their size), without the item itself. Holds nothing of single users.

    Args:
        vocabulary: What the token indices mean.
        histories: Events that may be learned from; a basket is one user's events at one moment.
        tags: float32[N, T] of `tag_matrix`.
    """
    baskets = _baskets(vocabulary, histories)
    sizes = np.asarray(baskets.sum(axis=0)).ravel()
    baskets = sparse.csr_matrix(baskets @ sparse.diags(1.0 / np.sqrt(np.maximum(sizes, 1.0))))
    bought = np.diff(baskets.indptr)
    spread = sparse.diags(1.0 / np.sqrt(np.maximum(bought, 1))) @ tags
    context = sparse.csr_matrix(baskets.T @ spread)
    own = sparse.diags(np.asarray(baskets.multiply(baskets).sum(axis=1)).ravel()) @ spread
    parts = [
        _best_shares(
            sparse.csr_matrix(baskets[start : start + CHUNK_ROWS] @ context)
            - own[start : start + CHUNK_ROWS]
        )
        for start in range(0, baskets.shape[0], CHUNK_ROWS)
    ]
    return sparse.csr_matrix(sparse.vstack(parts), dtype=np.float32)


def log_prices(vocabulary: Vocabulary, histories: Histories, catalogue: pa.Table) -> Doubles:
    """float64[num_item_indices]: log of the catalogue's price, else of the mean paid per piece."""
    items, rows = _item_rows(vocabulary, histories)
    paid = histories.amounts[rows].astype(np.float64)
    pieces = np.maximum(np.nan_to_num(histories.quantities[rows].astype(np.float64), nan=1.0), 1.0)
    known = paid > 0
    values = np.log(paid[known] / pieces[known])
    counts = np.bincount(items[known], minlength=vocabulary.num_item_indices)
    sums = np.bincount(items[known], weights=values, minlength=vocabulary.num_item_indices)
    prices = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    pairs = zip(
        catalogue.column(ITEM_ID).to_pylist(), catalogue.column(PRICE).to_pylist(), strict=True
    )
    for item, price in pairs:
        if price is not None and price > 0 and item in vocabulary.item_idx_of:
            prices[vocabulary.item_idx_of[item]] = np.log(price)
    return np.asarray(prices, dtype=np.float64)


def sold_items(vocabulary: Vocabulary, histories: Histories) -> Longs:
    """int64: distinct item indices in the histories, ascending."""
    return np.unique(_item_rows(vocabulary, histories)[0])


def _item_rows(vocabulary: Vocabulary, histories: Histories) -> tuple[Longs, Longs]:
    name = vocabulary.item_field
    rows = np.flatnonzero(histories.tokens[name] >= FIRST_IDX)
    return histories.tokens[name][rows].astype(np.int64), rows


def _baskets(vocabulary: Vocabulary, histories: Histories) -> sparse.csr_matrix:
    items, rows = _item_rows(vocabulary, histories)
    users, times = histories.user_positions[rows], histories.times_us[rows]
    changed = (np.diff(users, prepend=-1) != 0) | (np.diff(times, prepend=-1) != 0)
    basket = np.cumsum(changed) - 1
    shape = (vocabulary.num_item_indices, int(changed.sum()))
    ones = np.ones(len(items))
    matrix = sparse.csr_matrix((ones, (items, basket)), shape=shape)
    matrix.data[:] = 1.0
    return matrix


def _best_shares(scores: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows of sum 1, then only their largest NUM_BASKET_TAGS entries.

    What is left of an item's own tags when they are taken off is rounding and is dropped.
    """
    rows = sparse.csr_matrix(scores)
    rows.data = np.where(rows.data > ROUNDING, rows.data, 0.0)
    rows.eliminate_zeros()
    totals = np.asarray(rows.sum(axis=1)).ravel()
    rows = sparse.coo_matrix(sparse.diags(1.0 / np.maximum(totals, 1e-12)) @ rows)
    kept, _ = largest_in_groups(rows.row, rows.data, rows.col, NUM_BASKET_TAGS)
    cells = (rows.data[kept], (rows.row[kept], rows.col[kept]))
    return sparse.csr_matrix(cells, shape=rows.shape)


def _indicator(rows: Sequence[Sequence[str]], known: Sequence[str]) -> sparse.csr_matrix:
    position = {name: i for i, name in enumerate(known)}
    pairs = [
        (row, position[name])
        for row, names in enumerate(rows)
        for name in names
        if name in position
    ]
    cells = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    ones = np.ones(len(cells), dtype=np.float32)
    return sparse.csr_matrix((ones, (cells[:, 0], cells[:, 1])), shape=(len(rows), len(known)))


def _bands(prices: Doubles | None, count: int) -> list[str | None]:
    if prices is None:
        return [None] * count
    bands = np.round(prices / np.log(2.0) * PRICE_BINS_PER_OCTAVE)
    return [None if np.isnan(band) else f"price={int(band)}" for band in bands]


def _features(names: Sequence[str], row: Sequence[str | None], band: str | None) -> list[str]:
    pairs = [(name, value) for name, value in zip(names, row, strict=False) if value]
    fields = [f"{name}={value}" for name, value in pairs] + ([band] if band else [])
    both = [f"{one}&{other}" for one, other in combinations(fields, 2)]
    single = [f"word={word}" for _, value in pairs for word in words(value)[:MAX_FEATURE_WORDS]]
    return list(dict.fromkeys(fields + both + single))
