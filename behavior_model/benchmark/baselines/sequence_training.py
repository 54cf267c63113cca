"""Sequence encoders trained with a sampled softmax, plain PyTorch: what SASRec and GRU4Rec share.

Trained on a user's last items but one, stopped where validation stops rising, then trained again
on all that is known for as many epochs. It shares no code with this platform's own backbone, so
that the baselines are a reference for quality and for speed.
Legend: B rows, L row length, D width, N items (and padding index), K negatives, T next items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import Final, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from behavior_model.benchmark.baselines.ranking import rank_users
from behavior_model.benchmark.baselines.task import Floats, LeaveOneOutTask, Ranked
from behavior_model.benchmark.baselines.tuning import K, mean_ndcg, possible_masks
from behavior_model.benchmark.interactions import Interactions, Longs

NUM_JUDGED_USERS: Final = 5_000
"""Validation users, evenly spaced, that decide when to stop."""


MIN_LENGTH: Final = 50
MAX_LENGTH: Final = 200


def usual_length(history: Interactions) -> int:
    """Interactions that nine in ten users do not exceed, from 50 to 200, as in SASRec's own
    experiments (Kang and McAuley, 2018)."""
    ninth = int(np.quantile(history.lengths, 0.9)) if len(history) else 0
    return min(max(ninth, MIN_LENGTH), MAX_LENGTH)


class SequenceEncoder(nn.Module):
    """Reads left-padded items, gives at each place what the next item should look like.

    From int64[B, L] to float32[B, L, D]; what it gives at padding means nothing.

    Attributes:
        items: float32[N + 1, D], embeddings that are read, and that the next item is found by.
    """

    items: nn.Embedding


class EncoderConfig(Protocol):
    """Size of an encoder."""

    @property
    def length(self) -> int:
        """L, items that are looked at."""

    def build(self, num_items: int) -> SequenceEncoder:
        """An untrained encoder, by torch's own seed."""


@dataclass(frozen=True, kw_only=True)
class SequenceTrainingConfig:
    """How an encoder is trained.

    Args:
        encoder: Its kind and size.
        num_negatives: K, drawn evenly from all items once per step, shared by its rows.
        batch_users: B.
        learning_rate: Of Adam.
        max_epochs: Passes over the users at most,
        max_steps: or steps, where a pass has so few that these are more.
        patience: Epochs without a better validation NDCG@10 before it stops,
        patient_steps: or steps, likewise.
    """

    encoder: EncoderConfig
    num_negatives: int = 256
    batch_users: int = 128
    learning_rate: float = 1e-3
    max_epochs: int = 100
    max_steps: int = 10_000
    patience: int = 5
    patient_steps: int = 500


def rank_trained(
    task: LeaveOneOutTask, k: int, config: SequenceTrainingConfig, *, seed: int
) -> Ranked:
    """Lists of an encoder; `_chosen` decides on validation, in half of the budget."""
    started = perf_counter()
    with torch.random.fork_rng():
        num_epochs, mask = _chosen(task, config, seed)
        training = SequenceTraining(task.history, config, seed)
        for _ in range(num_epochs):
            training.run_epoch()
    knob: dict[str, int] = {"num_epochs": num_epochs}
    if not task.mask_history:
        knob["mask_history"] = mask
    return Ranked(
        lists=training.rank(replace(task, mask_history=mask), k),
        seconds=perf_counter() - started,
        knob=knob,
        train_events_per_second=training.num_events / max(training.seconds, 1e-9),
    )


def _chosen(task: LeaveOneOutTask, config: SequenceTrainingConfig, seed: int) -> tuple[int, bool]:
    """Number of epochs, and whether own items are left out where users take things twice."""
    stop_s = perf_counter() + task.budget_s / 2
    judged = np.flatnonzero(task.validation_truth >= 0)
    judged = judged[:: max(len(judged) // NUM_JUDGED_USERS, 1)]
    earlier = task.validation()
    sample = replace(earlier, history=earlier.history.select(judged))
    training = SequenceTraining(earlier.history, config, seed)
    steps = -(-max(len(earlier.history), 1) // config.batch_users)
    patience = max(config.patience, config.patient_steps // steps)
    max_epochs = max(config.max_epochs, config.max_steps // steps)
    samples = [replace(sample, mask_history=mask) for mask in possible_masks(task)]
    truth = task.validation_truth[judged]
    found: list[list[float]] = []
    while len(found) < max_epochs and (not found or perf_counter() < stop_s):
        training.run_epoch()
        found.append([mean_ndcg(training.rank(one, K), truth) for one in samples])
        if len(found) - int(np.argmax(np.max(found, axis=1))) > patience:
            break
    epoch, place = np.unravel_index(np.argmax(found), np.shape(found))
    return int(epoch) + 1, samples[int(place)].mask_history


class SequenceTraining:
    """A model in training on a history.

    Attributes:
        num_events: Next items learned so far, all epochs together.
        seconds: Wall time of the steps so far.
    """

    def __init__(self, history: Interactions, config: SequenceTrainingConfig, seed: int) -> None:
        torch.manual_seed(seed)
        self.num_events = 0
        self.seconds = 0.0
        self._history = history
        self._config = config
        self._model = config.encoder.build(history.num_items)
        self._optimiser = torch.optim.Adam(
            self._model.parameters(), config.learning_rate, betas=(0.9, 0.98), fused=True
        )

    def run_epoch(self) -> None:
        """One pass over the users with something to predict, in a fresh order."""
        started = perf_counter()
        self._model.train()
        users = np.flatnonzero(self._history.lengths > 1)
        users = users[torch.randperm(len(users)).numpy()]
        for start in range(0, len(users), self._config.batch_users):
            self._step(users[start : start + self._config.batch_users])
        self.seconds += perf_counter() - started

    def rank(self, task: LeaveOneOutTask, k: int) -> Longs:
        """int64[U, k] for the users of a task over the same items."""
        self._model.eval()
        length = self._config.encoder.length

        @torch.inference_mode()
        def score(users: slice) -> Floats:
            rows_BL = padded_rows(task.history, np.arange(users.start, users.stop), length)
            last_BD = self._model(rows_BL)[:, -1]
            scores_BN = last_BD @ self._model.items.weight[: task.history.num_items].T
            return np.asarray(scores_BN.numpy())

        return rank_users(task, k, score)

    def _step(self, users: Longs) -> None:
        rows = padded_rows(self._history, users, self._config.encoder.length + 1)
        inputs_BL, targets_BL = rows[:, :-1], rows[:, 1:]
        present_BL = inputs_BL != self._history.num_items
        hidden_TD = self._model(inputs_BL)[present_BL]
        targets_T = targets_BL[present_BL]
        negatives_K = torch.randint(self._history.num_items, (self._config.num_negatives,))
        loss = sampled_softmax_loss(self._model, hidden_TD, targets_T, negatives_K)
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self.num_events += len(targets_T)


def sampled_softmax_loss(
    model: SequenceEncoder, hidden_TD: Tensor, targets_T: Tensor, negatives_K: Tensor
) -> Tensor:
    """Mean of -log p(target) among the target and the negatives; a drawn target is no negative."""
    positive_T1 = (hidden_TD * model.items(targets_T)).sum(dim=-1, keepdim=True)
    negative_TK = hidden_TD @ model.items(negatives_K).T
    negative_TK = negative_TK.masked_fill(targets_T[:, None] == negatives_K, float("-inf"))
    logits_TC = torch.cat([positive_T1, negative_TK], dim=1)
    return F.cross_entropy(logits_TC, torch.zeros_like(targets_T))


def padded_rows(history: Interactions, users: Longs, length: int) -> Tensor:
    """int64[B, L]: the last items of each user at the right, N to the left of them."""
    places = history.offsets[users + 1, None] - np.arange(length, 0, -1)
    present = places >= history.offsets[users, None]
    items = history.items[np.where(present, places, 0)] if history.num_events else places
    return torch.from_numpy(np.where(present, items, history.num_items))
