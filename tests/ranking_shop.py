"""The rhythm shop as a model context: labels, item content and an untrained backbone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from deltalake import write_deltalake

from behavior_model.context import ModelContext
from behavior_model.model.backbone import new_backbone, save_backbone
from pipelines.contracts import (
    AMOUNT,
    CATEGORIES,
    ITEM_COUNTS,
    ITEM_IDS,
    LABELS,
    NUM_EVENTS,
    NUM_PURCHASES,
    PREDICTION_TIME,
    USER_ID,
    WINDOW_DAYS,
)
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace
from tests.rhythm_shop import (
    CUT_US,
    WINDOW_US,
    shop_histories,
    shop_recipe,
    shop_workspace,
)

AS_OF_US = CUT_US - WINDOW_US
NUM_USERS = 60
NUM_TIMES = 4
_NOTHING_BOUGHT = {NUM_PURCHASES: 0, AMOUNT: 0.0, ITEM_IDS: [], ITEM_COUNTS: [], CATEGORIES: []}


def ranking_context(
    workspace: Workspace,
    num_users: int = NUM_USERS,
    *,
    bare: bool = False,
    sells: bool = True,
    sells_from_us: int = 0,
) -> ModelContext:
    """A context whose futures are those of the shop's users, with four windows to learn from.

    One that does not sell has page views alone, and labels without purchases; windows that begin
    before it sells are labelled as without purchases.
    """
    shop_workspace(workspace, num_users, bare=bare, sells=sells)
    vocabulary, histories = Vocabulary.load(workspace.vocabulary_path), shop_histories(num_users)
    rows = []
    for number in range(NUM_TIMES):
        time_us = AS_OF_US - number * WINDOW_US
        for user in np.flatnonzero(histories.before(time_us).lengths > 0):
            label = _label(vocabulary, histories.select([user]), time_us)
            is_sold = sells and time_us >= sells_from_us
            rows.append(label if is_sold else {**label, **_NOTHING_BOUGHT})
    table = pa.Table.from_pylist(rows)
    times = pa.array([row[PREDICTION_TIME] for row in rows], pa.timestamp("us", tz="UTC"))
    at = table.column_names.index(PREDICTION_TIME)
    write_deltalake(str(workspace.table(LABELS.name)), table.set_column(at, PREDICTION_TIME, times))
    context = ModelContext.open(workspace, as_of_us=AS_OF_US)
    torch.manual_seed(0)
    backbone = new_backbone(vocabulary, context.content, shop_recipe().model, WINDOW_US)
    save_backbone(workspace.checkpoints / "backbone", backbone)
    return context


def _label(vocabulary: Vocabulary, one: Histories, time_us: int) -> dict[str, object]:
    ahead = (one.times_us >= time_us) & (one.times_us < time_us + WINDOW_US)
    items, counts = np.unique(one.tokens["item"][ahead], return_counts=True)
    categories = np.unique(vocabulary.category_by_item_idx[items])
    known = categories[categories >= 0]
    return {
        USER_ID: one.user_ids[0],
        PREDICTION_TIME: time_us,
        WINDOW_DAYS: 28,
        NUM_EVENTS: int(ahead.sum()),
        NUM_PURCHASES: int(ahead.sum()),
        AMOUNT: float(one.amounts[ahead].sum()),
        ITEM_IDS: [vocabulary.items[i - FIRST_IDX] for i in items],
        ITEM_COUNTS: counts.tolist(),
        CATEGORIES: [vocabulary.categories[i] for i in known],
    }
