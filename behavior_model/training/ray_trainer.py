"""Pretraining on Ray Train: workers read their own shards of users through Ray Data.

Ray keeps the processes alive and joined; place and weights of a run lie in the workspace's own
checkpoints, so that a worker that dies and a command that was killed resume alike.
"""

from __future__ import annotations

import logging
import shutil
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa
import torch
import torch.distributed as dist

from behavior_model.training.group import rank_in_group
from behavior_model.training.processes import Sharding
from behavior_model.training.ray_session import quiet_ray_data
from behavior_model.training.worker import PretrainingJob, run_worker
from pipelines import lake
from pipelines.contracts import TOKEN_SEQUENCES, USER_ID
from pipelines.erasure import suppressed_digests, without_users
from pipelines.tokens.generations import Generations
from pipelines.tokens.history import Histories
from pipelines.tokens.vocabulary import Vocabulary
from pipelines.workspace import Workspace

MAX_FAILURES: Final = 2
RAY_FOLDER: Final = "ray"
READ_ROWS: Final = 512


def shard_of(user_id: str, num_shards: int) -> int:
    """The shard of a user: a hash of the id, the same on every machine."""
    return zlib.crc32(user_id.encode()) % num_shards


def fit(job: PretrainingJob, num_workers: int, sharding: Sharding) -> None:
    """Run the job's workers under a running Ray session, to the end.

    Args:
        job: What to train; its shards are a multiple of the workers.
        num_workers: Training processes.
        sharding: What each holds of the model.

    Raises:
        ray.train.TrainingFailedError: a worker failed more often than is forgiven.
    """
    import ray
    import ray.data
    from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    quiet_ray_data()
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    table = str(job.workspace.table(TOKEN_SEQUENCES.name))
    flagged, erased = left_out(job.workspace)
    generations = lake.sequence_generations(job.workspace)
    datasets = {
        _name(shard): ray.data.read_delta(table).map_batches(
            keep_shard(shard, job.num_shards, flagged, erased, generations),
            batch_format="pyarrow",
            batch_size=READ_ROWS,
        )
        for shard in range(job.num_shards)
    }
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    on_gpu = has_accelerators(resources, num_workers)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job, "sharding": sharding},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": 1, "GPU": 1} if on_gpu else {"CPU": 1},
        ),
        datasets=datasets,
        dataset_config=DataConfig(datasets_to_split=[]),
        run_config=RunConfig(
            name=job.run_key,
            storage_path=str(job.folder / RAY_FOLDER),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(job.folder / RAY_FOLDER, ignore_errors=True)


def has_accelerators(resources: Mapping[str, float], num_workers: int) -> bool:
    """Whether a cluster has a GPU for every worker, and torch here can let them talk."""
    return resources.get("GPU", 0.0) >= num_workers and dist.is_nccl_available()


def _name(shard: int) -> str:
    return f"sequences_{shard}"


def left_out(workspace: Workspace) -> tuple[frozenset[str], frozenset[str]]:
    """Whom training leaves out: ids of flagged users, and digests of who is to be forgotten."""
    return lake.flagged_users(workspace), frozenset(suppressed_digests(workspace))


def keep_shard(
    shard: int,
    num_shards: int,
    flagged: frozenset[str],
    erased: frozenset[str],
    generations: Generations,
) -> Callable[[pa.Table], pa.Table]:
    """Keeps the rows that hold of a shard's users, less those that training leaves out."""

    def keep(rows: pa.Table) -> pa.Table:
        rows = without_users(generations.holding(rows), erased)
        users = rows.column(USER_ID).to_pylist()
        kept = [user not in flagged and shard_of(user, num_shards) == shard for user in users]
        return rows.filter(pa.array(kept, type=pa.bool_()))

    return keep


def _worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    if dist.get_backend() == dist.Backend.NCCL:
        torch.cuda.set_device(ray.train.torch.get_device())
    job: PretrainingJob = config["job"]
    context = ray.train.get_context()
    index, world = context.get_world_rank(), context.get_world_size()
    vocabulary = Vocabulary.load(job.workspace.vocabulary_path)
    vocabulary.require(job.vocabulary_id, "the job")
    shards = {s: _read_shard(job, s, vocabulary) for s in range(index, job.num_shards, world)}
    run_worker(job, vocabulary, shards, rank_in_group(config["sharding"]))
    ray.train.report({"finished": 1.0})


def _read_shard(job: PretrainingJob, shard: int, vocabulary: Vocabulary) -> Histories:
    """All users of a shard, in order of id, cut at the training cut."""
    import ray.train

    dataset = ray.train.get_dataset_shard(_name(shard))
    batches = dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    rows = pa.concat_tables([batch for batch in batches if batch.num_rows])
    histories = Histories.from_arrow(rows.sort_by(USER_ID)).known_to(vocabulary)
    return histories.before(job.cut_us).non_empty()
