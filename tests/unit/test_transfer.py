"""Transfer: what is carried over, what stays behind, what is refused."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from behavior_model.benchmark.core import content_alone, core_tensors, load_core, save_core
from behavior_model.benchmark.interaction_files import read_interactions
from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.shop import Shop, ask, new_model
from behavior_model.benchmark.transfer import TransferOptions, shown_users
from behavior_model.recipes import Recipe
from pipelines.errors import UserError, WorkspaceError
from tests.ring_shop import ring_recipe, write_shop


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    return read_interactions(*write_shop(tmp_path_factory.mktemp("shop")))


def shop_and_recipe(interactions: Interactions, folder: Path) -> tuple[Shop, Recipe]:
    recipe = content_alone(ring_recipe(interactions))
    return Shop.of(interactions, recipe, folder), recipe


def test_a_core_fits_another_catalogue_and_leaves_popularity_behind(
    full: Interactions, tmp_path: Path
) -> None:
    source, recipe = shop_and_recipe(full, tmp_path)
    model = new_model(source, recipe, seed=0)
    save_core(tmp_path / "core.safetensors", model, source)
    half = np.arange(full.num_items // 2)
    smaller = replace(
        full,
        item_ids=full.item_ids[: len(half)],
        texts=full.texts[: len(half)],
        items=full.items % len(half),
    )
    target, _ = shop_and_recipe(smaller.select(np.arange(0)), tmp_path)
    other = new_model(target, recipe, seed=1)
    load_core(tmp_path / "core.safetensors", other, target)
    assert all(torch.equal(one, core_tensors(other)[n]) for n, one in core_tensors(model).items())
    answers = ask(other, target, smaller)
    assert answers.queries.shape == (len(smaller), recipe.model.width + 1)
    assert np.ptp(answers.items[:, -1]) == pytest.approx(0.0, abs=1e-6)


def test_no_item_of_a_core_has_an_identity(full: Interactions, tmp_path: Path) -> None:
    shop, recipe = shop_and_recipe(full, tmp_path)
    model = new_model(shop, recipe, seed=0)
    assert model.backbone.config.num_identities <= shop.encoded.item_idx.min()


def test_a_core_that_does_not_fit_is_refused(full: Interactions, tmp_path: Path) -> None:
    shop, recipe = shop_and_recipe(full, tmp_path)
    path = tmp_path / "core.safetensors"
    save_core(path, new_model(shop, recipe, seed=0), shop)
    wider = replace(recipe, model=replace(recipe.model, width=64))
    with pytest.raises(WorkspaceError, match=r"the model needs .*Make both with one size"):
        load_core(path, new_model(shop, wider, seed=0), shop)
    foreign = replace(shop, content=replace(shop.content, encoder_name="another-1.0"))
    with pytest.raises(WorkspaceError, match=r"with 'another-1\.0'"):
        load_core(path, new_model(shop, recipe, seed=0), foreign)


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    shares = [shown_users(1_000, share, seed=0) for share in (0.0, 0.0001, 0.01, 0.1, 1.0)]
    assert [len(users) for users in shares] == [0, 1, 10, 100, 1_000]
    assert all(set(a) <= set(b) for a, b in pairwise(shares))


@pytest.mark.parametrize("shares", [(), (0.5, 1.5), (-0.1,)])
def test_impossible_shares_are_refused(shares: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give shares between 0 and 1"):
        TransferOptions(
            source=tmp_path,
            source_items=tmp_path,
            interactions=tmp_path,
            items=tmp_path,
            out=tmp_path,
            shares=shares,
        )
