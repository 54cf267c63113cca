"""Training off the processor, as far as a machine without an accelerator can tell.

The device `meta` holds no numbers, but it is another device than the one that batches are made on.
"""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from behavior_model.objectives.pretraining import TrainingBatch
from behavior_model.training.device import PROCESSOR, made_on, moved
from behavior_model.training.loader import ShardLoader
from behavior_model.training.ray_trainer import has_accelerators
from tests.rhythm_shop import CUT_US, WINDOW_US, shop_histories, shop_recipe, shop_vocabulary

ELSEWHERE = torch.device("meta")


def batch() -> TrainingBatch:
    loader = ShardLoader(
        vocabulary=shop_vocabulary(),
        histories=shop_histories(4),
        recipe=shop_recipe(),
        cut_us=CUT_US,
        window_us=WINDOW_US,
        seed=0,
    )
    one: TrainingBatch = next(loader.epoch(0).from_step(0))
    return one


def test_every_tensor_of_a_batch_moves() -> None:
    here = batch()
    there = moved(here, ELSEWHERE)
    parts = [
        (getattr(one, field.name), getattr(other, field.name))
        for one, other in ((here.packed, there.packed), (here.targets, there.targets))
        for field in fields(one)
    ]
    parts += [(here.targets.activity[n], there.targets.activity[n]) for n in here.targets.activity]
    tensors = [(one, other) for one, other in parts if isinstance(one, Tensor)]
    assert len(tensors) > 15
    for one, other in tensors:
        assert (other.device, other.shape) == (ELSEWHERE, one.shape)
    assert there.packed.num_events == here.packed.num_events


def test_batches_stay_where_they_are_made() -> None:
    here = batch()
    assert moved(here, PROCESSOR) is here


def test_tensors_are_made_where_the_model_is() -> None:
    with made_on(ELSEWHERE):
        assert torch.zeros(2).device == ELSEWHERE
        assert torch.arange(2).device == ELSEWHERE
    with made_on(PROCESSOR):
        assert torch.zeros(2).device == PROCESSOR


def test_accelerators_are_used_when_every_worker_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert has_accelerators({"CPU": 8.0, "GPU": 2.0}, 2)
    assert not has_accelerators({"CPU": 8.0, "GPU": 1.0}, 2)
    assert not has_accelerators({"CPU": 8.0}, 1)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert not has_accelerators({"CPU": 8.0, "GPU": 2.0}, 2)
