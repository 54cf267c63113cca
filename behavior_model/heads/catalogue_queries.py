"""Catalogue-word queries: what a shopper might have typed before a purchase, slips included.

No company's search log is needed: the words are those of the bought product's type. They are the
catalogue's words, not customers' own, and every table says so.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from behavior_model.context import Futures
from pipelines.contracts import CATEGORY_PATH, CATEGORY_SEPARATOR, ITEM_ID, TITLE
from pipelines.tokens.binning import FIRST_IDX, words
from pipelines.tokens.vocabulary import Vocabulary

Longs = npt.NDArray[np.int64]

MAX_TYPED_WORDS: Final = 3
MIN_SLIP_LENGTH: Final = 4
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class CatalogueQueries:
    """One query per user who bought something that can be named.

    Args:
        users: int64[Q], positions of the users.
        clean: Q texts as a shopper would type them.
        misspelled: Q texts with one slip each, where a word is long enough.
        truths: Per query the item indices of that type that the user bought.
    """

    users: Longs
    clean: list[str]
    misspelled: list[str]
    truths: list[Longs]

    def __len__(self) -> int:
        return len(self.users)


def item_types(catalogue: pa.Table, vocabulary: Vocabulary) -> list[str]:
    """Type of every item index: the last part of its category path, else its title; "" if none."""
    names = (ITEM_ID, TITLE, CATEGORY_PATH)
    columns = [catalogue.column(name).to_pylist() for name in names]
    type_of = {
        item: (path.split(CATEGORY_SEPARATOR)[-1] if path else title) or ""
        for item, title, path in zip(*columns, strict=True)
    }
    return [""] * FIRST_IDX + [type_of.get(item, "") for item in vocabulary.items]


def catalogue_queries(
    types: list[str], futures: Futures, *, num_queries: int, seed: int
) -> CatalogueQueries:
    """Queries for a random choice of users; one bought item decides the type that is asked for.

    Args:
        types: Type per item index.
        futures: What users bought in the window.
        num_queries: The most queries.
        seed: Seed of all choices.
    """
    generator = np.random.default_rng(seed)
    buyers = generator.permutation(np.flatnonzero([len(items) > 0 for items in futures.items]))
    users: list[int] = []
    clean: list[str] = []
    misspelled: list[str] = []
    truths: list[Longs] = []
    for user in buyers:
        items = futures.items[user]
        wanted = types[int(generator.choice(items))]
        typed = shopper_words(wanted)
        if not typed or len(users) == num_queries:
            continue
        users.append(int(user))
        clean.append(typed)
        misspelled.append(misspell(typed, seed=zlib.crc32(futures.user_ids[user].encode()) + seed))
        truths.append(np.asarray([i for i in items if types[int(i)] == wanted], dtype=np.int64))
    return CatalogueQueries(
        users=np.asarray(users, dtype=np.int64), clean=clean, misspelled=misspelled, truths=truths
    )


def shopper_words(text: str) -> str:
    """The first words of a type in small letters, without numbers and single letters."""
    plain = [word for word in words(text) if len(word) > 1 and not any(c.isdigit() for c in word)]
    return " ".join(plain[:MAX_TYPED_WORDS])


def misspell(text: str, *, seed: int) -> str:
    """One slip in the longest word: letters swapped, one left out, doubled or mistyped.

    A text without a word of MIN_SLIP_LENGTH letters is returned as it is.
    """
    split = text.split()
    at = max(range(len(split)), key=lambda i: len(split[i]))
    word = split[at]
    if len(word) < MIN_SLIP_LENGTH:
        return text
    generator = np.random.default_rng(seed)
    place = int(generator.integers(1, len(word) - 1))
    letter = _LETTERS[int(generator.integers(len(_LETTERS)))]
    slips = (
        word[:place] + word[place + 1] + word[place] + word[place + 2 :],
        word[:place] + word[place + 1 :],
        word[:place] + word[place] + word[place:],
        word[:place] + letter + word[place + 1 :],
    )
    split[at] = slips[int(generator.integers(len(slips)))]
    return " ".join(split)
