import dataclasses
from itertools import pairwise

import pytest

from behavior_model.recipes import MAX_EPOCHS, RECIPES, recipe_for
from pipelines.errors import UnknownNameError


@pytest.mark.parametrize("size", sorted(RECIPES))
def test_every_recipe_says_command_time_and_score(size: str) -> None:
    text = RECIPES[size].__doc__ or ""
    for word in ("Command:", "Expected time:", "Expected score:"):
        assert word in text


def test_sizes_grow_in_every_direction() -> None:
    models = [recipe_for(s, num_events=10**6).model for s in ("tiny", "small", "base", "large")]
    for smaller, larger in pairwise(models):
        assert smaller.width < larger.width
        assert smaller.num_layers <= larger.num_layers
        assert smaller.context < larger.context


@pytest.mark.parametrize("size", sorted(RECIPES))
def test_heads_divide_the_width_into_rotary_eighths(size: str) -> None:
    model = recipe_for(size, num_events=10**6).model
    assert model.width % model.num_heads == 0
    assert (model.width // model.num_heads) % 8 == 0


def test_epochs_follow_the_number_of_events() -> None:
    many = recipe_for("tiny", num_events=10**9).training.epochs
    few = recipe_for("tiny", num_events=10).training.epochs
    assert many == 1
    assert few == MAX_EPOCHS


def test_unknown_size_names_the_known_ones_and_guesses() -> None:
    with pytest.raises(UnknownNameError, match=r"base, large, small, tiny.*'small'"):
        recipe_for("smal", num_events=1)


def test_recipes_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe_for("tiny", num_events=1).size = "huge"  # type: ignore[misc]
