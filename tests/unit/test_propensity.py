"""Chances to buy from categories, on a shop where every user keeps to a few favourites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from behavior_model.baselines.propensity import PROPENSITY_BASELINES
from behavior_model.context import ModelContext
from behavior_model.embedding import embed_users
from behavior_model.evaluation.propensity import fit_and_judge
from behavior_model.heads import propensity_fitting
from behavior_model.heads.propensity import LEVEL, Propensities, PropensityHead
from behavior_model.heads.propensity_fitting import MAX_TARGETS, can_be_learned, largest_targets
from behavior_model.metrics import macro_auc
from behavior_model.user_draw import drawn_users
from pipelines.errors import BundleError
from pipelines.workspace import Workspace
from tests.ranking_shop import AS_OF_US, ranking_context
from tests.rhythm_shop import CATEGORIES


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ModelContext:
    return ranking_context(Workspace(tmp_path_factory.mktemp("propensity")))


@pytest.fixture(scope="module")
def head(context: ModelContext) -> PropensityHead:
    return PropensityHead.fit(context)


def answer(head: PropensityHead, context: ModelContext, users: list[int]) -> Propensities:
    histories = context.histories(AS_OF_US).select(users)
    times = np.full(len(users), AS_OF_US)
    states = embed_users(context.backbone, context.content, histories, times)
    return head.predict(histories, states, AS_OF_US)


def test_who_buys_from_a_category_is_told_from_who_does_not(
    head: PropensityHead, context: ModelContext
) -> None:
    everybody = list(range(len(context.histories(AS_OF_US))))
    found = answer(head, context, everybody)
    labels = LEVEL.bought(context.test_futures, head.targets)
    assert found.scores.shape == labels.shape == (len(everybody), len(CATEGORIES))
    assert macro_auc(labels, found.scores) > 0.75
    assert abs(found.scores.mean() - labels.mean()) < 0.1
    assert (found.lowers <= found.scores).all()
    assert (found.scores <= found.uppers).all()
    assert ((found.scores > 0) & (found.scores < 1)).all()


def test_an_answer_does_not_depend_on_who_else_is_asked_about(
    head: PropensityHead, context: ModelContext
) -> None:
    together, alone = answer(head, context, [0, 1, 2]), answer(head, context, [1])
    np.testing.assert_array_equal(together.scores[1], alone.scores[0])


def test_what_was_saved_answers_the_same(
    head: PropensityHead, context: ModelContext, tmp_path: Path
) -> None:
    head.save(tmp_path)
    loaded = PropensityHead.load(tmp_path, context.vocabulary)
    for one, other in zip(
        vars(answer(head, context, [0, 1])).values(),
        vars(answer(loaded, context, [0, 1])).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "propensity.safetensors").unlink()
    with pytest.raises(BundleError, match=r"propensity\.safetensors.*bfm heads"):
        PropensityHead.load(tmp_path, context.vocabulary)


def test_a_window_in_which_nobody_bought_teaches_nothing(context: ModelContext) -> None:
    assert can_be_learned(context)
    futures = context.futures(context.validation_time)
    nothing = replace(futures, categories=[one[:0] for one in futures.categories])
    context._cache[("futures", context.validation_time)] = nothing
    try:
        assert not can_be_learned(context)
    finally:
        context._cache[("futures", context.validation_time)] = futures


def test_of_many_users_some_are_learned_from(
    context: ModelContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, time = largest_targets(context), context.validation_time
    whole = propensity_fitting._window(context, time, targets, 0)
    monkeypatch.setattr(propensity_fitting, "MAX_LEARNED_USERS", 20)
    some = propensity_fitting._window(context, time, targets, 0)
    users = drawn_users(np.arange(len(context.histories(time))), 20, seed=0)
    rows = np.isin(whole.table.users, users)
    np.testing.assert_array_equal(some.table.values, whole.table.values[rows])
    np.testing.assert_array_equal(some.bought, whole.bought[rows])


def test_the_largest_categories_are_asked_about_and_no_others(context: ModelContext) -> None:
    targets = largest_targets(context)
    assert (np.diff(targets) > 0).all()
    assert len(targets) == min(MAX_TARGETS, len(CATEGORIES))


def test_every_baseline_tells_users_apart_or_says_that_it_cannot(context: ModelContext) -> None:
    targets = largest_targets(context)
    labels = LEVEL.bought(context.test_futures, targets)
    found = {
        name: macro_auc(labels, score(context, targets))
        for name, score in PROPENSITY_BASELINES.items()
    }
    assert found.pop("popularity") == 0.5
    assert all(figure > 0.6 for figure in found.values()), found


def test_figures_stand_beside_their_baselines(context: ModelContext, tmp_path: Path) -> None:
    area, error = fit_and_judge(context, tmp_path, seed=0)
    assert (area.metric, error.metric) == ("macro_auc", "ece")
    assert set(area.baselines) == set(PROPENSITY_BASELINES)
    assert area.interval[0] <= area.model <= area.interval[1]
    assert area.num_users == len(context.histories(AS_OF_US))
    assert area.num_items == len(CATEGORIES)


def test_macro_auc_is_the_mean_over_columns_with_both_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((200, 4)) < 0.3
    labels[:, 3] = True
    scores = np.round(rng.random((200, 4)) + 0.3 * labels, 1)  # with ties
    by_column = [roc_auc_score(labels[:, i], scores[:, i]) for i in range(3)]
    assert macro_auc(labels, scores) == pytest.approx(np.mean(by_column))
    assert np.isnan(macro_auc(labels[:, 3:], scores[:, 3:]))


def test_labels_say_what_was_bought(context: ModelContext) -> None:
    time = context.validation_time
    futures = context.futures(time)
    labels = LEVEL.bought(futures, largest_targets(context))
    assert labels.sum() == sum(len(one) for one in futures.categories)
