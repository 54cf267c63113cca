"""The user-task head on a shop where every fourth user stops coming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from behavior_model.heads.learners import fit_mixture
from behavior_model.heads.user_inputs import InputKind, LabelledRows, UserInputs, user_inputs
from behavior_model.heads.user_task import UserTaskHead, fit_rows, fold_of, out_of_fold
from behavior_model.metrics import auc
from behavior_model.tasks import get_user_task
from behavior_model.user_features import FREQUENCY, RECENCY, user_features
from pipelines.contracts import PURCHASE
from pipelines.errors import BundleError, UserError, VocabularyMismatchError
from pipelines.tokens.binning import DAY_US
from pipelines.tokens.history import Histories
from pipelines.tokens.selection import is_event_type
from tests import small_shop
from tests.rhythm_shop import CUT_US, WINDOW_US, shop_histories, shop_vocabulary

NUM_USERS = 120
TIMES = tuple(CUT_US - i * WINDOW_US for i in (2, 3, 4))


def rows_at(histories: Histories, times: tuple[int, ...]) -> LabelledRows:
    parts, labels, users, positions = [], [], [], []
    for position, time in enumerate(times):
        past = histories.before(time)
        ahead = (histories.times_us >= time) & (histories.times_us < time + WINDOW_US)
        bought = np.bincount(histories.user_positions[ahead], minlength=len(histories))
        at = np.full(len(past), time)
        parts.append(user_inputs(shop_vocabulary(), past, None, at, InputKind.STATISTICS))
        labels.append((bought == 0).astype(float))
        users += past.user_ids
        positions.append(np.full(len(past), position))
    return LabelledRows(
        inputs=UserInputs.join(parts),
        labels=np.concatenate(labels),
        user_ids=users,
        times=np.concatenate(positions),
    )


@pytest.fixture(scope="module")
def histories() -> Histories:
    return shop_histories(NUM_USERS)


@pytest.fixture(scope="module")
def head(histories: Histories) -> UserTaskHead:
    rows = rows_at(histories, TIMES)
    return fit_rows(rows, get_user_task("churn"), InputKind.STATISTICS, shop_vocabulary(), seed=0)


def test_who_stopped_is_found(head: UserTaskHead, histories: Histories) -> None:
    now = CUT_US - WINDOW_US
    labels = rows_at(histories, (now,)).labels
    answer = head.predict(histories.before(now), None, now)
    assert auc(labels, answer.scores) > 0.95
    assert ((answer.lowers <= answer.scores) & (answer.scores <= answer.uppers)).all()
    assert ((answer.familiarities >= 0) & (answer.familiarities <= 1)).all()


def test_the_future_changes_nothing(head: UserTaskHead, histories: Histories) -> None:
    now = CUT_US - WINDOW_US
    cut = head.predict(histories.before(now), None, now)
    features = user_features(shop_vocabulary(), histories.before(now), np.full(NUM_USERS, now))
    longer = shop_histories(NUM_USERS).before(now + 7 * DAY_US).before(now)
    again = user_features(shop_vocabulary(), longer, np.full(NUM_USERS, now))
    np.testing.assert_array_equal(features[RECENCY], again[RECENCY])
    np.testing.assert_array_equal(head.predict(longer, None, now).scores, cut.scores)


def test_a_new_purchase_lowers_the_score(head: UserTaskHead, histories: Histories) -> None:
    """The same users a day after the last purchase, and five weeks after it."""
    last = histories.last_times_us
    soon = head.predict(histories, None, last + DAY_US).scores
    late = head.predict(histories, None, last + 35 * DAY_US).scores
    assert (soon <= late).all()
    assert late.mean() > soon.mean() + 0.1
    assert soon.min() > 0


def test_too_few_users_are_refused(histories: Histories) -> None:
    rows = rows_at(histories.select([0, 1]), TIMES)
    with pytest.raises(UserError, match="too few"):
        fit_rows(rows, get_user_task("churn"), InputKind.STATISTICS, shop_vocabulary(), seed=0)


def test_one_class_gives_its_smoothed_rate(histories: Histories) -> None:
    rows = rows_at(histories, TIMES)
    rows = LabelledRows(
        inputs=rows.inputs,
        labels=np.zeros(len(rows.labels)),
        user_ids=rows.user_ids,
        times=rows.times,
    )
    task = get_user_task("churn")
    head = fit_rows(rows, task, InputKind.STATISTICS, shop_vocabulary(), seed=0)
    assert (head.predict(histories.before(CUT_US), None, CUT_US).scores < 0.02).all()


def test_states_are_asked_for_where_they_are_needed(histories: Histories) -> None:
    at = np.full(NUM_USERS, CUT_US)
    with pytest.raises(ValueError, match="none came"):
        user_inputs(shop_vocabulary(), histories, None, at, InputKind.FUSED)


def test_missing_and_foreign_files_are_refused(head: UserTaskHead, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bfm heads"):
        UserTaskHead.load(tmp_path, shop_vocabulary())
    head.save(tmp_path)
    with pytest.raises(VocabularyMismatchError):
        UserTaskHead.load(tmp_path, small_shop.vocabulary())


def test_nothing_is_pickled(head: UserTaskHead, tmp_path: Path) -> None:
    head.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".txt"}


def test_what_is_mixed_has_seen_neither_the_user_nor_the_newest_window(
    histories: Histories,
) -> None:
    rows = rows_at(histories, TIMES)
    folds, newest = fold_of(rows.user_ids), rows.times == 0

    def foretold(labels: np.ndarray) -> np.ndarray:
        found = out_of_fold(rows.inputs, labels, folds, binary=True, seed=0, taught=~newest)
        return found[newest & (folds == 1)]

    plain = foretold(rows.labels)
    for unseen in (newest, folds == 1):
        flipped = np.where(unseen, 1.0 - rows.labels, rows.labels)
        np.testing.assert_array_equal(foretold(flipped), plain)
    others = np.where(~newest & (folds != 1), 1.0 - rows.labels, rows.labels)
    assert (foretold(others) != plain).any()


def test_where_older_windows_show_one_outcome_the_newest_teaches_too(
    histories: Histories,
) -> None:
    rows = rows_at(histories, TIMES)
    labels = np.where(rows.times == 0, rows.labels, 0.0)
    task = get_user_task("churn")
    one = replace(rows, labels=labels)
    head = fit_rows(one, task, InputKind.STATISTICS, shop_vocabulary(), seed=0)
    now = TIMES[0]
    scores = head.predict(histories.before(now), None, now).scores
    assert auc(labels[rows.times == 0], scores) > 0.9


def test_a_user_stays_in_one_fold() -> None:
    assert (fold_of(["ada", "bob", "ada"])[[0]] == fold_of(["ada"])).all()
    assert len(np.unique(fold_of([f"user-{i}" for i in range(200)]))) == 5


def test_the_mixture_leaves_out_a_learner_that_only_guesses() -> None:
    generator = np.random.default_rng(0)
    good = generator.normal(size=2_000)
    labels = (generator.random(2_000) < 1 / (1 + np.exp(-2 * good))).astype(float)
    raw = np.stack([2 * good, generator.normal(size=2_000)], axis=1)
    weights = fit_mixture(raw, labels, binary=True)
    assert weights[0] > 0.7
    assert 0 <= weights[1] < 0.15


def test_features_by_hand() -> None:
    now = np.full(3, small_shop.AS_OF_US)
    features = user_features(small_shop.vocabulary(), small_shop.histories(4), now)
    np.testing.assert_allclose(features[RECENCY], [1 + 0 / 24, 1 + 1 / 24, 1 + 2 / 24], atol=1e-6)
    assert features[FREQUENCY].tolist() == [4.0, 4.0, 4.0]
    assert features["amount_7"].tolist() == [10.0, 10.0, 10.0]
    np.testing.assert_allclose(features["gap_mean"], 1.0)
    assert features["baskets_period_1"].tolist() == [0.0, 0.0, 0.0]


def test_a_user_without_events_has_features_too() -> None:
    empty = small_shop.histories().before(0)
    features = user_features(small_shop.vocabulary(), empty, np.full(3, small_shop.AS_OF_US))
    assert np.isnan(features[RECENCY]).all()
    assert features[FREQUENCY].tolist() == [0.0, 0.0, 0.0]


def test_steadiness_and_sizes_of_baskets_agree_with_loops() -> None:
    """Beside a plain loop over each user's baskets, at a time when periods differ."""
    users = shop_histories(12)
    features = user_features(shop_vocabulary(), users, np.full(12, CUT_US))
    for user in range(12):
        one = users.select([user])
        bought = is_event_type(shop_vocabulary(), one, PURCHASE)
        baskets: dict[int, float] = {}
        for time, amount in zip(one.times_us[bought], one.amounts[bought], strict=True):
            baskets[int(time)] = baskets.get(int(time), 0.0) + float(amount)
        ages = {time: (CUT_US - time) / DAY_US for time in baskets}
        sizes = [baskets[time] for time in sorted(baskets)]
        sums = {d: sum(v for t, v in baskets.items() if ages[t] <= d) for d in (28, 56, 84)}
        periods = [sums[28], sums[56] - sums[28], sums[84] - sums[56]]
        expected = {
            "basket_last": sizes[-1],
            "basket_largest": max(sizes),
            "basket_deviation": np.std(sizes),
            "amount_share_28_of_84": sums[28] / sums[84] if sums[84] else np.nan,
            "amount_variation": np.std(periods) / np.mean(periods) if sums[84] else np.nan,
        }
        got = {name: features[name][user] for name in expected}
        assert got == pytest.approx(expected, nan_ok=True, rel=1e-5), user
