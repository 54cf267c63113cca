"""Search judged at the test cut: on what customers typed, where they do, and on words of the
catalogue, clean and misspelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.context import ModelContext
from behavior_model.embedding import item_embeddings
from behavior_model.evaluation.comparison import compare_means
from behavior_model.evaluation.measurement import Measurement
from behavior_model.evaluation.results import Result
from behavior_model.heads.search import SearchHead
from behavior_model.heads.search_candidates import (
    FEATURES,
    Candidates,
)
from behavior_model.heads.search_fitting import (
    MIN_TYPED_QUERIES,
    NUM_FIT_QUERIES,
    Asked,
    QueryCandidates,
    as_typed,
    collect,
    finish,
    misspelled,
    queries_at,
    refine,
    typed_at,
    usable_features,
    validation_examples,
)
from behavior_model.metrics import (
    hits_at_k,
    ndcg_at_k,
    recall_at_k,
)
from behavior_model.text_encoder import TextEncoder

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Scorer = Callable[[Candidates], Doubles]

K: Final = 10
NUM_TEST_QUERIES: Final = 1_000
MATCH: Final = 0.8
_WORDS, _MEANING, _OWN, _TAKEN = (
    FEATURES.index(name) for name in ("words", "meaning", "own", "taken")
)
_WITHOUT_TAKEN: Final = "without what was taken after like words"
_SUBSETS: Final = {
    "text": ("words", "spelling", "details", "meaning"),
    "without the user": ("words", "spelling", "details", "meaning", "popularity"),
    "without the backbone": FEATURES[:-1],
    "without meaning": tuple(name for name in FEATURES if name != "meaning"),
    _WITHOUT_TAKEN: tuple(n for n in FEATURES if "taken" not in n),
}


def fit_and_judge(context: ModelContext, folder: Path, *, seed: int) -> list[Result]:
    """Fit the head, save it, and judge it beside its parts and baselines."""
    embeddings = item_embeddings(context.backbone, context.content)
    encoder = TextEncoder(context.workspace.text_cache)
    head, results = evaluate(context, encoder, item_embeddings=embeddings, seed=seed)
    head.save(folder)
    return results


def evaluate(
    context: ModelContext,
    encoder: TextEncoder,
    *,
    item_embeddings: Floats | None = None,
    seed: int = 0,
) -> tuple[SearchHead, list[Result]]:
    """Fit a search head and judge it beside baselines on the same candidates.

    Truth is what the user took after typing ("test/typed", and of it "test/typed, new words", which
    the memory of queries does not hold), or the products of the wanted type that the user bought in
    the window ("test/catalogue words" and "test/catalogue words misspelled": nobody typed them).
    """
    started = time.perf_counter()
    bare, examples = validation_examples(
        context,
        encoder,
        item_embeddings=item_embeddings,
        num_queries=NUM_FIT_QUERIES,
        seed=seed,
    )
    usable = usable_features(bare)
    head = finish(context, bare, examples, seed=seed)
    lacking = set()
    if item_embeddings is None:
        lacking.add("without the backbone")
    if not head.queries.texts:
        lacking.add(_WITHOUT_TAKEN)
    parts = {
        name: _mixture(examples.found.weights([f for f in features if f in usable]))
        for name, features in _SUBSETS.items()
        if name not in lacking
    }
    measured = Measurement(
        context=context,
        task="search",
        seed=seed,
        num_items=len(context.vocabulary.items),
        seconds=time.perf_counter() - started,
    )
    scorers = {"model": _mixture(head.weights), **parts, **_baselines(head, examples.found)}
    results: list[Result] = []
    for split, asked in _questions(context, head, seed=seed + 1).items():
        found = collect(context, head, context.test_time, asked)
        figures = {name: _judge(found, scorer) for name, scorer in scorers.items()}
        names = list(parts)
        if head.personal is not None:
            figures["without the ranking of products"] = figures["model"]
            figures["model"] = _looked_at_again(context, head, asked, found, figures["model"])
            names.append("without the ranking of products")
        results += _results(measured, split, figures, names)
    return head, results


def _questions(context: ModelContext, head: SearchHead, *, seed: int) -> dict[str, Asked]:
    """Queries of the window at the test cut, by split; none of a user twice."""
    questions: dict[str, Asked] = {}
    typed = typed_at(
        context,
        context.test_time,
        context.test_typed_queries,
        num_queries=NUM_TEST_QUERIES,
        seed=seed,
    )
    if len(typed) >= MIN_TYPED_QUERIES:
        questions["test/typed"] = typed
        known = set(head.queries.texts)
        new = typed.rows(np.flatnonzero([text not in known for text in typed.texts]))
        if len(new) >= MIN_TYPED_QUERIES:
            questions["test/typed, new words"] = new
    words = queries_at(context, context.test_futures, num_queries=NUM_TEST_QUERIES, seed=seed)
    if len(words):
        questions["test/catalogue words"] = as_typed(words)
        questions["test/catalogue words misspelled"] = misspelled(words)
    return questions


def _looked_at_again(
    context: ModelContext,
    head: SearchHead,
    asked: Asked,
    found: QueryCandidates,
    first: dict[str, Doubles],
) -> dict[str, Doubles]:
    """Figures with the second look at the candidates of those who have a history."""
    assert head.personal is not None
    known = asked.users >= 0
    if not known.any():
        return first
    second = refine(
        context,
        head,
        context.test_time,
        asked.users[known],
        found.rows(known),
        head.personal.ranker,
    )
    figures = {metric: values.copy() for metric, values in first.items()}
    for metric, values in _judge(second, _mixture(head.personal.weights)).items():
        figures[metric][known] = values
    return figures


def _mixture(weights: Doubles) -> Scorer:
    return lambda one: one.features.astype(np.float64) @ weights


def _baselines(head: SearchHead, examples: QueryCandidates) -> dict[str, Scorer]:
    popular = _mixture(examples.weights(("words", "popularity")))

    def own_most_frequent(one: Candidates) -> Doubles:
        matches = one.features[:, _WORDS] >= MATCH
        return np.asarray(1e3 * matches * one.features[:, _OWN] + popular(one), dtype=np.float64)

    baselines = {
        "BM25": lambda one: one.features[:, _WORDS].astype(np.float64),
        "BM25 and popularity": popular,
        "own most frequent among matches": own_most_frequent,
        "meaning alone": lambda one: one.features[:, _MEANING].astype(np.float64),
    }
    if head.queries.texts:
        baselines["most taken after like words"] = lambda one: np.asarray(
            1e3 * one.features[:, _TAKEN] + popular(one), dtype=np.float64
        )
    return baselines


def _judge(found: QueryCandidates, scorer: Scorer) -> dict[str, Doubles]:
    ranked = np.full((len(found.candidates), K), -1, dtype=np.int64)
    for row, one in enumerate(found.candidates):
        best = np.argsort(-scorer(one), kind="stable")[:K]
        ranked[row, : len(best)] = one.item_idx[best]
    hits = hits_at_k(ranked, found.truths, K)
    reciprocal = np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1.0), 0.0)
    return {
        f"ndcg@{K}": ndcg_at_k(ranked, found.truths, K),
        f"recall@{K}": recall_at_k(ranked, found.truths, K),
        f"mrr@{K}": reciprocal,
    }


def _results(
    measured: Measurement,
    split: str,
    figures: dict[str, dict[str, Doubles]],
    part_names: Sequence[str],
) -> list[Result]:
    results = []
    for metric in figures["model"]:
        by_name = {name: by_metric[metric] for name, by_metric in figures.items()}
        model = by_name.pop("model")
        parts = {name: float(np.nanmean(by_name.pop(name))) for name in part_names}
        results.append(
            measured.result(
                metric,
                split,
                compare_means(metric, model, by_name),
                num_users=len(model),
                parts=parts,
            )
        )
    return results
