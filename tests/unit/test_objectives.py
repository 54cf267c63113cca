from dataclasses import replace

import numpy as np
import pytest
import torch

from behavior_model.model.batch import Segments, lay_out
from behavior_model.model.dropout import dropout
from behavior_model.model.window_head import EVENT_TIME_EDGES_DAYS, WindowPrediction
from behavior_model.objectives.contrastive import ContrastiveObjective, segment_means
from behavior_model.objectives.sampled_softmax import (
    Hits,
    Negatives,
    NegativeSampler,
    log_partition,
    negative_hits,
    sampled_softmax,
)
from behavior_model.objectives.targets import WindowLabeller, WindowTargets, count_bins
from behavior_model.objectives.window_ahead import time_to_event_loss
from pipelines.tokens.binning import DAY_US, FIRST_IDX
from tests.rhythm_shop import CUT_US, NUM_ITEMS, WINDOW_US, shop_histories, shop_vocabulary

HISTORIES = shop_histories(8)
NO_WEIGHTS = torch.zeros(NUM_ITEMS)


def full_set() -> Negatives:
    """Every item once, each standing for itself."""
    items = torch.arange(FIRST_IDX, FIRST_IDX + NUM_ITEMS)
    return Negatives(items_K=items, log_weights_K=torch.zeros(NUM_ITEMS))


def scored(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and negatives whose products are these logits; biases are 0."""
    ones, zeros = torch.ones(len(logits), 1), torch.zeros(logits.shape[1], 1)
    return torch.cat([logits, ones], dim=1), torch.cat([torch.eye(logits.shape[1]), zeros], dim=1)


def test_with_every_item_as_negative_the_softmax_is_exact() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, NUM_ITEMS)
    targets = torch.randint(0, NUM_ITEMS, (6,))
    rows = torch.arange(6)
    hits = negative_hits(rows, targets + FIRST_IDX, full_set())
    loss = sampled_softmax(logits[rows, targets], rows, *scored(logits), NO_WEIGHTS, hits)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, targets))


def test_sampled_softmax_estimates_the_full_one() -> None:
    vocabulary = shop_vocabulary()
    torch.manual_seed(0)
    scores = torch.randn(1, FIRST_IDX + NUM_ITEMS)
    target = torch.tensor([FIRST_IDX + 5])
    rows = torch.zeros(1, dtype=torch.int64)
    exact = torch.logsumexp(scores[0, FIRST_IDX:], 0) - scores[0, target[0]]
    sampler = NegativeSampler(vocabulary, 512)
    losses = []
    for _ in range(50):
        negatives = sampler.draw()
        losses.append(
            sampled_softmax(
                scores[0, target],
                rows,
                *scored(scores[:, negatives.items_K]),
                negatives.log_weights_K,
                negative_hits(rows, target, negatives),
            )
        )
    assert float(torch.stack(losses).mean()) == pytest.approx(float(exact), abs=0.02)


def test_siblings_of_one_row_do_not_compete() -> None:
    rows = torch.tensor([0, 0])
    items = torch.tensor([FIRST_IDX, FIRST_IDX + 1])
    logits = torch.full((1, NUM_ITEMS), -50.0)
    logits[0, :2] = 5.0
    hits = negative_hits(rows, items, full_set())
    loss = sampled_softmax(torch.tensor([5.0, 5.0]), rows, *scored(logits), NO_WEIGHTS, hits)
    assert float(loss) < 1e-6


def test_no_positives_give_a_loss_of_zero() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    hits = Hits(rows=nothing, columns=nothing)
    loss = sampled_softmax(
        torch.zeros(0), nothing, *scored(torch.zeros(2, NUM_ITEMS)), NO_WEIGHTS, hits
    )
    assert float(loss) == 0.0


def test_the_partition_and_its_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    query, items = torch.randn(600, 5), torch.randn(NUM_ITEMS, 5)
    biases = torch.randn(NUM_ITEMS)
    rows, columns = torch.nonzero(torch.rand(600, NUM_ITEMS) < 0.1, as_tuple=True)
    inputs = [one.requires_grad_() for one in (query, items, biases)]
    weights = torch.randn(600)
    found = log_partition(query, items, biases, Hits(rows=rows, columns=columns))
    logits = query @ items.T + biases
    logits = logits.index_put((rows, columns), torch.tensor(float("-inf")))
    expected = torch.logsumexp(logits, dim=1)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_a_row_with_hits_alone_has_an_empty_partition() -> None:
    query = torch.zeros(1, 2, requires_grad=True)
    every = torch.arange(NUM_ITEMS)
    hits = Hits(rows=torch.zeros_like(every), columns=every)
    positives = query.sum().expand(NUM_ITEMS)
    negatives = torch.zeros(NUM_ITEMS, 2)
    loss = sampled_softmax(positives, torch.zeros_like(every), query, negatives, NO_WEIGHTS, hits)
    (gradient,) = torch.autograd.grad(loss, query)
    assert loss.item() == 0.0
    assert bool(torch.isfinite(gradient).all())


def test_dropout_zeroes_its_share_keeps_the_mean_and_follows_the_seed() -> None:
    x = torch.ones(100, 1_001)
    torch.manual_seed(3)
    dropped = dropout(x, 0.25, True)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)
    torch.manual_seed(3)
    assert torch.equal(dropped, dropout(x, 0.25, True))
    assert not torch.equal(dropped, dropout(x, 0.25, True))
    assert torch.equal(x, dropout(x, 0.25, False))


def label(user: int, time_us: int) -> WindowTargets:
    labeller = WindowLabeller(shop_vocabulary(), HISTORIES, CUT_US, WINDOW_US)
    return labeller.label(np.asarray([user]), np.asarray([time_us]), np.random.default_rng(0))


@pytest.mark.parametrize("user", range(8))
def test_window_labels_are_what_the_history_says(user: int) -> None:
    time = CUT_US - 60 * DAY_US
    targets = label(user, time)
    own = slice(HISTORIES.offsets[user], HISTORIES.offsets[user + 1])
    times = HISTORIES.times_us[own]
    inside = (times >= time) & (times < time + WINDOW_US)
    items = HISTORIES.tokens["item"][own][inside]
    assert set(targets.items.tolist()) == set(items.tolist())
    categories = set(((items - FIRST_IDX) % 4).tolist())
    assert set(torch.nonzero(targets.categories_PC[0]).flatten().tolist()) == categories
    assert int(targets.activity["purchases"][0]) == int(count_bins(np.asarray([inside.sum()]))[0])
    sessions = len(np.unique(times[inside]))
    assert int(targets.activity["sessions"][0]) == int(count_bins(np.asarray([sessions]))[0])


def test_a_window_past_the_cut_is_no_label() -> None:
    targets = label(0, CUT_US - WINDOW_US + 1)
    assert not bool(targets.valid_P[0])
    assert len(targets.items) == 0
    assert bool(label(0, CUT_US - WINDOW_US).valid_P[0])


def test_silence_up_to_the_cut_is_censored() -> None:
    stopped = 3
    last = int(HISTORIES.last_times_us[stopped])
    targets = label(stopped, last + 1)
    assert bool(targets.censored_P[0])
    waited = (CUT_US - last - 1) / DAY_US
    expected = int(np.searchsorted(EVENT_TIME_EDGES_DAYS, waited, side="right"))
    assert int(targets.event_bin_P[0]) == expected


def test_hazard_likelihood_by_hand() -> None:
    chance = torch.tensor([[0.2, 0.5, 0.7]])
    logits = torch.logit(chance)
    prediction = WindowPrediction(
        item_query_PD=torch.zeros(1, 1),
        category_logits_PC=torch.zeros(1, 1),
        activity={},
        hazard_logits=logits,
    )
    happened = replace(
        label(0, CUT_US - 60 * DAY_US),
        event_bin_P=torch.tensor([1]),
        censored_P=torch.tensor([False]),
    )
    loss = time_to_event_loss(prediction, happened)
    assert float(loss) == pytest.approx(-np.log(0.8 * 0.5), rel=1e-5)
    censored = replace(happened, censored_P=torch.tensor([True]))
    assert float(time_to_event_loss(prediction, censored)) == pytest.approx(-np.log(0.8), rel=1e-5)


def test_count_bins_are_zero_then_octaves() -> None:
    np.testing.assert_array_equal(
        count_bins(np.asarray([0, 1, 2, 3, 4, 7, 8, 10**9])), [0, 1, 2, 2, 3, 3, 4, 11]
    )


def two_slices_each() -> Segments:
    """The histories of two users, each cut in half."""
    starts, stops, users = [], [], []
    for user in (0, 1):
        low, high = int(HISTORIES.offsets[user]), int(HISTORIES.offsets[user + 1])
        middle = (low + high) // 2
        starts += [low, middle]
        stops += [middle, high]
        users += [user, user]
    return Segments(
        starts=np.asarray(starts),
        stops=np.asarray(stops),
        users=np.asarray(users),
        probe_segments=np.zeros(0, dtype=np.int64),
        probe_times_us=np.zeros(0, dtype=np.int64),
    )


def test_contrastive_loss_rewards_alike_slices_of_one_user() -> None:
    segments = two_slices_each()
    batch = lay_out(shop_vocabulary(), HISTORIES, segments, int(segments.lengths.max()))
    objective = ContrastiveObjective(4)
    torch.nn.init.eye_(objective.project.weight)
    torch.nn.init.zeros_(objective.project.bias)
    segment_of = batch.segments_BL - 1

    def loss(direction_of_segment: list[int]) -> float:
        states = torch.eye(4)[torch.tensor(direction_of_segment)][segment_of.clamp(min=0)]
        return float(objective(states, batch).detach())

    assert loss([0, 0, 1, 1]) < 0.01
    assert loss([0, 1, 0, 1]) > 5.0


def test_segment_means_leave_other_segments_out() -> None:
    segments = two_slices_each()
    batch = lay_out(shop_vocabulary(), HISTORIES, segments, int(segments.lengths.sum()))
    states = batch.segments_BL.float().unsqueeze(-1)
    means, counts = segment_means(states, batch)
    torch.testing.assert_close(means[:, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(counts.numpy(), segments.stops - segments.starts)
