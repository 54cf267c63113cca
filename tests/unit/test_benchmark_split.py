"""How a benchmark divides histories: what is known at a cut, and which item is the true one."""

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import NO_ITEM, Interactions
from behavior_model.benchmark.sequences import encode
from behavior_model.benchmark.split import leave_one_out, time_split
from pipelines.errors import SourceError, UserError

DAYS = {"ada": (1, 2, 7, 8, 10), "bob": (3, 4), "cleo": (9, 10), "dan": (5, 9, 10), "eve": (6, 8)}
"""Days on which each user took something: fourteen interactions."""


def write(folder: Path, days: dict[str, tuple[int, ...]], **columns: list[object]) -> Path:
    """Interactions in the order given; every one is with an item of its own."""
    rows = [(user, day) for user, taken in days.items() for day in taken]
    table = {
        "user_id": [user for user, _ in rows],
        "item_id": [f"i{row:02d}" for row in range(len(rows))],
        "event_time": [day for _, day in rows],
    }
    path = folder / f"{len(list(folder.iterdir()))}.parquet"
    pq.write_table(pa.table({**table, **columns}), path)
    return path


def names(full: Interactions, items: np.ndarray) -> list[str | None]:
    ids = full.item_ids.to_pylist()
    return [None if item == NO_ITEM else ids[item] for item in items]


@pytest.fixture
def full(tmp_path: Path) -> Interactions:
    return read_interactions(write(tmp_path, DAYS))


class TestTimeSplit:
    def test_one_cut_for_all_with_ties_after_it(self, full: Interactions) -> None:
        # A tenth of fourteen is one, on day 10, and so are two others; a tenth of the eleven
        # before is one, on day 9, and so is another.
        split = time_split(full, test_share=0.1)
        assert split.cut == "10"
        assert sorted(split.test.history.known_times()) == [1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9]
        assert sorted(split.validation.history.known_times()) == [1, 2, 3, 4, 5, 6, 7, 8, 8]

    def test_the_first_item_from_the_cut_on_is_the_true_one(self, full: Interactions) -> None:
        # A quarter of fourteen are four, the first of them on day 9: Bob and Eve have no
        # interaction from then on, Cleo has none before.
        split = time_split(full, test_share=0.25)
        assert names(full, split.test.truth) == ["i04", None, None, "i10", None]
        assert split.test.judged.tolist() == [True, False, False, True, False]
        assert str(split.test) == (
            "test: 2 users judged; left out: 1 without history before the cut, "
            "2 with nothing to find after it"
        )

    def test_the_validation_item_comes_before_the_test(self, full: Interactions) -> None:
        split = time_split(full, test_share=0.25)
        # Two of the nine before day 9 are on day 8, Ada's and Eve's.
        assert names(full, split.validation.truth) == ["i03", None, None, None, "i13"]
        assert split.validation.history.num_events == 7

    def test_the_first_row_of_the_file_wins_among_items_of_one_time(self, tmp_path: Path) -> None:
        days = {"ada": (1, 2, 9, 9, 9), "bob": (1, 2, 3, 3, 9)}
        tied = read_interactions(write(tmp_path, days))
        split = time_split(tied, test_share=0.3)
        assert names(tied, split.test.truth) == ["i02", "i09"]
        assert names(tied, split.validation.truth) == [None, "i07"]

    def test_nothing_from_the_cut_on_changes_what_is_known(
        self, full: Interactions, tmp_path: Path
    ) -> None:
        rows = [day for taken in DAYS.values() for day in taken]
        items = [f"i{row:02d}" if day < 9 else "i00" for row, day in enumerate(rows)]
        items_path = tmp_path / "items.parquet"
        ids = full.item_ids.to_pylist()
        pq.write_table(pa.table({"item_id": ids, "text": ids}), items_path)
        changed = read_interactions(write(tmp_path, DAYS, item_id=items), items_path)
        before, after = (time_split(one, test_share=0.25) for one in (full, changed))
        assert not np.array_equal(before.test.truth, after.test.truth)
        np.testing.assert_array_equal(before.validation.truth, after.validation.truth)
        for one, other in ((before.test, after.test), (before.validation, after.validation)):
            np.testing.assert_array_equal(one.history.items, other.history.items)
            np.testing.assert_array_equal(one.history.offsets, other.history.offsets)
            one_encoded, other_encoded = encode(one.history), encode(other.history)
            assert one_encoded.vocabulary == other_encoded.vocabulary

    def test_a_file_without_times_is_sent_to_leave_one_out(self, tmp_path: Path) -> None:
        path = write(tmp_path, DAYS)
        table = pq.read_table(path).rename_columns(["user_id", "item_id", "position"])
        pq.write_table(table, path)
        message = "no 'event_time', only 'position'.*`bfm bench leave-one-out`"
        with pytest.raises(SourceError, match=message):
            time_split(read_interactions(path), test_share=0.1)

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 7.0, float("nan")])
    def test_a_share_outside_of_0_and_1_is_refused(self, full: Interactions, share: float) -> None:
        with pytest.raises(UserError, match=r"--test-share .*between 0 and 1"):
            time_split(full, test_share=share)

    def test_a_cut_that_leaves_nobody_to_judge_is_refused(self, tmp_path: Path) -> None:
        at_once = read_interactions(write(tmp_path, {"ada": (1, 1, 1), "bob": (1,)}))
        with pytest.raises(SourceError, match="The test begins at 1, and no user"):
            time_split(at_once, test_share=0.1)
        strangers = read_interactions(write(tmp_path, {"ada": (1, 2), "bob": (3, 4)}))
        with pytest.raises(SourceError, match="The validation begins at 3, and no user"):
            time_split(strangers, test_share=0.1)

    def test_times_keep_their_type_and_texts_become_times(self, tmp_path: Path) -> None:
        start = datetime(2024, 1, 1, tzinfo=UTC)
        days = [start + timedelta(days=day) for taken in DAYS.values() for day in taken]
        moment = "2024-01-10T00:00:00.000000"
        kinds = [
            (moment, pa.array(days, pa.timestamp("us", "UTC"))),
            ("2024-01-10", pa.array([day.date() for day in days], pa.date32())),
            (moment, pa.array([f"{day:%Y-%m-%d %H:%M}" for day in days])),
        ]
        for cut, event_time in kinds:
            dated = read_interactions(write(tmp_path, DAYS, event_time=event_time))
            split = time_split(dated, test_share=0.25)
            assert split.cut == cut
            assert split.test.history.num_events == 9
            cutoff = pickle.loads(pickle.dumps(split.test.cutoff))
            assert repr(cutoff) == repr(split.test.cutoff)
            assert cutoff.history(dated).num_events == 9


def test_leave_one_out_takes_the_last_two_of_who_has_three(full: Interactions) -> None:
    split = leave_one_out(full)
    assert names(full, split.test.truth) == ["i04", "i06", "i08", "i11", "i13"]
    assert names(full, split.validation.truth) == ["i03", None, None, "i10", None]
    assert split.test.history.lengths.tolist() == [4, 1, 1, 2, 1]
    assert split.validation.history.lengths.tolist() == [3, 1, 1, 1, 1]
    assert split.test.judged.all()


def of_lengths(lengths: list[int]) -> Interactions:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Interactions(
        user_ids=pa.array(range(len(lengths))),
        item_ids=pa.array(range(50)),
        texts=[""] * 50,
        offsets=offsets,
        items=np.random.default_rng(0).integers(0, 50, offsets[-1]),
    )


def test_short_histories_keep_most_of_what_is_known_at_validation() -> None:
    """Of three interactions each, hiding two from everybody would leave no pair to learn from."""
    short = of_lengths([3] * 3_000 + [1] * 50 + [2] * 50)
    split = leave_one_out(short)
    judged, known = split.validation.judged, split.validation.history
    assert known.num_events > 0.75 * split.test.history.num_events
    assert 1_000 < judged.sum() < 1_400  # a fifth of 6,050
    assert (known.lengths[judged] == 1).all()
    assert (known.lengths[:3_000][~judged[:3_000]] == 2).all()
    assert not judged[3_000:].any()
    assert (split.validation.truth[judged] == short.last(1)[judged]).all()
    assert (split.test.truth == short.last()).all()
    cutoff = pickle.loads(pickle.dumps(split.validation.cutoff))
    assert (cutoff.history(short).items == known.items).all()


def test_of_two_interactions_validation_hides_one_alone() -> None:
    """Nothing would be known of such users there, and a mixture would learn from that."""
    split = leave_one_out(of_lengths([30] * 300 + [2] * 5_000))
    judged, known = split.validation.judged, split.validation.history
    assert judged[:300].all()
    assert not judged[300:].any()
    assert (known.lengths[:300] == 28).all()
    assert (known.lengths[300:] == 1).all()
    nobody = leave_one_out(of_lengths([2] * 300)).validation
    assert not nobody.judged.any()
    assert (nobody.history.lengths == 1).all()


def test_long_histories_are_all_judged_at_validation() -> None:
    split = leave_one_out(of_lengths([9] * 500))
    assert split.validation.judged.all()
    assert repr(split.validation.cutoff) == "BeforeLast(num=2)"


def test_a_user_of_one_interaction_is_judged_on_it_alone() -> None:
    one = Interactions(
        user_ids=pa.array(["ada"]),
        item_ids=pa.array(["a"]),
        texts=[""],
        offsets=np.array([0, 1]),
        items=np.array([0]),
    )
    split = leave_one_out(one)
    assert split.test.truth.tolist() == [0]
    assert split.validation.truth.tolist() == [NO_ITEM]
