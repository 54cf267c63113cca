"""Pretraining of a small company in the process that is asked, without Ray."""

from __future__ import annotations

import torch

from behavior_model.training.ray_trainer import left_out, shard_of
from behavior_model.training.worker import PretrainingJob, Rank, run_worker
from pipelines import lake
from pipelines.erasure import without_digests
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary


def fit_alone(job: PretrainingJob) -> None:
    """Run the job to the end, as one Ray worker that owns all shards would."""
    vocabulary = Vocabulary.load(job.workspace.vocabulary_path)
    vocabulary.require(job.vocabulary_id, "the job")
    histories = _customers(job, vocabulary)
    shards = [shard_of(user, job.num_shards) for user in histories.user_ids]
    positions: dict[int, list[int]] = {shard: [] for shard in range(job.num_shards)}
    for position, shard in enumerate(shards):
        positions[shard].append(position)
    threads = torch.get_num_threads()
    try:
        own = {shard: histories.select(rows) for shard, rows in positions.items()}
        run_worker(job, vocabulary, own, Rank())
    finally:
        torch.set_num_threads(threads)


def _customers(job: PretrainingJob, vocabulary: Vocabulary) -> Histories:
    """All whom training does not leave out, in order of id, cut at the training cut."""
    flagged, erased = left_out(job.workspace)
    histories = lake.read_histories(job.workspace, vocabulary, job.cut_us)
    users = without_digests(histories.user_ids, erased)
    return histories.only([user for user in users if user not in flagged])
