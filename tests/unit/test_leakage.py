"""A field that only the future knows, planted where a past that is cut at its time ends."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from behavior_model.evaluation.metrics import auc
from behavior_model.heads.user_inputs import InputKind, LabelledRows, UserInputs, user_inputs
from behavior_model.heads.user_task import fit_rows
from behavior_model.tasks import get_user_task
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories
from tests.rhythm_shop import CUT_US, WINDOW_US, shop_vocabulary

NUM_USERS = 8_000
TIMES = [CUT_US - k * WINDOW_US for k in (3, 2, 1)]


@pytest.fixture(scope="module")
def leaving() -> np.ndarray:
    """bool[T, U]: whether a user leaves after each time, by the toss of a coin."""
    return np.random.default_rng(0).random((len(TIMES), NUM_USERS)) < 0.5


@pytest.fixture(scope="module")
def histories(leaving: np.ndarray) -> Histories:
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
    users = [f"user-{user}" for user in range(NUM_USERS)]
    return encode(shop_vocabulary(), pa.Table.from_pylist(rows), users, offsets)


@pytest.mark.parametrize(("peek_us", "lowest", "highest"), [(0, 0.48, 0.52), (1, 0.95, 1.0)])
def test_churn_is_at_chance_unless_a_history_is_cut_too_late(
    histories: Histories, leaving: np.ndarray, peek_us: int, lowest: float, highest: float
) -> None:
    """With one microsecond more the planted field is seen, so the test can fail."""

    def inputs(k: int) -> UserInputs:
        past = histories.before(TIMES[k] + peek_us)
        at = np.full(len(past), TIMES[k] + peek_us)
        return user_inputs(shop_vocabulary(), past, None, at, InputKind.STATISTICS)

    rows = LabelledRows(
        inputs=UserInputs.join([inputs(0), inputs(1)]),
        labels=leaving[:2].astype(float).ravel(),
        user_ids=histories.user_ids * 2,
        times=np.repeat([0, 1], NUM_USERS),
    )
    head = fit_rows(rows, get_user_task("churn"), InputKind.STATISTICS, shop_vocabulary(), seed=0)
    now = TIMES[2] + peek_us
    scores = head.predict(histories.before(now), None, now).scores
    assert lowest <= auc(leaving[2].astype(float), scores) <= highest
