"""Cold items: nothing of them is in training, and they are placed without looking at answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from behavior_model.benchmark.answers import Options
from behavior_model.benchmark.baselines.task import LeaveOneOutTask
from behavior_model.benchmark.cold_items import (
    ColdItemsOptions,
    content_first,
    drawn_items,
    last_events,
    run,
    without_items,
)
from behavior_model.benchmark.cold_placement import placed_by_neighbours, with_even_exposure
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.shop import Outputs, Shop, ask, new_model, training_run
from behavior_model.benchmark.split import leave_one_out
from behavior_model.benchmark.texted import product_scores, rank
from pipelines.errors import SourceError, UserError
from tests.ring_shop import NUM_ITEMS, NUM_USERS, ring_recipe, write_shop


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def full(paths: tuple[Path, Path]) -> Interactions:
    return read_interactions(*paths)


def test_a_share_of_the_items_is_drawn_by_the_seed() -> None:
    held_out = drawn_items(1_000, 0.1, seed=0)
    assert held_out.sum() == 100
    assert (held_out == drawn_items(1_000, 0.1, seed=0)).all()
    assert (held_out != drawn_items(1_000, 0.1, seed=1)).any()


def test_every_interaction_with_a_held_out_item_is_gone_and_no_other(full: Interactions) -> None:
    held_out = drawn_items(full.num_items, 0.25, seed=0)
    learned = without_items(full, held_out)
    assert not held_out[learned.items].any()
    assert learned.num_items == full.num_items
    for user in range(len(full)):
        mine = full.of(user)
        assert learned.of(user).tolist() == mine[~held_out[mine]].tolist()


def test_training_meets_held_out_items_neither_in_histories_nor_as_negatives(
    full: Interactions, tmp_path: Path
) -> None:
    held_out = drawn_items(full.num_items, 0.25, seed=0)
    recipe = content_first(ring_recipe(full, epochs=2))
    shop = Shop.of(without_items(full, held_out), recipe, tmp_path)
    model = new_model(shop, recipe, seed=0, sold_negatives=True)
    cold_idx = set(shop.encoded.item_idx[held_out].tolist())
    met: set[int] = set()
    for batch in training_run(model, shop, recipe, seed=0).loaders[0].epoch(0).from_step(0):
        met |= set(batch.packed.items_BL.flatten()[batch.packed.event_flat].tolist())
    for _ in range(50):
        met |= set(model.sampler.draw().items_K.tolist())
    assert met == set(shop.encoded.item_idx[~held_out].tolist())
    assert min(cold_idx) >= model.backbone.config.num_identities


def test_what_held_out_items_did_changes_nothing_that_is_learned(
    full: Interactions, tmp_path: Path
) -> None:
    held_out = drawn_items(full.num_items, 0.25, seed=0)
    cold = np.flatnonzero(held_out)
    items = full.items.copy()
    items[held_out[items]] = cold[0]
    recipe = content_first(ring_recipe(full, epochs=2))
    weights = []
    for one in (full, replace(full, items=items)):
        shop = Shop.of(without_items(one, held_out), recipe, tmp_path)
        model = new_model(shop, recipe, seed=0, sold_negatives=True)
        for _ in training_run(model, shop, recipe, seed=0).steps():
            pass
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_short_history_is_the_end_of_the_long_one(full: Interactions) -> None:
    short = last_events(full, 2)
    assert (short.lengths == 2).all()
    assert all(short.of(u).tolist() == full.of(u)[-2:].tolist() for u in range(NUM_USERS))


def test_event_times_stay_with_their_events(full: Interactions) -> None:
    timed = replace(full, event_times=np.arange(full.num_events))
    held_out = np.arange(full.num_items) == 3
    kept = without_items(timed, held_out)
    assert kept.event_times is not None
    np.testing.assert_array_equal(full.items[kept.event_times], kept.items)
    short = last_events(timed, 2).without_last()
    assert short.event_times is not None
    np.testing.assert_array_equal(full.items[short.event_times], full.last(1))


def test_an_unseen_item_stands_where_seen_items_like_it_stand() -> None:
    angles = np.concatenate([np.linspace(0, 0.1, 20), np.linspace(3, 3.1, 20), [0.05]])
    items = np.stack([np.cos(angles), np.sin(angles), np.repeat(-1.0, 41)], axis=1)
    items[20:40, 2] = -5.0
    items[40, 2] = -9.0
    placed = placed_by_neighbours(items.astype(np.float32), np.arange(41) < 40)
    np.testing.assert_allclose(placed[:40], items[:40], rtol=1e-6)
    np.testing.assert_allclose(placed[40], [np.cos(0.05), np.sin(0.05), -1.0], rtol=1e-5)


def test_unseen_items_fill_their_share_of_the_lists(full: Interactions) -> None:
    rng = np.random.default_rng(0)
    seen = ~drawn_items(full.num_items, 0.25, seed=0)
    outputs = Outputs(
        queries=rng.normal(size=(NUM_USERS, 9)).astype(np.float32),
        items=rng.normal(size=(NUM_ITEMS, 9)).astype(np.float32),
        events_per_second=0.0,
    )
    outputs.queries[:, -1] = 1.0
    outputs.items[~seen, -1] = -20.0
    task = LeaveOneOutTask(history=full, mask_history=False)
    even = with_even_exposure(task, outputs, seen, 4, seed=0)
    shares = [(~seen)[rank(task, product_scores(one), 4)].mean() for one in (outputs, even)]
    assert shares[0] == 0.0
    assert shares[1] == pytest.approx(0.25, abs=0.02)
    assert np.array_equal(even.items[seen], outputs.items[seen])


def test_truncated_histories_are_answered_for_every_user(
    full: Interactions, tmp_path: Path
) -> None:
    recipe = content_first(ring_recipe(full, epochs=1))
    shop = Shop.of(full, recipe, tmp_path)
    model = new_model(shop, recipe, seed=0)
    one = ask(model, shop, last_events(full, 1))
    assert one.queries.shape == (NUM_USERS, recipe.model.width + 1)
    by_item = {item: one.queries[full.last() == item] for item in range(NUM_ITEMS)}
    assert all(np.allclose(rows, rows[:1], atol=1e-5) for rows in by_item.values())


def test_what_cannot_be_judged_is_refused(paths: tuple[Path, Path], tmp_path: Path) -> None:
    interactions, items = paths
    with pytest.raises(UserError, match="--held-out 1: give a share between 0 and 1"):
        ColdItemsOptions(interactions=interactions, items=items, out=tmp_path, held_out=1.0)
    nothing = ColdItemsOptions(interactions=interactions, items=items, out=tmp_path, held_out=0.001)
    with pytest.raises(UserError, match="0 of 80 users have a test item that training never saw"):
        run(nothing, lambda line: None)


def test_a_budget_of_nothing_is_refused(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--budget-minutes 0: give a number of minutes above 0"):
        ColdItemsOptions(interactions=paths[0], items=paths[1], out=tmp_path, budget_minutes=0.0)
    with pytest.raises(UserError, match="--budget-minutes -1: give"):
        Options(
            interactions=paths[0], items=None, out=tmp_path, split=leave_one_out, budget_minutes=-1
        )
    with pytest.raises(UserError, match="--baseline-minutes 0: give"):
        Options(
            interactions=paths[0], items=None, out=tmp_path, split=leave_one_out, baseline_minutes=0
        )


def test_a_shop_without_texts_is_refused(paths: tuple[Path, Path], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    interactions, items = paths
    table = pq.read_table(items)
    empty = table.set_column(1, "text", pa.array([""] * table.num_rows))
    pq.write_table(empty, tmp_path / "items.parquet")
    options = ColdItemsOptions(
        interactions=interactions, items=tmp_path / "items.parquet", out=tmp_path
    )
    with pytest.raises(SourceError, match="no item has a text"):
        run(options, lambda line: None)
