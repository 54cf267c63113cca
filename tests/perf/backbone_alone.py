"""What a backbone says of a company's users at one cut, with nothing fitted on top.

Legend: U users with any history before the cut, A of them who buy in the window after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from behavior_model.embedding import UserStates, embed_users, item_embeddings
from behavior_model.items import ItemContent
from behavior_model.metrics import auc, ndcg_at_k
from behavior_model.model.backbone import Backbone
from pipelines import lake
from pipelines.clock import to_micros
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace

Doubles = npt.NDArray[np.float64]
K = 10


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers beside what came true.

    Args:
        states: Of U users.
        churned: float64[U], 1 for those who buy nothing in the window.
        products: float64[A], NDCG@10 of the products of the window.
        categories: float64[A], likewise.
    """

    states: UserStates
    churned: Doubles
    products: Doubles
    categories: Doubles

    def means(self) -> dict[str, float]:
        return {
            "churn AUC": auc(self.churned, self.states.inactive.astype(float)),
            f"products NDCG@{K}": float(np.nanmean(self.products)),
            f"categories NDCG@{K}": float(np.nanmean(self.categories)),
        }


def answers(
    workspace: Workspace,
    vocabulary: Vocabulary,
    content: ItemContent,
    backbone: Backbone,
    cut: datetime,
) -> Answers:
    """Of all users of the workspace."""
    histories = lake.read_histories(workspace, vocabulary, to_micros(cut))
    times = np.full(len(histories), to_micros(cut), dtype=np.int64)
    states = embed_users(backbone, content, histories, times)
    rows = lake.read(workspace, "labels", filters=[("prediction_time", "=", cut)]).to_pylist()
    labels = {row["user_id"]: row for row in rows}
    bought = np.asarray([labels[user]["num_purchases"] for user in histories.user_ids])
    active = np.flatnonzero(bought > 0)
    items = item_embeddings(backbone, content)
    items[:FIRST_IDX, -1] = -np.inf

    def ndcg(scores: npt.NDArray[np.float32], column: str, positions: dict[str, int]) -> Doubles:
        truths = [
            np.asarray([positions[one] for one in labels[histories.user_ids[user]][column]])
            for user in active
        ]
        return ndcg_at_k(np.argsort(-scores, axis=1, kind="stable")[:, :K], truths, K)

    item_at = {item: FIRST_IDX + i for i, item in enumerate(vocabulary.items)}
    category_at = {name: i for i, name in enumerate(vocabulary.categories)}
    return Answers(
        states=states,
        churned=(bought == 0).astype(float),
        products=ndcg(states.item_query[active] @ items.T, "item_ids", item_at),
        categories=ndcg(states.category_logits[active], "categories", category_at),
    )
