"""How often search says that a query is unlike all that it knows, by kind of query.

Run: `python tests/perf/unlike_queries.py --workspace DIR --as-of 2017-10-01T00:00:00+00:00`, where
the workspace is the demo's. Words of the catalogue should hardly ever be named unlike, letters at
random always. Wishes of other trades lie between: "leather sofa" shares a word with leather polish.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
from datetime import datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from behavior_model.context import ModelContext
from behavior_model.heads.familiarity import UNFAMILIAR_BELOW
from behavior_model.heads.search import SearchHead
from behavior_model.heads.search_fitting import queries_at
from behavior_model.text_encoder import TextEncoder
from pipelines.clock import to_micros
from pipelines.workspace import Workspace

NUM_QUERIES = 400
OTHER_TRADES = (
    *("bitcoin", "car insurance", "ceiling fan", "cordless drill", "deck screws"),
    *("dentist appointment", "divorce lawyer", "flight to madrid", "football results"),
    *("guitar strings", "iphone 15", "laptop charger", "leather sofa", "led recessed light"),
    *("mortgage rates", "passport renewal", "quantum physics", "rent apartment"),
    *("tax return form", "toilet flange", "train tickets", "used cars", "vinyl plank flooring"),
    *("wedding dress", "yoga class"),
)


def letters(generator: random.Random, num_words: int) -> str:
    """Words of letters at random."""
    lengths = [generator.randint(3, 9) for _ in range(num_words)]
    return " ".join("".join(generator.choices(string.ascii_lowercase, k=n)) for n in lengths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--as-of", type=datetime.fromisoformat, required=True)
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    context = ModelContext.open(workspace, as_of_us=to_micros(options.as_of))
    encoder = TextEncoder(workspace.text_cache)
    folder = workspace.heads / "search"
    head = SearchHead.load(folder, context.vocabulary, context.content, encoder)
    asked = queries_at(context, context.test_futures, num_queries=NUM_QUERIES, seed=1)
    generator = random.Random(0)
    kinds = {
        "words of the catalogue": asked.clean,
        "the same, misspelled": asked.misspelled,
        "one word at random": [letters(generator, 1) for _ in range(NUM_QUERIES)],
        "two words at random": [letters(generator, 2) for _ in range(NUM_QUERIES)],
        "wishes of other trades": list(OTHER_TRADES),
    }
    print("| queries | number | named unlike all | median familiarity |\n|---|---|---|---|")
    for name, queries in kinds.items():
        *_, found = head.predict(queries, 1)
        share = (found < UNFAMILIAR_BELOW).mean()
        print(f"| {name} | {len(queries)} | {share:.1%} | {np.median(found):.3f} |")


if __name__ == "__main__":
    main()
