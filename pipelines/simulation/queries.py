"""What customers type: words of the product they have in mind, some misspelt, some mixed.

A query names the noun of the product in the customer's language: alone (4 in 10), or with its
quality, its colour or its brand (2 in 10 each). It is then typed clean, misspelt or mixed with
weights `KIND_WEIGHTS`. A misspelt text carries one slip of the finger: a letter left out, doubled
or swapped with the next, or its accents forgotten. A mixed one has its quality or colour in another
language. A changed text that could mean two categories is left out, so that the category behind a
text is certain.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from pipelines.simulation.arrays import Floats, Ints, Stream, draw_segments, generator, segment_cdf
from pipelines.simulation.catalogue import Items
from pipelines.simulation.shop import NUM_CATEGORIES
from pipelines.simulation.words import (
    BRANDS,
    CATEGORIES,
    COLOURS,
    LANGUAGES,
    NUM_BRANDS_OF_A_CATEGORY,
    QUALITIES,
    brands_of,
)

QueryKind = Literal["clean", "misspelt", "mixed"]
KINDS: Final = get_args(QueryKind)
KIND_WEIGHTS: Final[dict[QueryKind, float]] = {"clean": 0.65, "misspelt": 0.20, "mixed": 0.15}
NUM_MISSPELT: Final = 4
FORM_SHARES: Final = {"noun": 0.4, "quality": 0.2, "colour": 0.2, "brand": 0.2}

_WORDS: Final = [(*pair[0], *pair[1]) for pair in zip(QUALITIES, COLOURS, strict=True)]
_FIRST_COLOUR: Final = 1 + len(QUALITIES[0])
_FIRST_BRAND: Final = _FIRST_COLOUR + len(COLOURS[0])
_NUM_FORMS: Final = _FIRST_BRAND + NUM_BRANDS_OF_A_CATEGORY
"""A noun alone, or with one of the other words."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A text that customers type and what it means."""

    text: str
    clean: str
    kind: QueryKind
    language: int
    category: int
    meaning: int


@dataclass(frozen=True, kw_only=True)
class QueryPool:
    """All queries, grouped by meaning: language, category, noun and form.

    Args:
        queries: All of them.
        cdf: Their distribution, one segment for each meaning.
        texts: What is typed.
    """

    queries: tuple[Query, ...]
    cdf: Floats
    texts: npt.NDArray[np.object_] = field(repr=False)

    def draw(self, rng: np.random.Generator, items: Items, item: Ints, language: Ints) -> Ints:
        """What is typed by someone who has each item in mind."""
        category = items.category[item]
        form = rng.choice(len(FORM_SHARES), len(item), p=list(FORM_SHARES.values()))
        brand = _BRAND_PLACES[category, items.brand[item]]
        word = np.choose(
            form,
            [
                np.zeros_like(item),
                1 + items.quality[item],
                _FIRST_COLOUR + items.colour[item],
                _FIRST_BRAND + brand,
            ],
        )
        meaning = ((language * NUM_CATEGORIES + category) * 2 + items.noun[item]) * _NUM_FORMS
        return draw_segments(rng, self.cdf, meaning + word)


def _brand_places() -> Ints:
    places = np.zeros((NUM_CATEGORIES, len(BRANDS)), dtype=np.int64)
    for category in range(NUM_CATEGORIES):
        for place, name in enumerate(brands_of(category)):
            places[category, BRANDS.index(name)] = place
    return places


_BRAND_PLACES: Final = _brand_places()


def make_queries(seed: int) -> QueryPool:
    """Draw the pool of queries."""
    rng = generator(seed, Stream.QUERIES)
    drawn = [query for clean in _clean_queries() for query in (clean, *_changed(rng, clean))]
    categories: dict[str, set[int]] = {}
    for query in drawn:
        categories.setdefault(query.text, set()).add(query.category)
    kept = tuple(q for q in drawn if q.kind == "clean" or len(categories[q.text]) == 1)
    return QueryPool(
        queries=kept,
        cdf=segment_cdf(_weights(kept), np.array([one.meaning for one in kept])),
        texts=np.array([one.text for one in kept], dtype=object),
    )


def _clean_queries() -> Iterator[Query]:
    meaning = 0
    for language in range(len(LANGUAGES)):
        for category in range(NUM_CATEGORIES):
            words = (*_WORDS[language], *brands_of(category))
            for noun in CATEGORIES[category].nouns[language]:
                for text in (noun, *(f"{noun} {word}" for word in words)):
                    yield Query(
                        text=text.lower(),
                        clean=text.lower(),
                        kind="clean",
                        language=language,
                        category=category,
                        meaning=meaning,
                    )
                    meaning += 1


def _changed(rng: np.random.Generator, query: Query) -> Iterator[Query]:
    """The same meaning, typed otherwise."""
    texts: dict[str, QueryKind] = {}
    for _ in range(NUM_MISSPELT):
        texts[_misspell(rng, query.clean)] = "misspelt"
    for text in _mixed(query):
        texts[text] = "mixed"
    texts.pop(query.clean, None)
    for text, kind in texts.items():
        yield Query(
            text=text,
            clean=query.clean,
            kind=kind,
            language=query.language,
            category=query.category,
            meaning=query.meaning,
        )


def _mixed(query: Query) -> Iterator[str]:
    form = query.meaning % _NUM_FORMS
    if not 0 < form < _FIRST_BRAND:
        return
    noun = query.clean.removesuffix(_WORDS[query.language][form - 1].lower())
    for words in _WORDS:
        yield noun + words[form - 1].lower()


def _weights(queries: tuple[Query, ...]) -> Floats:
    """Weights that give every kind its share of a meaning."""
    kinds = np.array([KINDS.index(one.kind) for one in queries])
    groups = np.array([one.meaning for one in queries]) * len(KINDS) + kinds
    shares = np.array([KIND_WEIGHTS[kind] for kind in KINDS])[kinds]
    return np.asarray(shares / np.bincount(groups)[groups])


def _misspell(rng: np.random.Generator, text: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    if plain != text and rng.random() < 0.4:
        return plain
    place = int(rng.integers(1, len(text) - 1))
    slip = rng.integers(3)
    if slip == 0:
        return text[:place] + text[place + 1 :]
    if slip == 1:
        return text[:place] + text[place] + text[place:]
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
