"""The leave-one-out benchmark on small made-up files: what it reads, hides, mixes and writes."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from behavior_model.benchmark.baselines.task import LeaveOneOutTask
from behavior_model.benchmark.budget import UserCost
from behavior_model.benchmark.features import POPULAR, TRANSFORMER, feature_table
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import NO_ITEM, Interactions, masks_history
from behavior_model.benchmark.memories import HistoryMemories
from behavior_model.benchmark.mixture import fit_mixture, top_lists
from behavior_model.benchmark.recipe import affordable_texts, benchmark_recipe, with_epochs
from behavior_model.benchmark.sequences import SequenceLoader, encode
from behavior_model.benchmark.shop import WARM_STEPS, Outputs, epoch_seconds
from behavior_model.benchmark.split import BeforeLast, BeforeTime
from behavior_model.benchmark.training import BenchmarkJob, seconds_per_epoch, train
from behavior_model.heads.pair_features import FeatureTable
from behavior_model.recipes import Recipe
from behavior_model.training.loop import TrainingRun
from pipelines.errors import SourceError, UnknownNameError
from tests.ring_shop import LENGTH, NUM_ITEMS, NUM_USERS, ring_recipe, write_shop


def small_recipe(shop: tuple[Path, Path], size: str = "tiny", epochs: int = 30) -> Recipe:
    return ring_recipe(read_interactions(*shop), size, epochs)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_shop(tmp_path_factory.mktemp("shop"))


def job(shop: tuple[Path, Path], folder: Path, **changes: object) -> BenchmarkJob:
    facts: dict[str, object] = {
        "interactions": shop[0],
        "items": None,
        "cutoff": BeforeLast(1),
        "folder": folder,
        "text_cache": folder / "texts",
        "recipe": small_recipe(shop),
        "seed": 0,
    }
    return BenchmarkJob(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def outputs(shop: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Outputs]:
    """Of a training that hides two items, and of one that hides one."""
    found = []
    for num_hidden in (2, 1):
        folder = tmp_path_factory.mktemp(f"hidden{num_hidden}")
        train(job(shop, folder, cutoff=BeforeLast(num_hidden)))
        found.append(Outputs.load(folder))
    return found


def test_rows_stand_by_position_whatever_the_order_of_the_file(shop: tuple[Path, Path]) -> None:
    full = read_interactions(*shop)
    assert (len(full), full.num_items, full.num_events) == (NUM_USERS, NUM_ITEMS, 640)
    steps = np.diff(full.items.reshape(NUM_USERS, LENGTH), axis=1) % NUM_ITEMS
    assert (steps == 1).all()
    assert full.texts[5] == "thing number 5"
    assert (full.last(1) == full.without_last().last()).all()
    assert (full.without_last(LENGTH).last() == NO_ITEM).all()


def table_without(column: str, path: Path) -> Path:
    changed = path.with_name(f"without_{column}.parquet")
    pq.write_table(pq.read_table(path).drop_columns([column]), changed)
    return changed


def test_what_cannot_be_read_is_named(shop: tuple[Path, Path], tmp_path: Path) -> None:
    interactions, items = shop
    with pytest.raises(SourceError, match=r"nowhere\.parquet: no such file"):
        read_interactions(tmp_path / "nowhere.parquet")
    with pytest.raises(SourceError, match="column 'user_id' is missing; it has item_id, position"):
        read_interactions(table_without("user_id", interactions))
    with pytest.raises(SourceError, match="neither 'event_time' nor 'position'"):
        read_interactions(table_without("position", interactions))
    with pytest.raises(SourceError, match="column 'text' is missing"):
        read_interactions(interactions, table_without("text", items))
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(SourceError, match="not a parquet file"):
        read_interactions(tmp_path / "text.parquet")
    pq.write_table(pq.read_table(interactions).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(SourceError, match="no rows"):
        read_interactions(tmp_path / "empty.parquet")
    holes = pq.read_table(interactions)
    holes = holes.set_column(0, "user_id", pa.array([None, *holes["user_id"].to_pylist()[1:]]))
    pq.write_table(holes, tmp_path / "holes.parquet")
    with pytest.raises(SourceError, match="row 0 has no 'user_id'"):
        read_interactions(tmp_path / "holes.parquet")


def test_files_of_different_writers_are_read_alike(shop: tuple[Path, Path], tmp_path: Path) -> None:
    interactions, items = (pq.read_table(path) for path in shop)
    ids = interactions["item_id"].cast(pa.large_string()).dictionary_encode()
    users = interactions["user_id"].cast(pa.int32())
    other = interactions.set_column(1, "item_id", ids).set_column(0, "user_id", users)
    pq.write_table(other, tmp_path / "interactions.parquet")
    shorter = pa.table({"item_id": items["item_id"].slice(0, 5), "text": ["?", None, "", "?", ""]})
    pq.write_table(pa.concat_tables([shorter, items]), tmp_path / "items.parquet")
    one = read_interactions(*shop)
    two = read_interactions(tmp_path / "interactions.parquet", tmp_path / "items.parquet")
    assert two.texts == one.texts
    assert np.array_equal(two.items, one.items)
    assert two.user_ids.equals(one.user_ids)
    assert two.item_ids.equals(one.item_ids)


def test_columns_that_nobody_asked_for_are_not_read(
    shop: tuple[Path, Path], tmp_path: Path
) -> None:
    interactions = pq.read_table(shop[0])
    num = interactions.num_rows
    words = pa.array(["x"] * num)
    extra = interactions.append_column("_row", words).append_column("_row", words)
    pq.write_table(extra, tmp_path / "extra.parquet")
    assert (
        read_interactions(tmp_path / "extra.parquet").items == read_interactions(shop[0]).items
    ).all()
    empty = interactions.append_column("event_time", pa.nulls(num, pa.timestamp("us")))
    pq.write_table(empty, tmp_path / "empty.parquet")
    assert (
        read_interactions(tmp_path / "empty.parquet").items == read_interactions(shop[0]).items
    ).all()
    doubled = interactions.append_column("user_id", interactions.column("user_id"))
    pq.write_table(doubled, tmp_path / "doubled.parquet")
    with pytest.raises(SourceError, match="several columns are called 'user_id'"):
        read_interactions(tmp_path / "doubled.parquet")


def numbered(folder: Path, items: pa.Array, listed: pa.Array, texts: pa.Array) -> Interactions:
    taken = {"user_id": [1] * len(items), "item_id": items, "position": range(len(items))}
    pq.write_table(pa.table(taken), folder / "taken.parquet")
    pq.write_table(pa.table({"item_id": listed, "text": texts}), folder / "listed.parquet")
    return read_interactions(folder / "taken.parquet", folder / "listed.parquet")


@pytest.mark.parametrize("kind", [pa.float64(), pa.uint64(), pa.int32()])
def test_numbers_are_one_id_whoever_wrote_them(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array([["a", "list"], ["of words"], None])
    found = numbered(tmp_path, pa.array([3, 7]), pa.array([7, 9, 3], kind), texts)
    assert found.item_ids.to_pylist() == [3, 7, 9]
    assert found.texts == ["", "a list", "of words"]


def test_texts_of_blanks_say_nothing(tmp_path: Path) -> None:
    found = numbered(
        tmp_path, pa.array([3, 7]), pa.array([3, 3, 7]), pa.array(["      ", "ab", "   "])
    )
    assert found.texts == ["ab", ""]


def test_columns_of_no_use_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'text' is struct.*Write texts"):
        numbered(tmp_path, pa.array([3]), pa.array([3]), pa.array([{"title": "x"}]))
    with pytest.raises(SourceError, match=r"'text' is binary.*Write texts"):
        numbered(tmp_path, pa.array([3]), pa.array([3]), pa.array([b"\xff"]))
    with pytest.raises(SourceError, match=r"'item_id' is list.*which is no id"):
        numbered(tmp_path, pa.array([[3]]), pa.array([3]), pa.array(["x"]))
    with pytest.raises(SourceError, match="row 1 has no 'item_id'"):
        numbered(tmp_path, pa.array([3.5, np.nan]), pa.array([3.5]), pa.array(["x"]))


def test_ids_that_do_not_compare_are_named(shop: tuple[Path, Path], tmp_path: Path) -> None:
    items = pq.read_table(shop[1])
    numbered = items.set_column(0, "item_id", pa.array(range(len(items))))
    pq.write_table(numbered, tmp_path / "items.parquet")
    with pytest.raises(
        SourceError, match="'item_id' is int64, among the interactions it is string"
    ):
        read_interactions(shop[0], tmp_path / "items.parquet")


def test_long_texts_are_read_less_often() -> None:
    phrases = affordable_texts(["x" * 35, "", "y" * 35], 30.0)
    assert phrases == 24_000
    assert affordable_texts(["x" * 200], 30.0) == affordable_texts(["x" * 9_000], 30.0) == 10_800
    assert affordable_texts([], 30.0) > 24_000


def test_an_unknown_size_is_refused_with_the_known_ones(shop: tuple[Path, Path]) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown size 'smal'.*Did you mean 'small'"):
        small_recipe(shop, size="smal")


def test_dropout_and_context_follow_from_the_data(shop: tuple[Path, Path]) -> None:
    full = read_interactions(*shop)
    rare = benchmark_recipe("tiny", full.without_last(4), budget_minutes=1, bfloat16=False)
    often = replace(full, offsets=full.offsets * 40, items=np.repeat(full.items, 40))
    common = benchmark_recipe("tiny", often, budget_minutes=1, bfloat16=False)
    assert rare.model.dropout == 0.5
    assert common.model.dropout == 0.2
    assert (rare.model.context, common.model.context) == (50, 200)
    few = with_epochs(rare, full.without_last(4), 8)
    assert (few.model.dropout, few.model.input_dropout, few.training.epochs) == (0.2, 0.2, 8)
    half_way = benchmark_recipe(
        "tiny", full.without_last(4), budget_minutes=1, bfloat16=False, epochs=24
    )
    assert half_way.model.dropout == pytest.approx(0.35)


def test_an_epoch_shows_every_next_item_once_in_long_histories_too(
    shop: tuple[Path, Path],
) -> None:
    encoded = encode(read_interactions(*shop))
    recipe = small_recipe(shop)
    recipe = replace(recipe, model=replace(recipe.model, context=5))
    epoch = SequenceLoader(encoded=encoded, recipe=recipe, seed=0).epoch(0)
    shown = []
    for batch in epoch.from_step(0):
        following = batch.packed.next_BL.flatten()
        rows = torch.full_like(following, -1)
        rows[batch.packed.event_flat] = torch.from_numpy(batch.packed.event_rows)
        shown += rows[following[following >= 0]].tolist()
    first = set(encoded.histories.offsets[:-1].tolist())
    expected = [row for row in range(encoded.histories.num_events) if row not in first]
    assert sorted(shown) == expected


def test_a_part_of_an_epoch_is_drawn_anew_each_time(shop: tuple[Path, Path]) -> None:
    encoded, recipe = encode(read_interactions(*shop)), small_recipe(shop)
    loader = SequenceLoader(encoded=encoded, recipe=recipe, seed=0, share=0.25)
    starts = [np.concatenate([part for part, _ in loader.epoch(epoch).plan]) for epoch in (0, 1, 0)]
    assert len(starts[0]) == NUM_USERS // 4
    assert (starts[0] == starts[2]).all()
    assert set(starts[0]) != set(starts[1])


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5, 6, 7, 300])
def test_the_seconds_of_an_epoch_are_measured_however_few_its_steps(
    num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which the first steps take nine seconds each and all others two."""
    now = 0.0

    def steps() -> Iterator[None]:
        nonlocal now
        for done in range(40 * num_steps):
            now += 9.0 if done < WARM_STEPS else 2.0
            yield

    monkeypatch.setattr("behavior_model.benchmark.shop.time.monotonic", lambda: now)
    loader = SimpleNamespace(epoch=lambda epoch: range(num_steps))
    config = SimpleNamespace(accumulated_batches=1)
    run = SimpleNamespace(loaders=[loader], config=config, steps=steps)
    assert epoch_seconds(cast("TrainingRun", run)) == 2.0 * num_steps


def test_training_is_the_same_twice_and_goes_on_where_it_was_killed(
    shop: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(shop, epochs=4)
    recipe = replace(recipe, training=replace(recipe.training, checkpoint_every_s=0.0))
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    from behavior_model.benchmark import training

    monkeypatch.setattr(training, "LOG_EVERY_STEPS", 1)
    train(job(shop, whole, recipe=recipe))
    saved = []

    def save_and_die(folder: Path, run: object, key: str) -> Path:
        path = original(folder, run, key)  # type: ignore[arg-type]
        saved.append(path)
        if len(saved) == 5:
            raise KeyboardInterrupt
        return path

    original = training.save_checkpoint
    monkeypatch.setattr(training, "save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(job(shop, killed, recipe=recipe))
    monkeypatch.setattr(training, "save_checkpoint", original)
    train(job(shop, killed, recipe=recipe))
    one, two = Outputs.load(whole), Outputs.load(killed)
    assert np.array_equal(one.queries, two.queries)
    assert np.array_equal(one.items, two.items)
    assert steps_of(killed) == steps_of(whole), "a step was made twice: the run began again"


def steps_of(folder: Path) -> list[int]:
    """Steps in the order in which they were logged."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [int(json.loads(line)["step"]) for line in lines]


def test_where_nobody_took_two_things_nothing_is_trained_and_all_is_answered(
    shop: tuple[Path, Path], tmp_path: Path
) -> None:
    one = job(shop, tmp_path, cutoff=BeforeLast(LENGTH - 1))
    train(one)
    outputs = Outputs.load(tmp_path)
    assert np.isfinite(outputs.queries).all()
    assert not one.log_path.exists()
    assert seconds_per_epoch(one) == 0


def moments(path: Path, times: pa.Array, position: list[int] | None = None) -> Interactions:
    columns = {"user_id": ["u"] * len(times), "item_id": list("abcd")[: len(times)]}
    extra = {} if position is None else {"position": position}
    pq.write_table(pa.table({**columns, "event_time": times, **extra}), path)
    return read_interactions(path)


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (pa.array(["9", "10", "100", "11"]), "abdc"),
        (pa.array(["2014-09-30T12:00:00Z", "2014-09-30T13:00:00+02:00"]), "ba"),
        (pa.array(["2015-01-02", "2014-12-31"]).dictionary_encode(), "ba"),
        (pa.array(["2014-09-30T12:00:00.000000002", "2014-09-30 12:00:00.000000001"]), "ba"),
        (pa.array(["2014-09-30 12:00:00.000000002Z", "2014-09-30 12:00:00.000000001+00:00"]), "ba"),
        (pa.array(["1393545600.0", "1.39e9"]), "ba"),
        (pa.array([2.5, 1.5], pa.float16()), "ba"),
        (pa.array([2, 1], pa.date32()), "ba"),
        (pa.array([2, 1], pa.decimal128(5)), "ba"),
        (pa.array([3, 1, 2], pa.uint64()), "bca"),
    ],
)
def test_times_are_read_as_what_they_mean(tmp_path: Path, times: pa.Array, order: str) -> None:
    found = moments(tmp_path / "times.parquet", times)
    assert "".join(found.item_ids[int(i)].as_py() for i in found.items) == order


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (pa.array(["9/30/2014", "1/2/2015"]), "'9/30/2014', which has no order.*ISO 8601"),
        (pa.array(["2014-09-30T12:00:00", "2014-09-30Tnoon"]), "such as '2014-09-30Tnoon'"),
        (pa.array(["2014-09-30", "2014-10-01", "2014-10-01T00:00Z"]), "such as .*00:00Z.*offset"),
        (pa.array([[1], [2]]), "no order in time"),
        (pa.array([True, False]), "no order in time"),
        (pa.array([1.0, float("nan")]), "row 1 has no 'event_time'"),
    ],
)
def test_times_that_have_no_order_are_refused(
    tmp_path: Path, times: pa.Array, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        moments(tmp_path / "times.parquet", times)


def test_ids_that_are_uuids_come_back_as_their_texts(tmp_path: Path) -> None:
    ids = [uuid.UUID(int=number) for number in (2, 1, 1)]
    column = pa.array([one.bytes for one in ids], pa.uuid())
    path = tmp_path / "uuids.parquet"
    pq.write_table(pa.table({"user_id": column, "item_id": column, "position": [0, 1, 2]}), path)
    found = read_interactions(path)
    assert found.user_ids.to_pylist() == found.item_ids.to_pylist() == [str(ids[1]), str(ids[0])]


def test_a_row_that_was_sent_twice_is_no_repeat(tmp_path: Path) -> None:
    """An item that is taken again at another time is one."""
    columns = {"user_id": ["u"] * 4, "item_id": list("abbc")}
    for times, copies in (([1, 2, 2, 3], 1), ([1, 2, 3, 4], 0)):
        path = tmp_path / f"{copies}.parquet"
        pq.write_table(pa.table({**columns, "event_time": times}), path)
        found = read_interactions(path)
        assert found.num_copies == copies
        assert masks_history(found) is bool(copies)
        assert found.num_events == 4


@pytest.mark.parametrize("num_users", [1, 3])
def test_the_cost_of_a_few_users_is_measured_too(shop: tuple[Path, Path], num_users: int) -> None:
    few = read_interactions(*shop).select(np.arange(num_users))
    task = LeaveOneOutTask(history=few)
    assert UserCost.measured(task, HistoryMemories.fit(few, None, None), 8).num_pairs > 0


def test_where_nothing_can_be_learned_what_is_popular_stands_first() -> None:
    table = FeatureTable(
        users=np.zeros(3, dtype=np.int64),
        targets=np.arange(3),
        values=np.asarray([[0.1, 2.0], [0.3, 9.0], [0.2, 5.0]], dtype=np.float32),
        names=(TRANSFORMER, POPULAR),
    )
    mixture = fit_mixture(table, np.asarray([NO_ITEM]))
    assert mixture.name == POPULAR
    assert top_lists(table, mixture.score(table), 1, 3).tolist() == [[1, 2, 0]]


def test_last_interactions_of_one_time_are_counted(tmp_path: Path) -> None:
    assert moments(tmp_path / "tied.parquet", pa.array([1, 2, 2])).share_tied_at_end == 1.0
    assert moments(tmp_path / "clear.parquet", pa.array([1, 1, 2])).share_tied_at_end == 0.0


def test_a_training_is_tied_to_its_cutoff(tmp_path: Path) -> None:
    shop = write_shop(tmp_path, with_times=True)
    cutoffs = (BeforeLast(1), BeforeLast(2), BeforeTime(10), BeforeTime(20))
    jobs = [job(shop, tmp_path, cutoff=cutoff) for cutoff in cutoffs]
    assert len({one.run_key for one in jobs}) == len(jobs)
    assert jobs[2].history().known_times().max() == 9


def test_a_training_is_tied_to_what_its_file_holds(tmp_path: Path) -> None:
    shop = write_shop(tmp_path)
    one = job(shop, tmp_path)
    before, content = one.run_key, shop[0].read_bytes()
    shop[0].write_bytes(content)
    assert one.run_key == before
    shop[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    assert one.run_key != before


def test_model_and_mixture_learn_the_ring(shop: tuple[Path, Path], outputs: list[Outputs]) -> None:
    full = read_interactions(shop[0])
    assert masks_history(full)
    tables = []
    for num_hidden, one in zip((2, 1), outputs, strict=True):
        history = full.without_last(num_hidden)
        task = LeaveOneOutTask(history=history)
        memories = HistoryMemories.fit(history, None, None)
        tables.append(feature_table(task, [one], memories))
    transformer = top_lists(tables[1], tables[1].column("transformer/log_share"), NUM_USERS, 1)
    assert (transformer[:, 0] == full.last()).mean() > 0.9
    mixture = fit_mixture(tables[0], full.last(1))
    lists = top_lists(tables[1], mixture.score(tables[1]), NUM_USERS, 3)
    assert (lists[:, 0] == full.last()).mean() > 0.9
    assert {"linear", "trees", "both", "transformer/log_share"} <= set(mixture.selection)
    assert 0.9 < mixture.reach <= 1
    for user in range(NUM_USERS):
        assert not set(lists[user]) & set(full.without_last().of(user))


@pytest.mark.parametrize(("num_judged", "name"), [(0, POPULAR), (1, "linear")])
def test_with_too_few_users_to_choose_by_the_mixture_is_plain(
    shop: tuple[Path, Path], outputs: list[Outputs], num_judged: int, name: str
) -> None:
    full = read_interactions(shop[0])
    history = full.without_last(2)
    task = LeaveOneOutTask(history=history)
    table = feature_table(task, [outputs[0]], HistoryMemories.fit(history, None, None))
    truth = np.where(np.arange(len(full)) < num_judged, full.last(1), NO_ITEM)
    mixture = fit_mixture(table, truth)
    assert (mixture.name, mixture.selection) == (name, {})
    assert np.isfinite(mixture.score(table)).all()


def test_a_score_that_beats_the_mixtures_stands_alone() -> None:
    num_users, num_candidates = 12, 20
    rng = np.random.default_rng(0)
    noise = [f"noise/{n}" for n in range(40)]
    values = rng.normal(size=(num_users * num_candidates, len(noise) + 1))
    truth = rng.integers(0, num_candidates, num_users)
    targets = np.tile(np.arange(num_candidates), num_users)
    users = np.repeat(np.arange(num_users), num_candidates)
    values[:, 0] += 3.0 * (targets == truth[users])
    table = FeatureTable(users, targets, values.astype(np.float32), ("own/count", *noise))
    mixture = fit_mixture(table, truth)
    assert mixture.name == "own/count"
    assert mixture.selection["own/count"] > mixture.selection["linear"]
    np.testing.assert_array_equal(mixture.score(table), table.column("own/count"))


def test_a_test_item_changes_nothing_that_is_learned(
    shop: tuple[Path, Path], outputs: list[Outputs], tmp_path: Path
) -> None:
    table = pq.read_table(shop[0])
    last = np.asarray(table["position"]) == LENGTH - 1
    items = np.where(last, "i00", np.asarray(table["item_id"].to_pylist()))
    changed = tmp_path / "changed.parquet"
    pq.write_table(table.set_column(1, "item_id", pa.array(items.tolist())), changed)
    train(job((changed, shop[1]), tmp_path / "changed"))
    assert np.array_equal(Outputs.load(tmp_path / "changed").queries, outputs[1].queries)


def test_of_many_own_items_the_ones_taken_often_or_lately_are_candidates() -> None:
    num_items = 400
    order = np.concatenate([np.repeat(np.arange(5), 4), np.arange(num_items)])
    history = Interactions(
        user_ids=pa.array(["u"]),
        item_ids=pa.array(range(num_items)),
        texts=[""] * num_items,
        offsets=np.array([0, len(order)]),
        items=order,
    )
    rng = np.random.default_rng(0)
    blind = Outputs(rng.normal(size=(1, 5)), rng.normal(size=(num_items, 5)))
    task = LeaveOneOutTask(history=history, mask_history=False)
    table = feature_table(task, [blind], HistoryMemories.fit(history, None, None))
    assert len(table) < num_items
    assert set(range(300, num_items)) <= set(table.targets.tolist())
    since = dict(zip(table.targets.tolist(), table.column("own/since").tolist(), strict=True))
    assert since[399] == 0
    assert since[398] == pytest.approx(np.log(2))


def test_where_users_repeat_their_own_items_are_candidates_and_win(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    favourites = np.stack([rng.permutation(NUM_ITEMS)[:2] for _ in range(NUM_USERS)])
    items = favourites[:, rng.integers(0, 2, 6)]
    table = pa.table(
        {
            "user_id": pa.array(np.repeat(np.arange(NUM_USERS), 6)),
            "item_id": pa.array([f"i{one:02d}" for one in items.ravel()]),
            "event_time": pa.array(np.tile(np.arange(6), NUM_USERS)),
        }
    )
    pq.write_table(table, tmp_path / "repeats.parquet")
    full = read_interactions(tmp_path / "repeats.parquet")
    assert not masks_history(full)
    blind = Outputs(
        queries=rng.normal(size=(NUM_USERS, 5)).astype(np.float32),
        items=rng.normal(size=(full.num_items, 5)).astype(np.float32),
        events_per_second=0.0,
    )
    tables = []
    for num_hidden in (2, 1):
        task = LeaveOneOutTask(history=full.without_last(num_hidden), mask_history=False)
        memories = HistoryMemories.fit(task.history, None, None)
        tables.append(feature_table(task, [blind], memories))
    mixture = fit_mixture(tables[0], full.last(1))
    lists = top_lists(tables[1], mixture.score(tables[1]), NUM_USERS, 2)
    hits = (lists == full.last()[:, None]).any(axis=1).mean()
    assert hits > 0.9
