"""Words and spellings of all items in one full-text index, by tantivy.

Scores are BM25 (Robertson et al., 1995) over three fields: the words of names, the words of
details, and the character 2- and 3-grams of names, for misspellings and for scripts that do not
part words. A word that the catalogue lacks is also looked for one or two edits away. The index
lives in memory and is made from its texts (about a second for 90,000 short names, longer with
descriptions) by `warm` or when first asked, so a bundle holds plain data and may lie on a read-only
disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tantivy

from pipelines.contracts import BRAND, CATALOGUE, CATEGORY_PATH, DESCRIPTION, ITEM_ID, TITLE
from pipelines.tokens.binning import FIRST_IDX, words
from pipelines.tokens.vocabulary import Vocabulary

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

MAX_HITS: Final = 1_000
MAX_QUERY_WORDS: Final = 12
ONE_EDIT_LENGTH: Final = 4
TWO_EDITS_LENGTH: Final = 8
NEAR_WORD_SCORE: Final = 5.0
"""Score of a word found by edits: BM25 gives as much to a word that one item in 150 holds."""
WRITER_BYTES: Final = 256_000_000
_ITEM: Final = "item_idx"
_WORDS: Final = "words"
_GRAMS: Final = "grams"
_DETAILS: Final = "details"


@dataclass(frozen=True, eq=False)
class LexicalHits:
    """Items that share words or spellings with a query, ascending by index.

    Args:
        item_idx: int64[C].
        word_scores: float32[C], BM25 over the words of names as a share of the best hit's.
        gram_scores: float32[C], the same over the character n-grams of names.
        detail_scores: float32[C], the same over the words of details.
    """

    item_idx: Longs
    word_scores: Floats
    gram_scores: Floats
    detail_scores: Floats


@dataclass(frozen=True, eq=False)
class ItemTexts:
    """Texts per item index, beginning at FIRST_IDX; "" where nothing is written.

    Names decide what an item is, details tell apart what is called the same. BM25 over both
    together would rank items of one name by the length of their details.

    Args:
        names: Title and category path.
        details: Brand, description and the company's own text columns.
    """

    names: list[str]
    details: list[str]


class LexicalIndex:
    """Full-text index over the texts of all items.

    Args:
        texts: Names and details per item index, beginning at FIRST_IDX. Equal scores keep this
            order.
    """

    def __init__(self, texts: ItemTexts) -> None:
        self.texts = texts

    @cached_property
    def _schema(self) -> tantivy.Schema:
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field(_ITEM, indexed=True, fast=True)
        builder.add_text_field(_WORDS, tokenizer_name=_WORDS, index_option="freq")
        builder.add_text_field(_GRAMS, tokenizer_name=_GRAMS, index_option="freq")
        builder.add_text_field(_DETAILS, tokenizer_name=_WORDS, index_option="freq")
        return builder.build()

    @cached_property
    def _analyzers(self) -> dict[str, tantivy.TextAnalyzer]:
        tokenizers = {
            _WORDS: tantivy.Tokenizer.whitespace(),
            _GRAMS: tantivy.Tokenizer.ngram(2, 3, False),
        }
        return {
            name: tantivy.TextAnalyzerBuilder(tokenizer).filter(tantivy.Filter.ascii_fold()).build()
            for name, tokenizer in tokenizers.items()
        }

    @cached_property
    def _searcher(self) -> tantivy.Searcher:
        index = tantivy.Index(self._schema)
        for name, analyzer in self._analyzers.items():
            index.register_tokenizer(name, analyzer)
        writer = index.writer(WRITER_BYTES, num_threads=1)
        pairs = zip(self.texts.names, self.texts.details, strict=True)
        for item_idx, (name, detail) in enumerate(pairs, start=FIRST_IDX):
            spaced = " ".join(words(name))
            document = tantivy.Document()
            document.add_unsigned(_ITEM, item_idx)
            document.add_text(_WORDS, spaced)
            document.add_text(_GRAMS, spaced)
            document.add_text(_DETAILS, " ".join(words(detail)))
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        return index.searcher()

    def warm(self) -> None:
        """Make the index now, so that nobody's query waits for it."""
        _ = self._searcher

    def search(self, text: str, own_items: Sequence[int] = ()) -> LexicalHits:
        """Items like a text: the best `MAX_HITS` by words, as many by spelling, and own ones.

        Args:
            text: What somebody typed.
            own_items: Item indices to look at as well when they match at all.
        """
        split = words(text)[:MAX_QUERY_WORDS]
        if not split:
            nothing = np.zeros(0, dtype=np.float32)
            return LexicalHits(np.zeros(0, dtype=np.int64), nothing, nothing, nothing)
        by_field = {
            field: self._hits(query, own_items)
            for field, query in (
                (_WORDS, self._word_query(_WORDS, split)),
                (_GRAMS, self._gram_query(" ".join(split))),
                (_DETAILS, self._word_query(_DETAILS, split)),
            )
        }
        found = np.unique(np.concatenate([idx for idx, _ in by_field.values()]))
        scores = {field: _spread(found, idx, values) for field, (idx, values) in by_field.items()}
        return LexicalHits(found, scores[_WORDS], scores[_GRAMS], scores[_DETAILS])

    def _word_query(self, field: str, split: list[str]) -> tantivy.Query:
        folded = self._analyzers[_WORDS].analyze(" ".join(split))
        parts = []
        for word in folded:
            known = self._searcher.doc_freq(_WORDS, word) or self._searcher.doc_freq(_DETAILS, word)
            if known or len(word) < ONE_EDIT_LENGTH:
                parts.append(tantivy.Query.term_query(self._schema, field, word, "freq"))
            else:
                edits = 1 + (len(word) >= TWO_EDITS_LENGTH)
                near = tantivy.Query.fuzzy_term_query(self._schema, field, word, distance=edits)
                parts.append(tantivy.Query.boost_query(near, NEAR_WORD_SCORE))
        return _any_of(parts)

    def _gram_query(self, text: str) -> tantivy.Query:
        grams = dict.fromkeys(self._analyzers[_GRAMS].analyze(text))
        return _any_of(
            [tantivy.Query.term_query(self._schema, _GRAMS, gram, "freq") for gram in grams]
        )

    def _hits(self, query: tantivy.Query, own_items: Sequence[int]) -> tuple[Longs, Floats]:
        idx, scores = self._run(query, MAX_HITS)
        if len(own_items):
            own = tantivy.Query.term_set_query(self._schema, _ITEM, [int(i) for i in own_items])
            own = tantivy.Query.const_score_query(own, 0.0)
            both = tantivy.Query.boolean_query(
                [(tantivy.Occur.Must, own), (tantivy.Occur.Must, query)]
            )
            more_idx, more_scores = self._run(both, len(own_items))
            idx, first = np.unique(np.concatenate([idx, more_idx]), return_index=True)
            scores = np.concatenate([scores, more_scores])[first]
        best = scores.max(initial=0.0)
        return idx, scores / best if best > 0 else scores

    def _run(self, query: tantivy.Query, limit: int) -> tuple[Longs, Floats]:
        hits = self._searcher.search(query, limit, count=False).hits
        found = self._searcher.fast_field_values(_ITEM, [address for _, address in hits])
        return (
            np.asarray(found, dtype=np.int64),
            np.asarray([score for score, _ in hits], dtype=np.float32),
        )


def _any_of(parts: list[tantivy.Query]) -> tantivy.Query:
    return tantivy.Query.boolean_query([(tantivy.Occur.Should, part) for part in parts])


def _spread(found: Longs, idx: Longs, values: Floats) -> Floats:
    scores = np.zeros(len(found), dtype=np.float32)
    scores[np.searchsorted(found, idx)] = values
    return scores


def item_texts(catalogue: pa.Table, vocabulary: Vocabulary) -> ItemTexts:
    """What is written about each item of the vocabulary, in its order; "" where nothing is."""
    known = set(CATALOGUE.column_names)
    extras = [f.name for f in catalogue.schema if f.name not in known and f.type == pa.string()]
    return ItemTexts(
        names=_joined(catalogue, vocabulary, (TITLE, CATEGORY_PATH)),
        details=_joined(catalogue, vocabulary, (BRAND, DESCRIPTION, *extras)),
    )


def _joined(catalogue: pa.Table, vocabulary: Vocabulary, names: Sequence[str]) -> list[str]:
    columns = [catalogue.column(n).to_pylist() for n in names if n in catalogue.column_names]
    ids = catalogue.column(ITEM_ID).to_pylist()
    text_of = {
        item: " ".join(dict.fromkeys(value for value in row if value))
        for item, *row in zip(ids, *columns, strict=True)
    }
    return [text_of.get(item, "") for item in vocabulary.items]
