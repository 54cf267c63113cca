"""Fitting a search head: candidates of validation queries, then a few weights.

Where customers type, the queries are theirs, and what they took then is what was meant. Elsewhere
they are words of the catalogue for what was bought.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from behavior_model.context import Futures, ModelContext
from behavior_model.heads.catalogue_queries import CatalogueQueries, catalogue_queries, item_types
from behavior_model.heads.choice import fit_choice_weights
from behavior_model.heads.familiarity import NUM_QUANTILES
from behavior_model.heads.item_counts import own_counts, popularity
from behavior_model.heads.lexical_index import LexicalIndex, item_texts
from behavior_model.heads.recommendation import RecommendationHead
from behavior_model.heads.recommendation_fitting import rankings
from behavior_model.heads.search import NUM_REFINED, SearchHead
from behavior_model.heads.search_candidates import (
    FEATURES,
    PERSONAL_FEATURES,
    RECOMMENDED,
    Candidates,
    PersonalSearch,
    match,
)
from behavior_model.memory.queries import QueryMemory
from behavior_model.metrics import ndcg_at_k
from behavior_model.text_encoder import TextEncoder
from behavior_model.typed_queries import TypedQueries
from pipelines import lake
from pipelines.errors import TooLittleDataError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

Longs = npt.NDArray[np.int64]

K: Final = 10
NUM_FIT_QUERIES: Final = 400
MIN_TYPED_QUERIES: Final = 50
"""Of fewer typed queries in a window, each of another user, nothing is learned or told."""
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
    "taken": 1.0,
    "category_taken": 0.3,
    "backbone": 0.0,
    RECOMMENDED: 0.0,
}
"""What groceries gave; for a company whose purchases cannot be asked for in words."""


_PERSONAL_CHOICES: Final = (
    ("words", "spelling", "details", "meaning", "taken", "category_taken", RECOMMENDED),
    PERSONAL_FEATURES,
)
"""What the second look may read, the fewest features first."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Queries, who asks, and what was meant.

    Args:
        users: int64[Q], positions among the histories at the prediction time; -1 for who has none.
        texts: Q texts.
        truths: Per query the items that were bought, or taken.
    """

    users: Longs
    texts: list[str]
    truths: list[Longs]

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, positions: Longs) -> Asked:
        """Those at the given positions."""
        chosen = positions.tolist()
        return Asked(
            self.users[positions], [self.texts[i] for i in chosen], [self.truths[i] for i in chosen]
        )

    def followed_by(self, others: Asked) -> Asked:
        """These queries and others."""
        return Asked(
            np.concatenate([self.users, others.users]),
            [*self.texts, *others.texts],
            [*self.truths, *others.truths],
        )


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

        One more for candidates that were looked at again. Where no query found what was bought,
        there is nothing to fit and the usual weights hold.
        """
        names = PERSONAL_FEATURES[: self._num_features]
        if not any(
            np.isin(truth, one.item_idx).any()
            for one, truth in zip(self.candidates, self.truths, strict=True)
        ):
            return np.asarray([USUAL_WEIGHTS[n] if n in features else 0.0 for n in names])
        offsets = np.cumsum([0, *(len(one.item_idx) for one in self.candidates)])
        pairs = zip(self.candidates, self.truths, strict=True)
        return fit_choice_weights(
            np.concatenate([one.features for one in self.candidates]),
            np.concatenate([np.isin(one.item_idx, truth) for one, truth in pairs]),
            offsets,
            columns=[names.index(name) for name in features],
        )

    def rows(self, chosen: npt.NDArray[np.bool_]) -> QueryCandidates:
        """Some queries."""
        kept = np.flatnonzero(chosen).tolist()
        return QueryCandidates(
            [self.candidates[row] for row in kept], [self.truths[row] for row in kept]
        )

    def lists(self, weights: Doubles, k: int) -> npt.NDArray[np.int64]:
        """int64[Q, k]: the best items per query, -1 where there are no more."""
        ranked = np.full((len(self.candidates), k), -1, dtype=np.int64)
        for row, one in enumerate(self.candidates):
            best = one.best(weights, k).item_idx
            ranked[row, : len(best)] = best
        return ranked

    @property
    def _num_features(self) -> int:
        return self.candidates[0].features.shape[1] if self.candidates else len(FEATURES)


@dataclass(frozen=True, eq=False)
class Examples:
    """What a search head is fitted on.

    Args:
        asked: Queries of the validation window.
        found: Their candidates.
    """

    asked: Asked
    found: QueryCandidates


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
        num_queries: Users whose purchases are asked for, each cleanly and misspelled; of typed
            queries twice as many.
        seed: Seed of the choice of queries.
    """
    head, examples = validation_examples(
        context, encoder, item_embeddings=item_embeddings, num_queries=num_queries, seed=seed
    )
    return finish(context, head, examples, seed=seed)


def finish(context: ModelContext, bare: SearchHead, examples: Examples, *, seed: int) -> SearchHead:
    """The head with all of its weights, at the test cut.

    Args:
        context: At the test cut.
        bare: Without weights, at the validation time.
        examples: What they are fitted on.
        seed: Of the ranking of items.
    """
    weights = examples.found.weights(usable_features(bare))
    head = replace(bare, weights=weights, matches=usual_matches(examples.found, weights))
    with suppress(TooLittleDataError):  # one look then, without what the ranking says
        both = rankings(context, seed=seed)
        personal = _personal_weights(context, head, examples, both.before)
        if personal is not None:
            head = replace(head, personal=PersonalSearch(both.final, personal))
    return at_cut(head, context, head.weights)


def usual_matches(found: QueryCandidates, weights: Doubles) -> Doubles:
    """float64[M]: ascending quantiles of how well queries of the validation window match."""
    matches = [match(one, weights) for one in found.candidates if len(one.item_idx)]
    return np.quantile(matches or [0.0], np.linspace(0.0, 1.0, NUM_QUANTILES))


def usable_features(head: SearchHead) -> Sequence[str]:
    """Features of the first look; the last one needs the backbone."""
    return FEATURES if head.item_embeddings is not None else FEATURES[:-1]


def _personal_weights(
    context: ModelContext, head: SearchHead, examples: Examples, ranker: RecommendationHead
) -> Doubles | None:
    """Weights of the second look; None where it does not help.

    Which features it reads, and whether it helps, is judged on the half of the users that the
    weights were not fitted on, the weights of the first look among them. The simplest that is
    within one standard error of the best is chosen (Breiman et al., 1984): one look alone, else two
    with few features.
    """
    known = examples.asked.users >= 0
    users, found = examples.asked.users[known], examples.found.rows(known)
    distinct, first, inverse = np.unique(users, return_index=True, return_inverse=True)
    if len(distinct) < 2:
        return None
    refined = refine(context, head, context.validation_time, users, found, ranker)
    half = np.argsort(np.argsort(first))[inverse] % 2 == 0

    def judged(looked_at: QueryCandidates, features: Sequence[str]) -> Doubles:
        values = np.full(len(half), np.nan)
        for taught in (half, ~half):
            weights = looked_at.rows(taught).weights(features)
            others = looked_at.rows(~taught)
            values[~taught] = ndcg_at_k(others.lists(weights, K), others.truths, K)
        return values

    without = judged(found, usable_features(head))
    judgements = [judged(refined, features) for features in _PERSONAL_CHOICES]
    best = max((without, *judgements), key=np.nanmean)
    if _is_within_an_error(best, without):
        return None
    pairs = zip(_PERSONAL_CHOICES, judgements, strict=True)
    return next(refined.weights(one) for one, values in pairs if _is_within_an_error(best, values))


def _is_within_an_error(best: Doubles, other: Doubles) -> bool:
    """Whether the mean of paired differences is at most their standard error."""
    differences = (best - other)[~np.isnan(best)]
    return bool(differences.mean() <= differences.std() / np.sqrt(len(differences)))


def refine(
    context: ModelContext,
    head: SearchHead,
    prediction_time_us: int,
    users: Longs,
    found: QueryCandidates,
    ranker: RecommendationHead,
) -> QueryCandidates:
    """The best candidates of each query, looked at again for its user.

    Args:
        context: Knows histories and states at the prediction time.
        head: Whose weights say which are the best.
        prediction_time_us: UTC microseconds.
        users: int64[Q], positions of the users.
        found: Candidates of the Q queries.
        ranker: Ranks items, as of that time.
    """
    histories, states = context.histories(prediction_time_us), context.states(prediction_time_us)
    second = PersonalSearch(ranker, np.zeros(len(PERSONAL_FEATURES)))
    candidates = []
    for user, one in zip(users.tolist(), found.candidates, strict=True):
        best = one.best(head.weights, NUM_REFINED)
        candidates.append(second.refine(best, histories, user, prediction_time_us, states))
    return QueryCandidates(candidates, found.truths)


def validation_examples(
    context: ModelContext,
    encoder: TextEncoder,
    *,
    item_embeddings: Floats | None,
    num_queries: int,
    seed: int,
) -> tuple[SearchHead, Examples]:
    """A head without weights at the validation time, and what its weights are fitted on."""
    moment = context.validation_time
    catalogue = lake.read_catalogue(context.workspace)
    head = SearchHead(
        vocabulary=context.vocabulary,
        index=LexicalIndex(item_texts(catalogue, context.vocabulary)),
        content=context.content,
        encoder=encoder,
        popularity=popularity(context.vocabulary, context.histories(moment), moment),
        queries=QueryMemory.fit(context.typed_queries(moment)),
        weights=np.zeros(len(FEATURES)),
        matches=np.zeros(NUM_QUANTILES),
        item_embeddings=item_embeddings,
    )
    typed = context.typed_queries(context.as_of_us).between(moment, context.as_of_us)
    asked = typed_at(context, moment, typed, num_queries=2 * num_queries, seed=seed)
    if len(asked) < MIN_TYPED_QUERIES:
        words = queries_at(context, context.futures(moment), num_queries=num_queries, seed=seed)
        asked = as_typed(words).followed_by(misspelled(words))
    return head, Examples(asked, collect(context, head, moment, asked))


def at_cut(head: SearchHead, context: ModelContext, weights: Doubles) -> SearchHead:
    """The head with weights, and with the popularity and the typed queries of the test cut."""
    moment = context.as_of_us
    recent = popularity(context.vocabulary, context.histories(moment), moment)
    queries = QueryMemory.fit(context.typed_queries(moment))
    return replace(head, weights=weights, popularity=recent, queries=queries)


def queries_at(
    context: ModelContext, futures: Futures, *, num_queries: int, seed: int
) -> CatalogueQueries:
    """Catalogue-word queries for purchases of a window."""
    types = item_types(lake.read_catalogue(context.workspace), context.vocabulary)
    return catalogue_queries(types, futures, num_queries=num_queries, seed=seed)


def as_typed(queries: CatalogueQueries) -> Asked:
    """Words of the catalogue, spelled well."""
    return Asked(queries.users, queries.clean, queries.truths)


def misspelled(queries: CatalogueQueries) -> Asked:
    """The same with a slip each."""
    return Asked(queries.users, queries.misspelled, queries.truths)


def typed_at(
    context: ModelContext,
    prediction_time_us: int,
    typed: TypedQueries,
    *,
    num_queries: int,
    seed: int,
) -> Asked:
    """One typed query of each of a random choice of users, with a history at a prediction time or
    without.

    Args:
        context: Knows histories at the prediction time.
        prediction_time_us: UTC microseconds.
        typed: After that time.
        num_queries: The most queries.
        seed: Seed of the choice.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(typed))
    _, first = np.unique([typed.user_ids[i] for i in order], return_index=True)
    chosen = typed.rows(order[np.sort(first)[:num_queries]])
    known = context.histories(prediction_time_us).user_ids
    position = {user: i for i, user in enumerate(known)}
    users = np.asarray([position.get(user, -1) for user in chosen.user_ids], dtype=np.int64)
    return Asked(users, chosen.texts, chosen.taken)


def collect(
    context: ModelContext, head: SearchHead, prediction_time_us: int, asked: Asked
) -> QueryCandidates:
    """Candidates of every query, personal to its user, by what was known at a prediction time."""
    histories = context.histories(prediction_time_us)
    item_queries = (
        None if head.item_embeddings is None else context.states(prediction_time_us).item_query
    )
    meanings = head.encode(asked.texts)
    candidates = []
    for row, (user, text) in enumerate(zip(asked.users.tolist(), asked.texts, strict=True)):
        own = toward = None
        if user >= 0:
            own = own_counts(context.vocabulary, histories, user, prediction_time_us)
            toward = None if item_queries is None else item_queries[user]
        candidates.append(head.candidates(text, meanings[row], own, toward))
    return QueryCandidates(candidates=candidates, truths=asked.truths)
