"""Every head's evaluation: the schema's promises, on a shop small enough to fit in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from behavior_model.context import ModelContext
from behavior_model.embedding import item_embeddings
from behavior_model.evaluation import likeness, propensity, search, tagging, user_tasks
from behavior_model.evaluation.comparison import Comparison
from behavior_model.evaluation.measurement import Measurement
from behavior_model.evaluation.report import verdict
from behavior_model.evaluation.results import Result
from behavior_model.heads.recommendation import RecommendationHead
from behavior_model.heads.recommendation_fitting import rankings
from behavior_model.heads.search import SearchHead
from behavior_model.heads.search_candidates import (
    PERSONAL_FEATURES,
    RECOMMENDED,
    PersonalSearch,
)
from behavior_model.memory.purchases import Level
from behavior_model.model.backbone import new_backbone, save_backbone
from behavior_model.text_encoder import HashedBackend, TextEncoder
from pipelines.workspace import Workspace
from tests.rhythm_bundle import AS_OF_US, NUM_USERS, write_labels
from tests.rhythm_shop import NUM_ITEMS, WINDOW_US, shop_recipe, shop_workspace

Judge = Callable[[ModelContext, Path], list[Result]]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ModelContext:
    workspace = shop_workspace(Workspace(tmp_path_factory.mktemp("shop") / "workspace"))
    write_labels(workspace, NUM_USERS)
    context = ModelContext.open(workspace, as_of_us=AS_OF_US)
    torch.manual_seed(0)
    backbone = new_backbone(context.vocabulary, context.content, shop_recipe().model, WINDOW_US)
    save_backbone(workspace.checkpoints / "backbone", backbone)
    return context


def judge_search(context: ModelContext, folder: Path) -> list[Result]:
    head, results = search.evaluate(
        context,
        TextEncoder(None, HashedBackend(32)),
        item_embeddings=item_embeddings(context.backbone, context.content),
    )
    head.save(folder)
    return results


JUDGES: dict[str, Judge] = {
    **{
        name: lambda context, folder, name=name: user_tasks.of(name)(context, folder, seed=0)  # type: ignore[misc]
        for name in ("churn", "spend_drop", "next_spend")
    },
    "category_propensity": lambda context, folder: propensity.fit_and_judge(
        context, folder, seed=0
    ),
    "search": judge_search,
    "tagging": lambda context, folder: tagging.fit_and_judge(context, folder, seed=0),
}


def test_likeness_is_judged_by_what_is_bought_ahead(
    context: ModelContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = RecommendationHead.fit(context, Level.ITEM)
    assert likeness.judge(context, head, seed=0) == [], "24 users are too few"
    monkeypatch.setattr(likeness, "MIN_BUYERS", 3)
    (result,) = likeness.judge(context, head, seed=0)
    assert (result.task, result.metric) == ("similar_items", "log_lift@10")
    assert {*result.baselines} == {
        "likeness of texts",
        "bought together (item-kNN)",
        "popularity",
    }
    assert result.interval[0] <= result.model <= result.interval[1]
    assert result.model > result.baselines["likeness of texts"], "favourites are bought together"


def test_search_looks_again_at_what_the_user_is_likely_to_buy(
    context: ModelContext, tmp_path: Path
) -> None:
    both = rankings(context, seed=0)
    assert rankings(context, seed=0) is both, "fitted once"
    judge_search(context, tmp_path / "fitted")
    encoder = TextEncoder(None, HashedBackend(32))
    plain = SearchHead.load(tmp_path / "fitted", context.vocabulary, context.content, encoder)
    assert plain.personal is None, "without a ranking there is no second look"
    by_ranking = np.eye(len(PERSONAL_FEATURES))[PERSONAL_FEATURES.index(RECOMMENDED)]
    head = replace(plain, personal=PersonalSearch(both.final, by_ranking))
    head.save(tmp_path / "saved")
    loaded = SearchHead.load(
        tmp_path / "saved", context.vocabulary, context.content, encoder, None, both.final
    )
    histories, states = context.histories(AS_OF_US), context.states(AS_OF_US)
    ranking = both.final.rank(histories, states, AS_OF_US, NUM_ITEMS)
    queries = ["bread"] * len(histories)
    found, scores, _ = loaded.predict(
        queries, 3, histories=histories, prediction_times_us=AS_OF_US, states=states
    )
    num_compared = 0
    for user in range(len(histories)):
        targets, expected = ranking.of(user)
        known = dict(zip(targets.tolist(), expected.tolist(), strict=True))
        assert scores[user].tolist() == sorted(scores[user].tolist(), reverse=True)
        for item, score in zip(found[user].tolist(), scores[user].tolist(), strict=True):
            if item in known:  # those that nobody ever bought are found and not ranked
                assert score == pytest.approx(known[item], abs=1e-4)
                num_compared += 1
    assert num_compared > 2 * len(histories)
    nobody, *_ = loaded.predict(["bread"], 3)
    assert nobody.tolist() == plain.predict(["bread"], 3)[0].tolist()


@pytest.mark.parametrize(
    ("metric", "gain_interval", "expected"),
    [
        ("auc", (0.01, 0.03), "win"),
        ("auc", (-0.03, -0.01), "loss"),
        ("auc", (-0.01, 0.03), "tie"),
        ("ece", (-0.03, -0.01), "win"),
        ("ece", (0.01, 0.03), "loss"),
        ("ece", None, "tie"),
        ("auc", (np.nan, np.nan), "tie"),
    ],
)
def test_a_gain_that_chance_could_have_made_is_neither_won_nor_lost(
    context: ModelContext,
    metric: str,
    gain_interval: tuple[float, float] | None,
    expected: str,
) -> None:
    measured = Measurement(context=context, task="churn", seed=0, seconds=1.0)
    compared = Comparison(
        model=0.8,
        interval=(0.7, 0.9),
        baselines={"recency": 0.79},
        gain_interval=gain_interval,
    )
    assert verdict(measured.result(metric, "test", compared, num_users=9)) == expected


@pytest.mark.parametrize("task", JUDGES)
def test_every_figure_stands_beside_its_baselines(
    context: ModelContext, tmp_path: Path, task: str
) -> None:
    results = JUDGES[task](context, tmp_path)
    assert len(results) >= 2
    assert any(tmp_path.iterdir())
    for result in results:
        assert result.task == task
        assert result.split.startswith("test")
        assert len(result.baselines) >= 3
        assert np.isfinite(result.model)
        assert result.num_users > 0
        assert result.num_events == context.histories(AS_OF_US).num_events
        assert result.interval[0] <= result.interval[1]
        gain = result.model - result.best_baseline[1]
        assert result.gain_interval is not None
        if not result.is_error:  # of so few users that of an error lies where its bias puts it
            assert result.gain_interval[0] <= gain <= result.gain_interval[1]
