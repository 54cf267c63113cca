"""The first losses of a fixed small run stay what they were, on any machine, but for rounding."""

import json
from pathlib import Path

import pytest

from behavior_model.items import ItemContent
from behavior_model.training.loader import ShardLoader
from behavior_model.training.loop import TrainingRun
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    shop_content,
    shop_histories,
    shop_model,
    shop_recipe,
    shop_vocabulary,
)

GOLDEN = Path(__file__).parent / "losses.json"
STEPS = 12
SEED = 7


def first_losses() -> list[dict[str, float]]:
    """Losses of the first steps at one thread."""
    import torch

    torch.set_num_threads(1)
    vocabulary = shop_vocabulary()
    content: ItemContent = shop_content(vocabulary)
    recipe = shop_recipe(epochs=4)
    torch.manual_seed(SEED)
    model = shop_model(recipe, content)
    loader = ShardLoader(
        vocabulary=vocabulary,
        histories=shop_histories(24),
        recipe=recipe,
        cut_us=CUT_US,
        window_us=WINDOW_US,
        seed=SEED,
    )
    run = TrainingRun(model=model, config=recipe.training, loaders=[loader], seed=SEED)
    return [report.losses for report, _ in zip(run.steps(), range(STEPS), strict=False)]


def test_losses_are_the_golden_ones() -> None:
    expected = json.loads(GOLDEN.read_text())
    for step, (losses, golden) in enumerate(zip(first_losses(), expected, strict=True)):
        assert losses == pytest.approx(golden, rel=2e-3), f"step {step}"


if __name__ == "__main__":
    rows = [{k: round(v, 5) for k, v in losses.items()} for losses in first_losses()]
    GOLDEN.write_text(json.dumps(rows, indent=1) + "\n")
