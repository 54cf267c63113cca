"""What a new company gains by beginning with another one's model (`bfm run --core`).

Run: `python tests/perf/bench_core.py --out DIR`. About 40 minutes on two cores.

Complete Journey's households are dealt out to two shops, every other one to each. The second shop
names its categories otherwise, and its items are others as far as the model is told: it is another
company. The first shop's model, trained on the events before 2017-09-03, is asked in the second
one at 2017-10-01: as it is, and after training on some of the second shop's households, beside the
same training from the beginning. All its households are judged, nothing is fitted on top.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import yaml

from pipelines.clock import to_micros

sys.path.insert(0, str(Path(__file__).parents[2]))

from behavior_model.core import Core
from behavior_model.items import ItemContent, build_item_content
from behavior_model.model.backbone import Backbone, load_backbone, new_backbone
from behavior_model.recipes import Recipe, after_core, recipe_for
from behavior_model.text_encoder import TextEncoder
from behavior_model.training import worker
from behavior_model.training.worker import PretrainingJob, Rank, run_worker
from pipelines import lake
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace
from tests.complete_journey_cut import all_households, write_cut_of
from tests.perf.backbone_alone import answers

CUT = datetime(2017, 10, 1, tzinfo=UTC)
CUT_US = to_micros(CUT)
WINDOW_US = 28 * DAY_US
SHARES = (0.0, 0.01, 0.1, 1.0)


@dataclass(frozen=True, eq=False)
class Shop:
    """A tokenized company."""

    workspace: Workspace
    vocabulary: Vocabulary
    content: ItemContent

    @classmethod
    def make(cls, out: Path, name: str, ids: pa.Array) -> Shop:
        workspace = Workspace(out / name / "workspace")
        if not workspace.vocabulary_path.is_file():
            company = _described(out / name / "raw", name, ids)
            for room in ("ingest", "tokenize"):
                command = [sys.executable, "-m", "serving.cli.main", room, "--company", company]
                command += ["--workspace", workspace.root, "--as-of", CUT.isoformat()]
                subprocess.run(list(map(str, command)), check=True)
        vocabulary = Vocabulary.load(workspace.vocabulary_path)
        content = build_item_content(
            lake.read_catalogue(workspace), vocabulary, TextEncoder(workspace.text_cache)
        )
        content.save(workspace.checkpoints / "items")
        return cls(workspace, vocabulary, content)

    def histories(self, before_us: int) -> Histories:
        return lake.read_histories(self.workspace, self.vocabulary, before_us)


def _described(folder: Path, name: str, ids: pa.Array) -> Path:
    path = write_cut_of(folder, ids)
    company = yaml.safe_load(path.read_text(encoding="utf-8"))
    company["name"] = name
    for table in company["tables"]:
        if table["into"] == "catalogue" and name == "second-shop":
            both = ["product_category", "department"]
            table["columns"]["category"] = {"concat": both, "separator": " / "}
    path.write_text(yaml.safe_dump(company, sort_keys=False), encoding="utf-8")
    return path


def train(shop: Shop, users: Histories, core: Core | None, seed: int) -> tuple[Backbone, float]:
    """A backbone trained on some users' events before the training cut, and the seconds."""
    job = PretrainingJob(
        root=str(shop.workspace.root),
        vocabulary_id=shop.vocabulary.vocabulary_id,
        recipe=recipe(users.num_events) if core is None else after_core(recipe(users.num_events)),
        cut_us=CUT_US - WINDOW_US,
        window_us=WINDOW_US,
        seed=seed,
        core=None if core is None else (str(core.path), core.model_version),
    )
    started = time.monotonic()
    run_worker(job, shop.vocabulary, {0: users}, Rank())
    seconds = time.monotonic() - started
    return load_backbone(shop.workspace.checkpoints / "backbone", shop.vocabulary), seconds


def recipe(num_events: int) -> Recipe:
    return recipe_for("tiny", num_events=num_events)


def judge(shop: Shop, backbone: Backbone) -> dict[str, float]:
    return answers(shop.workspace, shop.vocabulary, shop.content, backbone, CUT).means()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ids = all_households()
    first = Shop.make(options.out, "first-shop", ids.take(pa.array(range(0, len(ids), 2))))
    second = Shop.make(options.out, "second-shop", ids.take(pa.array(range(1, len(ids), 2))))
    done = first.workspace.checkpoints / "backbone"
    if done.is_dir():  # of an earlier run
        trained = load_backbone(done, first.vocabulary)
    else:
        trained, seconds = train(first, first.histories(CUT_US - WINDOW_US), None, options.seed)
        print(f"first shop: {len(ids) // 2:,} households, trained in {seconds:.0f} s")
    core = Core(
        path=options.out,
        backbone=trained,
        content=first.content,
        model_version="first shop",
        training_cut_us=CUT_US - WINDOW_US,
    )
    worker.Core.open = lambda path: core  # there is no bundle, for no head was fitted
    print(core.shared_with(second.vocabulary, second.content))
    learned = second.histories(CUT_US - WINDOW_US)
    order = np.random.default_rng(options.seed).permutation(len(learned))
    for share in SHARES:
        chosen = np.sort(order[: round(share * len(learned))])
        users = learned.select(chosen)
        for name, begun in (("from the beginning", None), ("with the core", core)):
            if share > 0:
                backbone, seconds = train(second, users, begun, options.seed)
            else:
                torch.manual_seed(options.seed)
                shape = recipe(learned.num_events).model
                backbone = new_backbone(second.vocabulary, second.content, shape, WINDOW_US)
                if begun is not None:
                    begun.shared_with(second.vocabulary, second.content).give_to(backbone)
                backbone, seconds = backbone.eval().requires_grad_(False), 0.0
            told = ", ".join(f"{k} {v:.4f}" for k, v in judge(second, backbone).items())
            print(
                f"{share:5.0%} ({len(users):,} households, {users.num_events:,} events) {name}: "
                f"{told}, {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
