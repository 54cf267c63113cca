"""Fitting a search head: candidates of validation queries, then a few weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.context import Futures, ModelContext
from behavior_model.heads.catalogue_queries import CatalogueQueries, catalogue_queries, item_types
from behavior_model.heads.choice import fit_choice_weights
from behavior_model.heads.item_counts import own_counts, popularity
from behavior_model.heads.lexical_index import LexicalIndex, item_texts
from behavior_model.heads.search import FEATURES, Candidates, SearchHead
from behavior_model.text_encoder import TextEncoder
from pipelines import lake

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

NUM_FIT_QUERIES: Final = 400
USUAL_WEIGHTS: Final = {
    "words": 7.5,
    "spelling": 3.0,
    "details": 0.5,
    "meaning": 14.0,
    "popularity": 1.0,
    "own": 1.0,
    "own_recent": 1.0,
    "owned_match": 3.0,
    "owned_popularity": -0.6,
    "backbone": 0.0,
}
"""What groceries gave; for a company whose purchases cannot be asked for in words."""


@dataclass(frozen=True, eq=False)
class QueryCandidates:
    """Candidates of all queries of one kind at one prediction time.

    Args:
        candidates: Per query its candidates with features.
        truths: Per query the items that were bought.
    """

    candidates: list[Candidates]
    truths: list[npt.NDArray[np.int64]]

    def weights(self, features: Sequence[str] = FEATURES) -> Doubles:
        """float64[len(FEATURES)]: fitted weights that use only the named features.

        Where no query found what was bought, there is nothing to fit and the usual weights hold.
        """
        if not any(
            np.isin(truth, one.item_idx).any()
            for one, truth in zip(self.candidates, self.truths, strict=True)
        ):
            kept = [weight if name in features else 0.0 for name, weight in USUAL_WEIGHTS.items()]
            return np.asarray(kept)
        offsets = np.cumsum([0, *(len(one.item_idx) for one in self.candidates)])
        pairs = zip(self.candidates, self.truths, strict=True)
        return fit_choice_weights(
            np.concatenate([one.features for one in self.candidates]),
            np.concatenate([np.isin(one.item_idx, truth) for one, truth in pairs]),
            offsets,
            columns=[FEATURES.index(name) for name in features],
        )


def fit(
    context: ModelContext,
    encoder: TextEncoder,
    *,
    item_embeddings: Floats | None = None,
    num_queries: int = NUM_FIT_QUERIES,
    seed: int = 0,
) -> SearchHead:
    """Fit the head on the validation window; its popularity is that of the test cut.

    Args:
        context: At the test cut.
        encoder: The text encoder that made `context.content`.
        item_embeddings: float32[num_item_indices, D + 1] of `embedding.item_embeddings`, or None to
            search without the backbone.
        num_queries: Users whose purchases are asked for, each cleanly and misspelled.
        seed: Seed of the choice of queries.
    """
    head, examples = validation_examples(
        context, encoder, item_embeddings=item_embeddings, num_queries=num_queries, seed=seed
    )
    return at_cut(head, context, examples.weights(_usable(item_embeddings)))


def validation_examples(
    context: ModelContext,
    encoder: TextEncoder,
    *,
    item_embeddings: Floats | None,
    num_queries: int,
    seed: int,
) -> tuple[SearchHead, QueryCandidates]:
    """A head without weights at the validation time, and what its weights are fitted on."""
    moment = context.validation_time
    catalogue = lake.read_catalogue(context.workspace)
    head = SearchHead(
        vocabulary=context.vocabulary,
        index=LexicalIndex(item_texts(catalogue, context.vocabulary)),
        content=context.content,
        encoder=encoder,
        popularity=popularity(context.vocabulary, context.histories(moment), moment),
        weights=np.zeros(len(FEATURES)),
        item_embeddings=item_embeddings,
    )
    queries = queries_at(context, context.futures(moment), num_queries=num_queries, seed=seed)
    found = [
        collect(context, head, moment, queries, texts)
        for texts in (queries.clean, queries.misspelled)
    ]
    return head, QueryCandidates(
        candidates=[one for part in found for one in part.candidates],
        truths=[one for part in found for one in part.truths],
    )


def at_cut(head: SearchHead, context: ModelContext, weights: Doubles) -> SearchHead:
    """The head with weights and the popularity of the test cut."""
    moment = context.as_of_us
    recent = popularity(context.vocabulary, context.histories(moment), moment)
    return replace(head, weights=weights, popularity=recent)


def queries_at(
    context: ModelContext, futures: Futures, *, num_queries: int, seed: int
) -> CatalogueQueries:
    """Catalogue-word queries for purchases of a window."""
    types = item_types(lake.read_catalogue(context.workspace), context.vocabulary)
    return catalogue_queries(types, futures, num_queries=num_queries, seed=seed)


def collect(
    context: ModelContext,
    head: SearchHead,
    prediction_time_us: int,
    queries: CatalogueQueries,
    texts: Sequence[str],
) -> QueryCandidates:
    """Candidates of every query, personal to its user, by what was known at a prediction time."""
    histories = context.histories(prediction_time_us)
    item_queries = (
        None if head.item_embeddings is None else context.states(prediction_time_us).item_query
    )
    meanings = head.encode(texts)
    candidates = []
    for row, (user, text) in enumerate(zip(queries.users.tolist(), texts, strict=True)):
        own = own_counts(context.vocabulary, histories, user, prediction_time_us)
        toward = None if item_queries is None else item_queries[user]
        candidates.append(head.candidates(text, meanings[row], own, toward))
    return QueryCandidates(candidates=candidates, truths=queries.truths)


def _usable(item_embeddings: Floats | None) -> tuple[str, ...]:
    return FEATURES if item_embeddings is not None else FEATURES[:-1]
