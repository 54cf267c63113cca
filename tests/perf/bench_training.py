"""Events per processor second of pretraining, against the baseline kept beside this file.

Run: `python tests/perf/bench_training.py [--update]`. Made-up histories, the tiny recipe's shape;
processor time, so that a busy machine disturbs the figure little.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from behavior_model.recipes import recipe_for
from behavior_model.training.loader import ShardLoader
from behavior_model.training.loop import TrainingRun
from tests.perf.training_speed import events_per_processor_second
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    shop_content,
    shop_histories,
    shop_model,
    shop_vocabulary,
)

BASELINE = Path(__file__).parent / "training_baseline.json"
TOLERANCE = 0.7
WARM_STEPS = 5
STEPS = 30


def events_per_second() -> float:
    """Speed of one thread over some steps after a few to warm up."""
    torch.set_num_threads(1)
    vocabulary = shop_vocabulary()
    content = shop_content(vocabulary)
    recipe = recipe_for("tiny", num_events=100_000)
    recipe = replace(recipe, model=replace(recipe.model, word_width=16))
    model = shop_model(recipe, content)
    loader = ShardLoader(
        vocabulary=vocabulary,
        histories=shop_histories(200),
        recipe=recipe,
        cut_us=CUT_US,
        window_us=WINDOW_US,
        seed=0,
    )
    run = TrainingRun(model=model, config=recipe.training, loaders=[loader], seed=0)
    return events_per_processor_second(run, warm_steps=WARM_STEPS, steps=STEPS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="make this run the baseline")
    arguments = parser.parse_args()
    speed = events_per_second()
    print(f"{speed:,.0f} events per processor second")
    if arguments.update:
        BASELINE.write_text(json.dumps({"events_per_processor_second": round(speed)}) + "\n")
        return 0
    baseline = json.loads(BASELINE.read_text())["events_per_processor_second"]
    slower = speed < TOLERANCE * baseline
    print(f"baseline {baseline:,}: {'SLOWER' if slower else 'fine'}")
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
