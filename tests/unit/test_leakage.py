"""A field that only the future knows, planted where a past that is cut at its time ends.

Rows, labels and histories come as heads get them: from a workspace, through the model's context.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from behavior_model.context import ModelContext
from behavior_model.heads.user_inputs import InputKind, labelled_rows
from behavior_model.heads.user_task import fit_rows
from behavior_model.metrics import auc
from behavior_model.tasks import get_user_task
from pipelines.contracts import (
    AMOUNT,
    CATEGORIES,
    ITEM_COUNTS,
    ITEM_IDS,
    LABELS,
    NUM_EVENTS,
    NUM_PURCHASES,
    PREDICTION_TIME,
    TOKEN_SEQUENCES,
    USER_ID,
    WINDOW_DAYS,
)
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories
from pipelines.workspace import Workspace
from tests.rhythm_shop import CUT_US, WINDOW_US, shop_vocabulary

NUM_USERS = 8_000
TIMES = [CUT_US - k * WINDOW_US for k in (3, 2, 1)]
USERS = [f"user-{user:04d}" for user in range(NUM_USERS)]


@pytest.fixture(scope="module")
def leaving() -> np.ndarray:
    """bool[T, U]: whether a user leaves after each time, by the toss of a coin."""
    return np.random.default_rng(0).random((len(TIMES), NUM_USERS)) < 0.5


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, leaving: np.ndarray) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("planted"))
    vocabulary = shop_vocabulary()
    vocabulary.save(workspace.vocabulary_path)
    sequences = _histories(leaving).to_arrow(vocabulary.vocabulary_id)
    write_deltalake(str(workspace.table(TOKEN_SEQUENCES.name)), sequences)
    write_deltalake(str(workspace.table(LABELS.name)), _labels(leaving))
    return workspace


def _histories(leaving: np.ndarray) -> Histories:
    """Purchases at random; one at the very time of prediction, whose amount gives the coin away."""
    rng = np.random.default_rng(1)
    rows = [
        {
            "event_id": f"{user}-{k}-{number}",
            "event_time": time - int(number and rng.integers(1, 28)) * DAY_US,
            "event_type": "purchase",
            "item_id": f"item-{rng.integers(30):02d}",
            "amount": 100.0 if not number and leaving[k, user] else float(rng.integers(1, 9)),
        }
        for user in range(NUM_USERS)
        for k, time in enumerate(TIMES)
        for number in (1, 2, 0)
    ]
    rows.sort(key=lambda row: (int(row["event_id"].split("-")[0]), row["event_time"]))
    offsets = np.arange(NUM_USERS + 1, dtype=np.int64) * 3 * len(TIMES)
    return encode(shop_vocabulary(), pa.Table.from_pylist(rows), USERS, offsets)


def _labels(leaving: np.ndarray) -> pa.Table:
    """Who leaves buys nothing in the window; nothing else is told of the windows."""
    num_rows = leaving.size
    stays = pa.array((~leaving).astype(np.int64).ravel())
    nothing = pa.array([[]] * num_rows, pa.list_(pa.string()))
    return pa.table(
        {
            USER_ID: USERS * len(TIMES),
            PREDICTION_TIME: pa.array(np.repeat(TIMES, NUM_USERS), pa.timestamp("us", tz="UTC")),
            WINDOW_DAYS: pa.array(np.full(num_rows, WINDOW_US // DAY_US, dtype=np.int32)),
            NUM_EVENTS: stays,
            NUM_PURCHASES: stays,
            AMOUNT: np.zeros(num_rows),
            ITEM_IDS: nothing,
            ITEM_COUNTS: pa.array([[]] * num_rows, pa.list_(pa.int64())),
            CATEGORIES: nothing,
        }
    )


@pytest.mark.parametrize(("peek_us", "lowest", "highest"), [(0, 0.48, 0.52), (1, 0.95, 1.0)])
def test_churn_is_at_chance_unless_a_history_is_cut_too_late(
    workspace: Workspace,
    leaving: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    peek_us: int,
    lowest: float,
    highest: float,
) -> None:
    """With one microsecond more the planted field is seen, so the test can fail."""
    cut = Histories.before
    monkeypatch.setattr(Histories, "before", lambda self, times_us: cut(self, times_us + peek_us))
    context = ModelContext.open(workspace, as_of_us=TIMES[-1])
    task, kind = get_user_task("churn"), InputKind.STATISTICS
    rows = labelled_rows(context, task, kind)
    assert len(rows.labels) == 2 * NUM_USERS
    head = fit_rows(rows, task, kind, context.vocabulary, seed=0)
    now = context.test_time
    scores = head.predict(context.histories(now), None, now).scores
    assert lowest <= auc(leaving[-1].astype(float), scores) <= highest
