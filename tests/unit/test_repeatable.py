"""Two runs with one seed and one number of threads give the same bits, with several threads too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from behavior_model.recipes import recipe_for
from behavior_model.training.loader import ShardLoader
from behavior_model.training.loop import TrainingRun
from behavior_model.training.repeatable import repeatable
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    shop_content,
    shop_histories,
    shop_model,
    shop_vocabulary,
)

STEPS = 4


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def trained(seen: list[bool]) -> list[torch.Tensor]:
    """Weights after a few steps of the demo's shape, where torch divides sums between threads."""
    recipe = recipe_for("tiny", num_events=100_000)
    recipe = replace(recipe, model=replace(recipe.model, word_width=16))
    torch.manual_seed(0)
    model = shop_model(recipe, shop_content(shop_vocabulary()))
    model.register_forward_hook(
        lambda *parts: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    loader = ShardLoader(
        vocabulary=shop_vocabulary(),
        histories=shop_histories(200),
        recipe=recipe,
        cut_us=CUT_US,
        window_us=WINDOW_US,
        seed=0,
    )
    run = TrainingRun(model=model, config=recipe.training, loaders=[loader], seed=0)
    for _, _ in zip(run.steps(), range(STEPS), strict=False):
        pass
    return [weights.detach().clone() for weights in model.parameters()]


def test_the_same_seed_gives_the_same_weights() -> None:
    seen: list[bool] = []
    first, second = trained(seen), trained(seen)
    assert seen
    assert all(seen)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_gather_has_one_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(48, 129, generator=generator)
    rows = torch.randint(48, (6_000,), generator=generator)
    weights = torch.randn(6_000, 129, generator=generator)

    def gradient() -> torch.Tensor:
        leaf = values.clone().requires_grad_()
        (leaf[rows] * weights).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    with repeatable():
        expected = gradient()
        assert all(torch.equal(gradient(), expected) for _ in range(20))


def test_what_was_set_before_is_set_again() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with repeatable():
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before
