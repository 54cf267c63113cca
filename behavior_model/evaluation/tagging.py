"""Tagging judged on sold products whose title and category were hidden from everything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from behavior_model.context import ModelContext
from behavior_model.evaluation.comparison import compare_means
from behavior_model.evaluation.measurement import Measurement
from behavior_model.evaluation.results import Result
from behavior_model.heads.tag_evidence import item_tags, sold_items
from behavior_model.heads.tagging import FEATURES, FLOORS, TaggingHead
from behavior_model.heads.tagging_fitting import fit
from pipelines import lake

Longs = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

HELD_OUT_SHARE: Final = 0.1
NUM_JUDGED: Final = 3_000
DEPTH: Final = 100
CHUNK: Final = 500
SMOOTHING: Final = 0.01


def fit_and_judge(context: ModelContext, folder: Path, *, seed: int) -> list[Result]:
    """Judge the head on hidden products, then fit it on all and save it."""
    head, results = evaluate(context, seed=seed)
    head.save(folder)
    return results


def evaluate(context: ModelContext, *, seed: int = 0) -> tuple[TaggingHead, list[Result]]:
    """Judge tagging on hidden products, then fit the head that serves on all of them.

    A tenth of the sold products is hidden; what is judged is a sample of those that have words;
    without any there are no results.
    Words that the visible products never bear count as missed.
    """
    started = time.perf_counter()
    catalogue = lake.read_catalogue(context.workspace)
    hidden, judged, truths = held_out(context, seed=seed)
    if len(judged) == 0:
        return fit(context, catalogue=catalogue, seed=seed), []
    head = fit(context, catalogue=catalogue, hidden=hidden, seed=seed)
    plain = fit(context, catalogue=catalogue, hidden=hidden, with_price=False, seed=seed)
    truth_idx = [_positions(head, words) for words in truths]
    measured = Measurement(
        context=context,
        task="tagging",
        seed=seed,
        num_items=len(judged),
        seconds=time.perf_counter() - started,
    )
    ranked = {
        "model": _ranked(head, judged, head.weights),
        "without baskets": _ranked(
            head, judged, head.weights * (np.asarray(FEATURES) != "baskets")
        ),
        "most frequent tags": np.tile(np.arange(DEPTH), (len(judged), 1)),
        "partial text neighbours": _ranked(plain, judged, _only("neighbours")),
        "behaviour only": _ranked(head, judged, _only("baskets")),
        "naive Bayes on hand-made features": _naive_bayes(head, judged),
    }
    results = _results(measured, ranked, truth_idx, parts=("without baskets",))
    return fit(context, catalogue=catalogue, seed=seed), results


def held_out(context: ModelContext, *, seed: int) -> tuple[Longs, Longs, list[list[str]]]:
    """Hidden item indices, those of them that are judged, and the judged ones' true tags."""
    catalogue = lake.read_catalogue(context.workspace)
    tags = item_tags(catalogue, context.vocabulary)
    sold = sold_items(context.vocabulary, context.histories(context.as_of_us))
    shuffled = np.random.default_rng(seed + 1).permutation(sold)
    hidden = shuffled[: max(int(HELD_OUT_SHARE * len(sold)), 1)]
    judged = np.asarray([i for i in hidden if tags[int(i)]], dtype=np.int64)[:NUM_JUDGED]
    return hidden, judged, [tags[int(item)] for item in judged]


def _positions(head: TaggingHead, words: Sequence[str]) -> Longs:
    place = {tag: i for i, tag in enumerate(head.tags)}
    return np.asarray([place.get(word, -2 - i) for i, word in enumerate(words)], dtype=np.int64)


def _only(name: str) -> Doubles:
    return np.asarray([1.0 if feature == name else 0.0 for feature in FEATURES])


def _ranked(head: TaggingHead, judged: Longs, weights: Doubles) -> Longs:
    parts = []
    for start in range(0, len(judged), CHUNK):
        features = head.features(judged[start : start + CHUNK])
        scores = np.log(features + FLOORS) @ weights
        parts.append(np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH])
    return np.concatenate(parts)


def _naive_bayes(head: TaggingHead, judged: Longs) -> Longs:
    """Multinomial naive Bayes, one class per tag, on the hand-made features.

    Smoothing gives every feature a share in every tag. Counts stay sparse all the same: what a
    count adds to the logarithm of smoothing alone is zero where the count is.
    """
    bought = sparse.csr_matrix(head.text > 0, dtype=np.float64)
    together = sparse.csr_matrix(head.tag_rows.T @ bought, dtype=np.float64)
    totals = np.asarray(together.sum(axis=1)).ravel() + SMOOTHING * together.shape[1]
    added = (together / SMOOTHING).log1p().T.tocsr()
    frequency = np.asarray(head.tag_rows.sum(axis=0)).ravel()
    parts = []
    for start in range(0, len(judged), CHUNK):
        rows = bought[judged[start : start + CHUNK]]
        sizes = np.asarray(rows.sum(axis=1))
        scores = (rows @ added).toarray() + sizes * np.log(SMOOTHING / totals) + np.log(frequency)
        parts.append(np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH])
    return np.concatenate(parts)


def _results(
    measured: Measurement,
    ranked: dict[str, Longs],
    truths: Sequence[Longs],
    *,
    parts: tuple[str, ...],
) -> list[Result]:
    figures = {name: _metrics(rows, truths) for name, rows in ranked.items()}
    results = []
    for metric in figures["model"]:
        by_name = {name: by_metric[metric] for name, by_metric in figures.items()}
        model = by_name.pop("model")
        own = {name: float(by_name.pop(name).mean()) for name in parts}
        results.append(
            measured.result(
                metric,
                "test/held-out products",
                compare_means(metric, model, by_name),
                num_users=len(measured.context.histories(measured.context.as_of_us)),
                parts=own,
            )
        )
    return results


def _metrics(ranked: Longs, truths: Sequence[Longs]) -> dict[str, Doubles]:
    hits = np.stack([np.isin(row, truth) for row, truth in zip(ranked, truths, strict=True)])
    sizes = np.asarray([len(truth) for truth in truths], dtype=np.float64)
    precisions = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return {
        "recall@5": hits[:, :5].sum(axis=1) / sizes,
        "precision@1": hits[:, 0].astype(np.float64),
        "mean_average_precision": (precisions * hits).sum(axis=1) / sizes,
    }
