"""What each objective of a company's pretraining is worth: the recipe without it.

Run: `python tests/perf/bench_objectives.py --workspace DIR --out DIR`, where the workspace is the
demo's; on two free cores it takes about 40 minutes. Its figures stand in docs/ablations.md.

Every twelfth household is learned from, with the recipe's eight passes before the training cut, two
trainings side by side on a thread each. All households are judged at the test cut: what the
backbone says by itself, and what a linear model on the frozen embedding says, out of five folds. A
training that is done is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).parents[2]))

from behavior_model.audit.profiles import PENALTIES, usable
from behavior_model.items import ItemContent
from behavior_model.metrics import macro_auc, mean_with_interval
from behavior_model.model.backbone import load_backbone
from behavior_model.recipes import Recipe, recipe_for
from behavior_model.training.worker import PretrainingJob, Rank, run_worker
from pipelines import lake
from pipelines.clock import to_micros
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace
from tests.perf.backbone_alone import Answers, answers

CUT = datetime(2017, 10, 1, tzinfo=UTC)
WINDOW_US = 28 * DAY_US
EVERY = 12
NUM_SEEDS = 3
PROFILE_FIELDS = ("income", "household_size", "kids_count", "age", "home_ownership")
FULL = "full recipe"


def without(*objectives: str) -> Callable[[Recipe], Recipe]:
    """The recipe with objectives that weigh nothing."""

    def change(recipe: Recipe) -> Recipe:
        weights = replace(recipe.training.loss_weights, **dict.fromkeys(objectives, 0.0))
        return replace(recipe, training=replace(recipe.training, loss_weights=weights))

    return change


VARIANTS: Mapping[str, Callable[[Recipe], Recipe]] = {
    FULL: lambda recipe: recipe,
    "no contrast of slices": without("contrastive"),
    "no next event": without("next_item", "next_fields"),
    "no time to the next event": without("time_to_event"),
    "window alone": without("contrastive", "next_item", "next_fields", "time_to_event"),
}


@dataclass(frozen=True)
class Run:
    """One training."""

    source: Path
    out: Path
    variant: str
    seed: int

    @property
    def folder(self) -> Path:
        return self.out / f"{self.variant.replace(' ', '-')}-{self.seed}"


def run(one: Run) -> Path:
    """Train, judge and write the figures of one training."""
    path = one.folder / "figures.npz"
    if path.is_file():
        return path
    torch.set_num_threads(1)
    source = Workspace(one.source)
    vocabulary = Vocabulary.load(source.vocabulary_path)
    workspace = Workspace(one.folder)
    items = source.checkpoints / "items"
    shutil.copytree(items, workspace.checkpoints / "items", dirs_exist_ok=True)
    content = ItemContent.load(items, vocabulary)
    training_cut_us = to_micros(CUT) - WINDOW_US
    learned = lake.read_histories(source, vocabulary, training_cut_us)
    users = learned.select(np.arange(0, len(learned), EVERY))
    recipe = VARIANTS[one.variant](recipe_for("tiny", num_events=users.num_events))
    job = PretrainingJob(
        root=str(workspace.root),
        vocabulary_id=vocabulary.vocabulary_id,
        recipe=replace(recipe, training=replace(recipe.training, num_threads=1)),
        cut_us=training_cut_us,
        window_us=WINDOW_US,
        seed=one.seed,
    )
    run_worker(job, vocabulary, {0: users}, Rank())
    backbone = load_backbone(workspace.checkpoints / "backbone", vocabulary)
    found = answers(source, vocabulary, content, backbone, CUT)
    figures = {**found.means(), **linear_figures(source, found)}
    told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    print(f"{one.variant}, seed {one.seed}, {users.num_events:,} events: {told}", flush=True)
    partial = path.with_name("partial.npz")
    np.savez(
        partial,
        products=found.products,
        categories=found.categories,
        figures=json.dumps(figures),
        num_users=len(users),
        num_events=users.num_events,
    )
    partial.rename(path)
    return path


def linear_figures(workspace: Workspace, found: Answers) -> dict[str, float]:
    """Macro AUC of ridge classifiers on the frozen embedding, out of five folds over users."""
    profiles = {row["user_id"]: row for row in lake.read(workspace, "profiles").to_pylist()}
    known = [profiles.get(user, {}) for user in found.states.user_ids]
    fields = [usable([row.get(name) for row in known])[0] for name in PROFILE_FIELDS]
    of_profiles = [_linear_auc(found, codes) for codes in fields]
    return {
        "churn AUC, linear": _linear_auc(found, found.churned.astype(np.int64)),
        "profiles AUC, linear": float(np.mean(of_profiles)),
    }


def _linear_auc(found: Answers, codes: np.ndarray) -> float:
    """Of users with a code of 0 or more."""
    chosen = codes >= 0
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=PENALTIES))
    inputs, labels = found.states.embedding[chosen], codes[chosen]
    scores = cross_val_predict(model, inputs, labels, cv=folds, method="decision_function")
    if scores.ndim == 1:
        scores = np.stack([-scores, scores], axis=1)
    return macro_auc(labels[:, None] == np.arange(scores.shape[1]), scores)


def table(paths: Mapping[str, list[Path]]) -> list[str]:
    """One line per variant: means over seeds, and the difference to the full recipe."""
    loaded = {name: [np.load(path) for path in seeds] for name, seeds in paths.items()}
    figures = {
        name: [json.loads(str(one["figures"])) for one in seeds] for name, seeds in loaded.items()
    }
    columns = list(figures[FULL][0])
    lines = ["| variant | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, seeds in figures.items():
        cells = []
        for column in columns:
            values = np.asarray([one[column] for one in seeds])
            gains = values - np.asarray([one[column] for one in figures[FULL]])
            cell = f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"
            if name != FULL:
                cell += f" ({gains.mean():+.4f}{_interval(loaded, name, column)})"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _interval(loaded: Mapping[str, list], name: str, column: str) -> str:
    """95 per cent bootstrap interval over users of a difference in NDCG, seeds averaged."""
    kind = column.split(" ")[0]
    if kind not in ("products", "categories"):
        return ""
    pairs = zip(loaded[name], loaded[FULL], strict=True)
    _, (low, high) = mean_with_interval(np.mean([a[kind] - b[kind] for a, b in pairs], axis=0))
    return f" [{low:+.4f}, {high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    runs = [
        Run(options.workspace, options.out, name, seed)
        for seed in range(NUM_SEEDS)
        for name in VARIANTS
    ]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = dict(zip(runs, pool.map(run, runs), strict=True))
    paths = {name: [done[one] for one in runs if one.variant == name] for name in VARIANTS}
    print("\n".join(table(paths)))


if __name__ == "__main__":
    main()
