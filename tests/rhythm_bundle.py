"""The rhythm shop with everything behind it: labels, backbone, heads, bundle and shelf."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from deltalake import write_deltalake

from behavior_model.context import ModelContext
from behavior_model.embedding import item_embeddings
from behavior_model.heads import search_fitting, tagging_fitting, user_task
from behavior_model.heads.propensity import PropensityHead
from behavior_model.heads.recommendation import RecommendationHead
from behavior_model.memory.purchases import Level
from behavior_model.model.backbone import new_backbone, save_backbone
from behavior_model.sealing import seal, write_embeddings
from behavior_model.tasks import get_user_task
from behavior_model.text_encoder import HashedBackend, TextEncoder
from feature_store.publish import publish
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
from tests.rhythm_shop import CUT_US, WINDOW_US, shop_histories, shop_recipe, shop_workspace

Row = dict[str, object]

AS_OF_US = CUT_US - WINDOW_US
NUM_USERS = 24
COMPANY = """\
name: rhythm-shop
tables:
  - name: sales
    into: events
    source: {format: parquet, path: sales.parquet}
    columns: {user_id: user, event_time: time, event_type: {constant: purchase}}
    fields:
      note: {type: text}
"""


def make(workspace: Workspace) -> ModelContext:
    """Rooms 4 to 7 in small: an untrained backbone, fitted heads, a sealed bundle, a shelf."""
    shop_workspace(workspace, NUM_USERS)
    workspace.company_path.write_text(COMPANY, encoding="utf-8")
    write_labels(workspace, NUM_USERS)
    context = ModelContext.open(workspace, as_of_us=AS_OF_US)
    torch.manual_seed(0)
    backbone = new_backbone(context.vocabulary, context.content, shop_recipe().model, WINDOW_US)
    save_backbone(workspace.checkpoints / "backbone", backbone)
    _fit_heads(context)
    manifest = seal(context)
    users, items = workspace.embeddings / "user.parquet", workspace.embeddings / "item.parquet"
    write_embeddings(context, users, items)
    publish(
        workspace,
        as_of_us=AS_OF_US,
        user_embeddings=users,
        item_embeddings=items,
        model_version=manifest.model_version,
    )
    return context


def _fit_heads(context: ModelContext) -> None:
    heads = context.workspace.heads
    RecommendationHead.fit(context, Level.ITEM).save(heads / "recommendation")
    RecommendationHead.fit(context, Level.CATEGORY).save(heads / "category_recommendation")
    PropensityHead.fit(context).save(heads / "category_propensity")
    user_task.fit(context, get_user_task("churn")).save(heads / "churn")
    tagging_fitting.fit(context).save(heads / "tagging")
    search_fitting.fit(
        context,
        TextEncoder(None, HashedBackend(32)),
        item_embeddings=item_embeddings(context.backbone, context.content),
        num_queries=20,
    ).save(heads / "search")


def write_labels(workspace: Workspace, num_users: int) -> None:
    """Labels at the test cut and at the four windows before it."""
    vocabulary = Vocabulary.load(workspace.vocabulary_path)
    histories = shop_histories(num_users)
    times = [AS_OF_US - i * WINDOW_US for i in range(5)]
    rows = [row for time in times for row in _labels_at(vocabulary, histories, time)]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    write_deltalake(str(workspace.table(LABELS.name)), table)


def _labels_at(
    vocabulary: Vocabulary, histories: Histories, time_us: int
) -> list[dict[str, object]]:
    rows = []
    for user in range(len(histories)):
        one = histories.select([user])
        if one.before(time_us).num_events == 0:
            continue
        ahead = (one.times_us >= time_us) & (one.times_us < time_us + WINDOW_US)
        items, counts = np.unique(one.tokens["item"][ahead], return_counts=True)
        positions = sorted({int(vocabulary.category_by_item_idx[i]) for i in items})
        rows.append(
            {
                USER_ID: one.user_ids[0],
                PREDICTION_TIME: time_us,
                WINDOW_DAYS: 28,
                NUM_EVENTS: int(ahead.sum()),
                NUM_PURCHASES: int(ahead.sum()),
                AMOUNT: float(one.amounts[ahead].sum()),
                ITEM_IDS: [vocabulary.items[i - FIRST_IDX] for i in items],
                ITEM_COUNTS: [int(count) for count in counts],
                CATEGORIES: [vocabulary.categories[i] for i in positions],
            }
        )
    return rows


_SCHEMA = pa.schema(
    [
        (USER_ID, pa.string()),
        (PREDICTION_TIME, pa.timestamp("us", tz="UTC")),
        (WINDOW_DAYS, pa.int32()),
        (NUM_EVENTS, pa.int64()),
        (NUM_PURCHASES, pa.int64()),
        (AMOUNT, pa.float64()),
        (ITEM_IDS, pa.list_(pa.string())),
        (ITEM_COUNTS, pa.list_(pa.int64())),
        (CATEGORIES, pa.list_(pa.string())),
    ]
)
