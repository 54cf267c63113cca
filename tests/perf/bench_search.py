"""Search on what people typed into a shop of which nothing but titles is known.

Run: `python tests/perf/bench_search.py --judgements FILE --out DIR [--num-queries 2000]`, where the
Parquet file has `query`, `item_id`, `title` and `relevance` from 1 (not what was meant) to 3 (just
that), as people judged them (on Kaggle: Home Depot Product Search Relevance). Every product that
any chosen query was judged with is ranked for every query; what nobody judged counts as not meant.
Weights are learned on one half of the queries and judged on the other, both ways.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))

from behavior_model.evaluation.comparison import compare_means
from behavior_model.heads.familiarity import NUM_QUANTILES
from behavior_model.heads.lexical_index import LexicalIndex, item_texts
from behavior_model.heads.search import SearchHead
from behavior_model.heads.search_candidates import FEATURES, Candidates
from behavior_model.heads.search_fitting import USUAL_WEIGHTS, QueryCandidates
from behavior_model.items import build_item_content
from behavior_model.memory.queries import QueryMemory
from behavior_model.text_encoder import TextEncoder
from pipelines.contracts import ITEM_ID, TITLE
from pipelines.tokens.binning import words
from pipelines.tokens.vocabulary import Vocabulary

K: Final = 10
MEANT: Final = 2.0
"""Relevance from which a product is at least partly what was meant."""
Doubles = npt.NDArray[np.float64]
Scores = Callable[[Candidates], Doubles]
PARTS: Final = {
    "BM25 over words": ("words",),
    "BM25 over letters": ("spelling",),
    "likeness of meaning": ("meaning",),
    "words and letters": ("words", "spelling"),
}
ALL: Final = ("words", "spelling", "meaning")


def shop_of(judged: pd.DataFrame) -> tuple[pa.Table, Vocabulary]:
    """The catalogue, and a vocabulary of products that nobody has bought yet."""
    items = judged.drop_duplicates("item_id").sort_values("item_id")
    ids = [str(item) for item in items["item_id"]]
    catalogue = pa.table({ITEM_ID: ids, TITLE: items["title"].tolist()})
    vocabulary = Vocabulary(
        company="shop",
        fitted_before="",
        fields=(),
        items=tuple(ids),
        item_counts=(0,) * len(ids),
        categories=(),
        item_categories=(-1,) * len(ids),
    )
    return catalogue, vocabulary


def ndcg(found: npt.NDArray[np.int64], relevance: dict[int, float]) -> float:
    """Järvelin and Kekäläinen (2002) with gains of 2 ** (relevance - 1) - 1."""
    discounts = 1.0 / np.log2(np.arange(2, K + 2))
    gains = np.asarray([2.0 ** (relevance.get(int(item), 1.0) - 1.0) - 1.0 for item in found[:K]])
    ideal = np.sort([2.0 ** (grade - 1.0) - 1.0 for grade in relevance.values()])[::-1][:K]
    return float(gains @ discounts[: len(gains)] / (ideal @ discounts[: len(ideal)]))


def figures(found: QueryCandidates, grades: list[dict[int, float]], score: Scores) -> Doubles:
    """float64[2, Q]: NDCG@K, and the share of what was meant that stands among the best K."""
    rows = []
    for one, relevance in zip(found.candidates, grades, strict=True):
        best = one.item_idx[np.argsort(-score(one), kind="stable")[:K]]
        meant = [item for item, grade in relevance.items() if grade >= MEANT]
        recall = np.isin(best, meant).sum() / min(K, len(meant))
        rows.append((ndcg(best, relevance), recall))
    return np.asarray(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgements", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="keeps the texts that were read")
    parser.add_argument("--num-queries", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    judged = pd.read_parquet(options.judgements)
    judged = judged[judged.groupby("query")["relevance"].transform("max") >= MEANT]
    rng = np.random.default_rng(options.seed)
    texts = rng.permutation(np.asarray(sorted(set(judged["query"])), dtype=object))
    texts = texts[: options.num_queries].tolist()
    judged = judged[judged["query"].isin(texts)]
    catalogue, vocabulary = shop_of(judged)
    encoder = TextEncoder(options.out)
    head = SearchHead(
        vocabulary=vocabulary,
        index=LexicalIndex(item_texts(catalogue, vocabulary)),
        content=build_item_content(
            catalogue, vocabulary, encoder, max_descriptors=len(vocabulary.items)
        ),
        encoder=encoder,
        popularity=np.zeros(vocabulary.num_item_indices, dtype=np.float32),
        queries=QueryMemory.empty(),
        weights=np.asarray([USUAL_WEIGHTS[name] for name in FEATURES]),
        matches=np.zeros(NUM_QUANTILES),
    )
    grades = _grades(judged, texts, vocabulary)
    truths = [np.asarray([i for i, grade in one.items() if grade >= MEANT]) for one in grades]
    meanings = head.encode(texts)
    candidates = [head.candidates(q, meanings[row], None) for row, q in enumerate(texts)]
    found = QueryCandidates(candidates, truths)
    half = np.arange(len(texts)) % 2 == 0

    def learned(features: tuple[str, ...]) -> Doubles:
        values = np.zeros((2, len(texts)))
        for taught in (half, ~half):
            weights = found.rows(taught).weights(features)
            others = [one for one, kept in zip(grades, ~taught, strict=True) if kept]
            values[:, ~taught] = figures(found.rows(~taught), others, _weighed(weights))
        return values

    rows = {name: learned(features) for name, features in PARTS.items()}
    rows["words, letters and meaning"] = learned(ALL)
    rows["the same, nothing learned"] = figures(found, grades, _weighed(head.weights))
    _print(texts, judged, vocabulary, rows)


def _grades(
    judged: pd.DataFrame, texts: list[str], vocabulary: Vocabulary
) -> list[dict[int, float]]:
    """Per query the relevance of each judged item index."""
    grades: dict[str, dict[int, float]] = {text: {} for text in texts}
    for query, item, relevance in judged[["query", "item_id", "relevance"]].itertuples(index=False):
        grades[query][vocabulary.item_idx_of[str(item)]] = float(relevance)
    return list(grades.values())


def _weighed(weights: Doubles) -> Scores:
    return lambda one: one.features.astype(np.float64) @ weights


def _print(
    texts: list[str], judged: pd.DataFrame, vocabulary: Vocabulary, rows: dict[str, Any]
) -> None:
    known = {word for title in judged["title"].unique() for word in words(title)}
    strange = np.asarray([any(word not in known for word in words(text)) for text in texts])
    print(
        f"{len(texts):,} queries, {len(judged):,} judgements, {len(vocabulary.items):,} products; "
        f"{strange.sum():,} queries hold a word that no title has"
    )
    print("| | NDCG@10 | Recall@10 | NDCG@10, a word that no title has |\n|---|---|---|---|")
    for name, (gain, recall) in rows.items():
        print(f"| {name} | {gain.mean():.4f} | {recall.mean():.4f} | {gain[strange].mean():.4f} |")
    *others, best = (rows[name][0] for name in (*PARTS, "words, letters and meaning"))
    compared = compare_means(f"ndcg@{K}", best, dict(zip(PARTS, others, strict=True)))
    low, high = compared.interval
    print(f"words, letters and meaning: {compared.model:.4f} [{low:.4f}, {high:.4f}]", end=", ")
    best_part = max(compared.baselines, key=lambda name: compared.baselines[name])
    assert compared.gain_interval is not None
    low, high = compared.gain_interval
    gain = compared.model - compared.baselines[best_part]
    print(f"{gain:+.4f} [{low:+.4f}, {high:+.4f}] over {best_part}")


if __name__ == "__main__":
    main()
