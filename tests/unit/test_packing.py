import numpy as np
import pytest

from behavior_model.model.batch import Segments, lay_out, pack_rows
from behavior_model.training.loader import ShardLoader
from behavior_model.training.segments import draw_segments, join, row_length, shuffle_ties
from pipelines.tokens.binning import DAY_US, PROBE_IDX
from tests.rhythm_shop import CUT_US, WINDOW_US, shop_histories, shop_recipe, shop_vocabulary

HISTORIES = shop_histories(12)


def whole(users: list[int], probe_times: list[int]) -> Segments:
    """One segment per user over the whole history, one probe each."""
    chosen = np.asarray(users)
    return Segments(
        starts=HISTORIES.offsets[chosen],
        stops=HISTORIES.offsets[chosen + 1],
        users=chosen,
        probe_segments=np.arange(len(users)),
        probe_times_us=np.asarray(probe_times),
    )


def test_rows_hold_every_segment_without_overlap() -> None:
    lengths = np.asarray([7, 3, 5, 5, 9, 1, 2])
    rows, columns = pack_rows(lengths, 10)
    taken = np.zeros((rows.max() + 1, 10), dtype=int)
    for row, column, length in zip(rows, columns, lengths, strict=True):
        taken[row, column : column + length] += 1
    assert taken.max() == 1
    assert taken.sum() == lengths.sum()
    assert len(taken) == 4


def test_a_segment_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="11 positions in rows of 10"):
        pack_rows(np.asarray([11]), 10)


def test_probe_stands_behind_the_events_before_it() -> None:
    start, stop = HISTORIES.offsets[0], HISTORIES.offsets[1]
    time = int(HISTORIES.times_us[start + 3]) + 1
    segments = whole([0], [time])
    batch = lay_out(shop_vocabulary(), HISTORIES, segments, int(stop - start) + 1)
    seen = int((HISTORIES.times_us[start:stop] < time).sum())
    place = int(batch.probe_flat[0])
    assert int(batch.order_BL.flatten()[place]) == 2 * seen - 1
    assert bool(batch.probe_BL.flatten()[place])
    assert int(batch.fields_BLF.flatten(0, 1)[place, 0]) == PROBE_IDX


def test_next_event_stays_within_the_segment() -> None:
    segments = whole([0, 1], [CUT_US, CUT_US])
    batch = lay_out(shop_vocabulary(), HISTORIES, segments, int(segments.lengths.sum()))
    following = batch.next_BL.flatten()
    own = batch.segments_BL.flatten()
    positions = np.flatnonzero(following.numpy() >= 0)
    assert (own[positions] == own[following[positions]]).all()
    assert len(positions) == batch.num_events - 2


def test_clocks_run_with_time_alone() -> None:
    segments = whole([2], [CUT_US])
    batch = lay_out(shop_vocabulary(), HISTORIES, segments, int(segments.lengths[0]))
    times = HISTORIES.times_us[batch.event_rows]
    days = batch.clocks_BL2.flatten(0, 1)[batch.event_flat][:, 1].numpy()
    np.testing.assert_allclose(days, (times - times[0]) / DAY_US, atol=1e-3)
    visits = batch.clocks_BL2.flatten(0, 1)[batch.event_flat][:, 0].numpy()
    assert (np.diff(visits) >= 0).all()
    assert ((np.diff(visits) == 0) == (np.diff(times) == 0)).all()


def test_ties_are_shuffled_and_nothing_else_moves() -> None:
    shuffled = shuffle_ties(shop_vocabulary(), HISTORIES, np.random.default_rng(1))
    np.testing.assert_array_equal(shuffled.times_us, HISTORIES.times_us)
    np.testing.assert_array_equal(shuffled.tokens["gap"], HISTORIES.tokens["gap"])
    assert (shuffled.tokens["item"] != HISTORIES.tokens["item"]).any()
    for one in (HISTORIES, shuffled):
        order = np.lexsort((one.tokens["item"], one.times_us, one.user_positions))
        rows = np.stack([one.tokens["item"], one.tokens["amount"], one.event_hashes])[:, order]
        if one is HISTORIES:
            expected = rows
    np.testing.assert_array_equal(rows[:2], expected[:2])


def test_segments_cover_every_event_once() -> None:
    recipe = shop_recipe()
    units = draw_segments(HISTORIES, recipe, CUT_US, np.random.default_rng(0))
    segments = join([part for unit in units for part in unit])
    covered = np.zeros(HISTORIES.num_events, dtype=int)
    for start, stop in zip(segments.starts, segments.stops, strict=True):
        covered[start:stop] += 1
    assert (covered == 1).all()
    assert segments.lengths.max() <= row_length(recipe)
    assert (segments.stops - segments.starts).max() <= recipe.model.context


def test_probes_stand_before_the_cut_and_after_an_event() -> None:
    units = draw_segments(HISTORIES, shop_recipe(), CUT_US, np.random.default_rng(0))
    segments = join([part for unit in units for part in unit])
    assert len(segments.probe_times_us) > 4 * len(HISTORIES)
    assert (segments.probe_times_us < CUT_US).all()
    first = HISTORIES.times_us[segments.starts[segments.probe_segments]]
    assert (segments.probe_times_us > first).all()
    quiet = (
        segments.probe_times_us - HISTORIES.times_us[segments.stops[segments.probe_segments] - 1]
    )
    assert quiet.max() > WINDOW_US, "users who stopped must be asked about in their silence"


def loader(shard: int = 0) -> ShardLoader:
    return ShardLoader(
        vocabulary=shop_vocabulary(),
        histories=HISTORIES,
        recipe=shop_recipe(),
        cut_us=CUT_US,
        window_us=WINDOW_US,
        seed=3,
        shard=shard,
    )


def test_batches_follow_from_seed_epoch_and_shard() -> None:
    first, again = loader().epoch(1).make(0), loader().epoch(1).make(0)
    assert (first.packed.items_BL == again.packed.items_BL).all()
    assert (first.targets.positive == again.targets.positive).all()
    other_epoch, other_shard = loader().epoch(2).make(0), loader(shard=1).epoch(1).make(0)
    for other in (other_epoch, other_shard):
        assert not np.array_equal(first.packed.event_rows, other.packed.event_rows)


def test_batches_from_a_step_are_those_of_the_whole_epoch() -> None:
    batches = loader().epoch(0)
    rest = list(batches.from_step(1))
    assert len(rest) == len(batches) - 1 > 0
    for batch, step in zip(rest, range(1, len(batches)), strict=True):
        np.testing.assert_array_equal(batch.packed.event_rows, batches.make(step).packed.event_rows)
