"""What a model of some weeks ago answers, with the memories of its time and with renewed ones.

Run: `python tests/perf/bench_renewal.py --workspace DIR --as-of 2017-11-26T00:00:00Z`
on a finished workspace whose cut lies before that time and whose events reach 28 days beyond it.
`--retrained DIR`: a workspace whose cut is that time, as the reference.

Each reads every user's whole history before the time; what differs is what it learned and counted
from others. Judged by what users buy in the 28 days from then on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from behavior_model.bundle import open_bundle
from behavior_model.memory.purchases import Level, Longs, read_purchases
from behavior_model.metrics import auc, macro_auc, ndcg_at_k, recall_at_k
from behavior_model.predictor import CATEGORY_PROPENSITY, Predictor
from behavior_model.renewal import renew_bundle
from pipelines import lake
from pipelines.clock import to_micros
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace

K = 10
DEPTH = 100


def judge(
    predictor: Predictor, workspace: Workspace, moment_us: int, new_since_us: int
) -> dict[str, float]:
    """Figures of one predictor at one time; items that nobody bought before `new_since_us` are
    also judged on their own."""
    vocabulary = predictor.vocabulary
    end_us = moment_us + predictor.manifest.window_days * DAY_US
    whole = lake.read_histories(workspace, vocabulary, end_us)
    kept = np.flatnonzero(whole.before(moment_us).lengths > 0)
    whole = whole.select(kept)
    histories = whole.before(moment_us)
    states = predictor.states(histories, np.full(len(histories), moment_us))
    figures: dict[str, float] = {}
    for level, head in predictor.rankers.items():
        truths = _bought(head.level, predictor, whole, end_us)
        lists = head.rank(histories, states, moment_us, DEPTH).padded(DEPTH)
        figures[f"{level} NDCG@10"] = float(np.nanmean(ndcg_at_k(lists, truths, K)))
        if head.level is Level.ITEM:
            past = read_purchases(whole.before(new_since_us), vocabulary, Level.ITEM, new_since_us)
            known = np.unique(past.targets)
            new = [np.setdiff1d(truth, known) for truth in truths]
            figures["new items Recall@100"] = float(np.nanmean(recall_at_k(lists, new, DEPTH)))
            figures["users who buy new items"] = sum(len(one) > 0 for one in new)
    truths = _bought(Level.CATEGORY, predictor, whole, end_us)
    if predictor.propensity_head is not None:
        head = predictor.propensity_head
        labels = np.stack([np.isin(head.targets, truth) for truth in truths])
        found = head.predict(histories, states, moment_us).scores
        figures[f"{CATEGORY_PROPENSITY} macro AUC"] = macro_auc(labels, found)
    gone = np.asarray([len(truth) == 0 for truth in truths], dtype=np.float64)
    churn = predictor.user_tasks["churn"].predict(histories, states, np.full(len(kept), moment_us))
    figures["churn AUC"] = auc(gone, churn.scores)
    figures["users"] = len(kept)
    return figures


def _bought(level: Level, predictor: Predictor, whole: Histories, end_us: int) -> list[Longs]:
    """Per user the distinct targets bought in the window that ends then."""
    done = read_purchases(whole, predictor.vocabulary, level, end_us)
    ahead = done.ages <= predictor.manifest.window_days
    users, targets = done.users[ahead], done.targets[ahead]
    return [np.unique(targets[users == user]) for user in range(done.num_users)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--retrained", type=Path)
    parser.add_argument("--as-of", type=datetime.fromisoformat, required=True)
    given = parser.parse_args()
    workspace, moment_us = Workspace(given.workspace), to_micros(given.as_of)
    trained = Predictor.load(workspace.bundle)
    cut_us = trained.manifest.as_of_us
    rows = {"as trained": judge(trained, workspace, moment_us, cut_us)}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Workspace(Path(folder))
        for name in ("lake", "text_cache"):
            (scratch.root / name).symlink_to(workspace.root / name)
        shutil.copytree(workspace.bundle, scratch.bundle)
        bundle = open_bundle(scratch.bundle)
        begun = time.perf_counter()
        renew_bundle(scratch, bundle, bundle.vocabulary, moment_us, seed=0)
        seconds = time.perf_counter() - begun
        rows["renewed"] = judge(Predictor.load(scratch.bundle), workspace, moment_us, cut_us)
    if given.retrained is not None:
        other = Workspace(given.retrained)
        rows["trained again"] = judge(Predictor.load(other.bundle), other, moment_us, cut_us)
    names = list(rows["renewed"])
    print("| | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for label, figures in rows.items():
        shown = (f"{figures[name]:,}" if name.startswith("users") else f"{figures[name]:.4f}"
                 for name in names)  # fmt: skip
        print(f"| {label} | " + " | ".join(shown) + " |")
    print(f"renewing the memories took {seconds:.1f} s")


if __name__ == "__main__":
    main()
