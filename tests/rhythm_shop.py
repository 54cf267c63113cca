"""A made-up shop with rhythm: users who come weekly, monthly or stop, each with few favourites.

Small enough to train on in seconds, regular enough for a model to learn something.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from behavior_model.items import ItemContent, build_item_content
from behavior_model.model.backbone import new_backbone
from behavior_model.objectives.pretraining import PretrainingModel
from behavior_model.recipes import Recipe, recipe_for
from behavior_model.text_encoder import HashedBackend, TextEncoder
from behavior_model.training.ray_trainer import shard_of
from behavior_model.training.worker import PretrainingJob
from pipelines.contracts import CATALOGUE, PURCHASE, TOKEN_SEQUENCES
from pipelines.lake import read_catalogue
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.encoder import encode
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import PROBE_TYPE, TokenField, TokenKind, Vocabulary
from pipelines.workspace import Workspace

CUT_US = 1_500_000_000_000_000 // DAY_US * DAY_US
WINDOW_US = 28 * DAY_US
NUM_ITEMS = 40
NUM_UNSOLD = 4
CATEGORIES = ("bread", "milk", "soap", "toys")
_RHYTHMS = (3, 7, 14, 28)
_DAYS = 200


def shop_vocabulary() -> Vocabulary:
    """Forty items in four categories; the last four were never bought."""
    counts = tuple(0 if i >= NUM_ITEMS - NUM_UNSOLD else 100 - i for i in range(NUM_ITEMS))
    return Vocabulary(
        company="rhythm-shop",
        fitted_before="2017-07-14T00:00:00+00:00",
        fields=(
            TokenField(
                name="event_type",
                kind=TokenKind.CATEGORICAL,
                column="event_type",
                values=(PROBE_TYPE, PURCHASE, "page_view"),
            ),
            TokenField(name="item", kind=TokenKind.ITEM, column="item_id"),
            TokenField(name="amount", kind=TokenKind.NUMBER, column="amount", edges=(2.0, 5.0)),
            TokenField(name="note_0", kind=TokenKind.WORD, column="note", slot=0),
            TokenField(name="note_1", kind=TokenKind.WORD, column="note", slot=1),
            TokenField(name="gap", kind=TokenKind.GAP),
            TokenField(name="hour", kind=TokenKind.HOUR),
            TokenField(name="weekday", kind=TokenKind.WEEKDAY),
            TokenField(name="session_start", kind=TokenKind.SESSION_START),
        ),
        items=tuple(f"item-{i:02d}" for i in range(NUM_ITEMS)),
        item_counts=counts,
        categories=CATEGORIES,
        item_categories=tuple(i % len(CATEGORIES) for i in range(NUM_ITEMS)),
    )


def bare_vocabulary() -> Vocabulary:
    """That of a shop which tells events alone, and nothing of its items."""
    return replace(shop_vocabulary(), categories=(), item_categories=(-1,) * NUM_ITEMS)


def unsold(vocabulary: Vocabulary) -> Vocabulary:
    """That of a shop which tells page views in place of purchases."""
    types = vocabulary.fields[0]
    viewed = replace(types, values=(PROBE_TYPE, "page_view"))
    return replace(vocabulary, fields=(viewed, *vocabulary.fields[1:]))


def shop_catalogue() -> pa.Table:
    """Canonical catalogue with one further column, `shelf`."""
    rows = range(NUM_ITEMS)
    return pa.table(
        {
            "item_id": [f"item-{i:02d}" for i in rows],
            "title": [f"{CATEGORIES[i % 4]} number {i // 4}" for i in rows],
            "description": pa.array([None] * NUM_ITEMS, type=pa.string()),
            "category": [CATEGORIES[i % 4] for i in rows],
            "category_path": [f"shop > {CATEGORIES[i % 4]}" for i in rows],
            "brand": [("own", "other")[i % 2] for i in rows],
            "price": [1.0 + i for i in rows],
            "market": pa.array([None] * NUM_ITEMS, type=pa.string()),
            "locale": pa.array([None] * NUM_ITEMS, type=pa.string()),
            "shelf": [f"shelf {i % 3}" for i in rows],
        }
    )


def shop_content(vocabulary: Vocabulary, catalogue: pa.Table | None = None) -> ItemContent:
    """Item content by hashed words alone: no neural encoder in tests of the model."""
    encoder = TextEncoder(None, HashedBackend(32))
    rows = shop_catalogue() if catalogue is None else catalogue
    return build_item_content(rows, vocabulary, encoder, word_width=16)


def shop_histories(num_users: int, seed: int = 0) -> Histories:
    """Baskets of one to four favourites at each user's rhythm; every fourth user stops half way."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    counts: list[int] = []
    for user in range(num_users):
        mine = _user_rows(user, rng)
        rows += mine
        counts.append(len(mine))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    users = [f"user-{u:03d}" for u in range(num_users)]
    return encode(shop_vocabulary(), pa.Table.from_pylist(rows), users, offsets)


def _user_rows(user: int, rng: np.random.Generator) -> list[dict[str, object]]:
    favourites = rng.choice(NUM_ITEMS - NUM_UNSOLD, size=6, replace=False)
    last = _DAYS // 2 if user % 4 == 3 else _DAYS
    rows: list[dict[str, object]] = []
    day = float(rng.integers(1, 5))
    while day < last:
        time = CUT_US - int((_DAYS - day) * DAY_US)
        for item in rng.choice(favourites, size=rng.integers(1, 5), replace=False):
            rows.append(
                {
                    "event_id": f"{user}-{len(rows)}",
                    "event_time": time,
                    "event_type": PURCHASE,
                    "item_id": f"item-{item:02d}",
                    "amount": float(1 + item % 7),
                    "note": "by hand" if user % 2 else None,
                }
            )
        day += _RHYTHMS[user % len(_RHYTHMS)] * float(rng.uniform(0.8, 1.2))
    return rows


def shop_recipe(**training: float) -> Recipe:
    """The tiny recipe, shrunk: two narrow layers, a few short epochs."""
    recipe = recipe_for("tiny", num_events=1_000)
    return replace(
        recipe,
        model=replace(recipe.model, width=32, num_heads=2, context=48, word_width=16),
        training=replace(
            recipe.training,
            **{
                "epochs": 2,
                "batch_tokens": 512,
                "num_negatives": 16,
                "num_threads": 1,
                "learning_rate": 2e-3,
                **training,
            },
        ),
    )


def shop_workspace(
    workspace: Workspace, num_users: int = 24, *, bare: bool = False, sells: bool = True
) -> Workspace:
    """Write vocabulary, token sequences, catalogue and item content into a workspace.

    A `bare` shop has no catalogue and so no categories; one that does not sell tells page views.
    """
    vocabulary = bare_vocabulary() if bare else shop_vocabulary()
    vocabulary = vocabulary if sells else unsold(vocabulary)
    vocabulary.save(workspace.vocabulary_path)
    histories = shop_histories(num_users)
    sequences = histories.to_arrow(vocabulary.vocabulary_id)
    write_deltalake(str(workspace.table(TOKEN_SEQUENCES.name)), sequences)
    if not bare:
        write_deltalake(str(workspace.table(CATALOGUE.name)), shop_catalogue())
    content = shop_content(vocabulary, read_catalogue(workspace))
    content.save(workspace.checkpoints / "items")
    return workspace


def shop_model(recipe: Recipe, content: ItemContent) -> PretrainingModel:
    """An untrained model; seed torch before."""
    return PretrainingModel(
        new_backbone(shop_vocabulary(), content, recipe.model, WINDOW_US),
        content,
        recipe.training.num_negatives,
        recipe.training.loss_weights,
    )


def shop_shards(num_users: int, num_shards: int) -> dict[int, Histories]:
    """The shop's histories as training splits them."""
    histories = shop_histories(num_users)
    shards = np.asarray([shard_of(user, num_shards) for user in histories.user_ids])
    return {shard: histories.select(np.flatnonzero(shards == shard)) for shard in range(num_shards)}


def shop_job(root: Path, recipe: Recipe, num_shards: int = 1, seed: int = 5) -> PretrainingJob:
    """A run in the workspace at `root`."""
    return PretrainingJob(
        root=str(root),
        vocabulary_id=shop_vocabulary().vocabulary_id,
        recipe=recipe,
        cut_us=CUT_US,
        window_us=WINDOW_US,
        seed=seed,
        num_shards=num_shards,
    )
