"""A small made-up shop for tests of shelf and counter: vocabulary, events, lake, predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from behavior_model.bundle import Catalogue, Manifest
from behavior_model.heads.propensity import Propensities
from behavior_model.heads.user_task import UserPrediction
from behavior_model.predictor import Ranking
from feature_store.erasure import erase_offline, erase_online
from feature_store.publish import Publication, publish
from feature_store.settings import Shelf, ShelfSettings
from pipelines.contracts import CATEGORY, ITEM_ID, PURCHASE, TITLE, TOKEN_SEQUENCES, SemanticType
from pipelines.erasure import suppress, user_hash
from pipelines.errors import UnknownNameError
from pipelines.tokens.binning import DAY_US, FIRST_IDX
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import PROBE_TYPE, TokenField, TokenKind, Vocabulary
from pipelines.workspace import Workspace
from serving.live_events import encode_events

AS_OF_US = 1_506_816_000_000_000  # 2017-10-01T00:00:00Z
NUM_ITEMS = 20
USERS = ("ada", "bob", "cyd")
MODEL_VERSION = "0123456789abcdef"


def vocabulary() -> Vocabulary:
    """Twenty items in two categories; own fields `store` (categorical) and `discount` (number)."""
    return Vocabulary(
        company="small-shop",
        fitted_before="2017-09-03T00:00:00+00:00",
        fields=(
            TokenField(
                name="event_type",
                kind=TokenKind.CATEGORICAL,
                column="event_type",
                values=(PROBE_TYPE, PURCHASE, "page_view"),
            ),
            TokenField(name="item", kind=TokenKind.ITEM, column="item_id"),
            TokenField(name="amount", kind=TokenKind.NUMBER, column="amount", edges=(1.0, 5.0)),
            TokenField(name="discount", kind=TokenKind.NUMBER, column="discount", edges=(1.0,)),
            TokenField(
                name="store", kind=TokenKind.CATEGORICAL, column="store", values=("north", "south")
            ),
            TokenField(name="gap", kind=TokenKind.GAP),
            TokenField(name="hour", kind=TokenKind.HOUR),
            TokenField(name="weekday", kind=TokenKind.WEEKDAY),
            TokenField(name="session_start", kind=TokenKind.SESSION_START),
        ),
        items=tuple(f"item-{i:02d}" for i in range(NUM_ITEMS)),
        item_counts=tuple(range(NUM_ITEMS, 0, -1)),
        categories=("food", "tools"),
        item_categories=tuple(i % 2 for i in range(NUM_ITEMS)),
    )


def purchase(user: str, number: int, item: int, *, days_before: float = 1.0) -> dict[str, Any]:
    """A canonical purchase some days before the cut."""
    return {
        "event_id": f"{user}-{number}",
        "user_id": user,
        "event_time": AS_OF_US - round(days_before * DAY_US),
        "event_type": PURCHASE,
        "item_id": f"item-{item:02d}",
        "amount": 2.5,
        "store": "north",
    }


def histories(num_events: int = 4) -> Histories:
    """Each user bought `num_events` things, one per day, before the cut."""
    parts = [
        encode_events(
            vocabulary(),
            user,
            [
                purchase(user, i, (3 * u + i) % NUM_ITEMS, days_before=num_events - i + u / 24)
                for i in range(num_events)
            ],
        )
        for u, user in enumerate(USERS)
    ]
    return stack(parts)


def stack(parts: Sequence[Histories]) -> Histories:
    """Several users' histories as one."""
    table = pa.concat_tables([part.to_arrow(vocabulary().vocabulary_id) for part in parts])
    return Histories.from_arrow(table)


def write_lake(workspace: Workspace, stored: Histories) -> None:
    """Vocabulary and token sequences."""
    vocabulary().save(workspace.vocabulary_path)
    rows = stored.to_arrow(vocabulary().vocabulary_id)
    write_deltalake(str(workspace.table(TOKEN_SEQUENCES.name)), rows, mode="overwrite")


def write_embeddings(folder: Path, ids: Sequence[str], seed: int = 0) -> Path:
    """A parquet file as `bfm export` writes it."""
    rng = np.random.default_rng(seed)
    rows = [rng.standard_normal(4).astype(np.float32).tolist() for _ in ids]
    table = pa.table({"id": list(ids), "embedding": pa.array(rows, type=pa.list_(pa.float32()))})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"embeddings-{len(ids)}-{seed}.parquet"
    pq.write_table(table, path)
    return path


def put_on_shelf(
    workspace: Workspace,
    *,
    as_of_us: int = AS_OF_US,
    num_events: int = 4,
    version: str = MODEL_VERSION,
    created_us: int | None = None,
    settings: ShelfSettings | None = None,
) -> Publication:
    """Write the lake and publish all users and items."""
    write_lake(workspace, histories(num_events))
    return publish(
        workspace,
        as_of_us=as_of_us,
        user_embeddings=write_embeddings(workspace.root, USERS),
        item_embeddings=write_embeddings(workspace.root, vocabulary().items),
        model_version=version,
        created_us=created_us,
        settings=settings,
    )


def erase_user(shelf: Shelf, user_id: str) -> None:
    """Keep a user out, and take the user off the shelf."""
    suppress(shelf.workspace, user_hash(user_id))
    erase_online(shelf, user_id)
    erase_offline(shelf, user_id)


def live_event(user: str = "ada", number: int = 100, **changes: Any) -> dict[str, Any]:
    """An event as a client posts it."""
    return {
        "event_id": f"live-{user}-{number}",
        "user_id": user,
        "event_time": "2017-10-01T08:00:00Z",
        "event_type": PURCHASE,
        "item_id": "item-19",
        "amount": 3.0,
        "store": "south",
        "discount": 0.5,
        **changes,
    }


@dataclass
class CountingPredictor:
    """Answers from counts alone, so that every change of a history can be seen in the answer."""

    manifest: Manifest
    vocabulary: Vocabulary
    catalogue: Catalogue
    personalises_search: bool = True
    is_warm: bool = False

    def warm(self) -> None:
        self.is_warm = True

    @classmethod
    def make(cls) -> CountingPredictor:
        known = vocabulary()
        rows = {
            ITEM_ID: list(known.items),
            TITLE: [f"Thing {i}" for i in range(NUM_ITEMS)],
            CATEGORY: [known.categories[i % 2] for i in range(NUM_ITEMS)],
        }
        manifest = Manifest(
            schema_version=1,
            model_version=MODEL_VERSION,
            vocabulary_id=known.vocabulary_id,
            company=known.company,
            as_of_us=AS_OF_US,
            training_cut_us=AS_OF_US - 28 * DAY_US,
            window_days=28,
            tasks=("churn", "recommendation"),
            event_fields={
                "store": SemanticType.CATEGORICAL,
                "discount": SemanticType.NUMBER,
            },
            files={},
        )
        return cls(manifest, known, Catalogue(pa.table(rows)))

    def recommend(
        self, histories: Histories, times: Any, k: int, *, level: str, exclude_owned: bool
    ) -> Ranking:
        counts = np.bincount(histories.tokens["item"], minlength=FIRST_IDX + NUM_ITEMS)[FIRST_IDX:]
        scores = np.where(counts > 0, -1.0, 0.0) if exclude_owned else counts.astype(float)
        if level == "category":
            scores = np.asarray([scores[0::2].sum(), scores[1::2].sum()])
        best = np.argsort(-scores, kind="stable")[:k]
        names = self.vocabulary.categories if level == "category" else self.vocabulary.items
        ids, values = [names[i] for i in best], [float(scores[i]) for i in best]
        return Ranking([ids], [values], [histories.num_events == 0])

    def require_user_task(self, task: str) -> None:
        if task != "churn":
            raise UnknownNameError("user task", task, ["churn"])

    def predict(self, task: str, histories: Histories, times: Any) -> UserPrediction:
        age_days = (times - histories.last_times_us) / DAY_US
        score = age_days / (age_days + 28)
        return UserPrediction(
            scores=score,
            lowers=score - 0.1,
            uppers=score + 0.1,
            familiarities=np.asarray([0.5]),
        )

    def propensities(self, histories: Histories, times: Any) -> Propensities:
        items = histories.tokens["item"]
        counts = np.bincount(items[items >= FIRST_IDX] % 2, minlength=2)[None, [1, 0]]
        scores = counts / (counts + 1.0)
        return Propensities(["food", "tools"], scores, scores / 2, (1 + scores) / 2)

    def search(self, queries: Sequence[str], k: int, **_: Any) -> Ranking:
        known = [0.5 if one.isalpha() else 0.0 for one in queries]
        return replace(self._first(k), familiarities=known)

    def tags(self, item_ids: Sequence[str], k: int) -> Ranking:
        self._require_item(item_ids[0])
        return Ranking([["food", "tools"][:k]], [[0.9, 0.1][:k]])

    def tags_of_texts(self, texts: Sequence[str], k: int) -> Ranking:
        return Ranking([["food", "tools"][:k]], [[0.9, 0.1][:k]])

    def similar_items(self, item_ids: Sequence[str], k: int, *, by: str) -> Ranking:
        self._require_item(item_ids[0])
        return self._first(k)

    def similar_to_texts(self, texts: Sequence[str], k: int, *, by: str) -> Ranking:
        return self._first(k)

    def embed_users(self, histories: Histories, times: Any) -> Any:
        return np.repeat(histories.lengths[:, None], 4, axis=1).astype(np.float32)

    def embed_items(self, item_ids: Sequence[str]) -> Any:
        return np.asarray(
            [[self.vocabulary.item_idx_of[i]] * 4 for i in item_ids], dtype=np.float32
        ).reshape(len(item_ids), 4)

    def embed_texts(self, texts: Sequence[str]) -> Any:
        return np.ones((len(texts), 4), dtype=np.float32)

    def _first(self, k: int) -> Ranking:
        ids = list(self.vocabulary.items[:k])
        return Ranking([ids], [[1.0 / (i + 1) for i in range(len(ids))]])

    def _require_item(self, item_id: str) -> None:
        if item_id not in self.vocabulary.item_idx_of:
            raise UnknownNameError("item", item_id, self.vocabulary.items)
