"""Low-rank adapters: nothing at first, small on disk, gone after merging, the core untouched."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.shop import Shop, new_model, training_run
from behavior_model.model.adapters import (
    AdapterConfig,
    adapted_layers,
    adapter_tensors,
    add_adapters,
    load_adapters,
    merge_adapters,
    num_trainable,
    save_adapters,
)
from behavior_model.objectives.next_item import NextItemModel
from behavior_model.training.loop import TrainingRun, make_optimiser
from pipelines.errors import WorkspaceError
from tests.ring_shop import ring_recipe, write_shop

CONFIG = AdapterConfig(rank=4, alpha=8.0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    history = read_interactions(*write_shop(folder))
    return Shop.of(history, ring_recipe(history), folder / "texts")


def fresh_run(shop: Shop, *, adapted: bool = True) -> tuple[NextItemModel, TrainingRun]:
    recipe = ring_recipe(shop.learned, epochs=2)
    model = new_model(shop, recipe, seed=0)
    if adapted:
        add_adapters(model, CONFIG)
    return model, training_run(model, shop, recipe, seed=0)


def answer(model: NextItemModel, run: TrainingRun) -> Tensor:
    """Queries at some positions of the first batch."""
    model.eval()
    batch = next(run.loaders[0].epoch(0).from_step(0))
    with torch.inference_mode():
        return model.queries(batch.packed, batch.packed.event_flat[:20])


def weights_of(model: nn.Module) -> dict[str, bytes]:
    """The bytes of every weight that is no adapter's."""
    own = adapter_tensors(model)
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in model.state_dict().items()
        if name not in own
    }


def test_an_untouched_adapter_changes_nothing(shop: Shop) -> None:
    plain, run = fresh_run(shop, adapted=False)
    before = answer(plain, run)
    add_adapters(plain, CONFIG)
    assert torch.equal(answer(plain, run), before)


def test_every_projection_of_the_core_is_adapted_and_nothing_else_trains(shop: Shop) -> None:
    model, _ = fresh_run(shop)
    names = {name for name, _ in adapted_layers(model)}
    blocks = len(model.backbone.transformer.blocks)
    per_block = {"attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down"}
    assert names == {
        *(f"backbone.transformer.blocks.{i}.{name}" for i in range(blocks) for name in per_block),
        "backbone.events.item",
        "backbone.events.gate",
        "backbone.items.descriptor",
        "backbone.items.words",
        "backbone.window.item_query",
        "item_query",
    }
    widths = [layer.in_features + layer.out_features for _, layer in adapted_layers(model)]
    assert num_trainable(model) == CONFIG.rank * sum(widths)
    optimiser = make_optimiser(model, ring_recipe(shop.learned).training)
    trained = [one for group in optimiser.param_groups for one in group["params"]]
    assert sum(one.numel() for one in trained) == num_trainable(model)
    with pytest.raises(ValueError, match="has adapters already"):
        add_adapters(model, CONFIG)


def test_training_moves_adapters_alone(shop: Shop) -> None:
    model, run = fresh_run(shop)
    core, first = weights_of(model), answer(model, run)
    reports = list(run.steps())
    assert reports[-1].losses["loss"] < reports[0].losses["loss"]
    assert weights_of(model) == core
    assert not torch.allclose(answer(model, run), first)


def trained_model(shop: Shop) -> tuple[NextItemModel, TrainingRun]:
    model, run = fresh_run(shop)
    for _ in run.steps():
        pass
    return model, run


def test_merged_weights_answer_as_the_adapters_did(shop: Shop) -> None:
    model, run = trained_model(shop)
    adapted = answer(model, run)
    merge_adapters(model)
    assert not list(adapted_layers(model))
    assert weights_of(model).keys() == weights_of(fresh_run(shop, adapted=False)[0]).keys()
    torch.testing.assert_close(answer(model, run), adapted, rtol=1e-4, atol=1e-5)


def test_a_file_holds_adapters_alone_and_gives_them_back(shop: Shop, tmp_path: Path) -> None:
    model, run = trained_model(shop)
    path = tmp_path / "adapters.safetensors"
    save_adapters(path, model, CONFIG)
    assert path.stat().st_size < 4 * num_trainable(model) + 8_192
    other, _ = fresh_run(shop, adapted=False)
    core = weights_of(other)
    load_adapters(path, other)
    assert weights_of(other) == core
    assert torch.equal(answer(other, run), answer(model, run))


def test_adapters_of_another_core_are_refused(shop: Shop, tmp_path: Path) -> None:
    model, _ = fresh_run(shop)
    path = tmp_path / "adapters.safetensors"
    save_adapters(path, model.backbone, CONFIG)
    other, _ = fresh_run(shop, adapted=False)
    with pytest.raises(WorkspaceError, match=r"'backbone\.events\.gate\.adapter_in' is missing"):
        load_adapters(path, other)
    with pytest.raises(WorkspaceError, match="no adapters here"):
        load_adapters(tmp_path / "none.safetensors", other)
