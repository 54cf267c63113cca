"""Variants of the benchmark's recipe, each with one thing changed; the docstring says what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from behavior_model.benchmark.core import NO_IDENTITIES
from behavior_model.benchmark.training import BenchmarkJob

Variant = Callable[[BenchmarkJob], BenchmarkJob]


def full_recipe(job: BenchmarkJob) -> BenchmarkJob:
    """Nothing changed."""
    return job


def no_item_texts(job: BenchmarkJob) -> BenchmarkJob:
    """Items are identities alone."""
    return replace(job, with_texts=False)


def no_identities(job: BenchmarkJob) -> BenchmarkJob:
    """Items are what is written about them, and nothing learned of each by itself."""
    return _with_model(job, min_identity_count=NO_IDENTITIES)


def item_scale_of_one(job: BenchmarkJob) -> BenchmarkJob:
    """Item embeddings begin at the usual scale, so that one step turns them less."""
    return _with_model(job, item_scale=1.0)


def dropout_of_a_fifth(job: BenchmarkJob) -> BenchmarkJob:
    """The dropout of few passes, whatever the number of passes."""
    return _with_model(job, dropout=0.2, input_dropout=0.2)


def dropout_of_a_half(job: BenchmarkJob) -> BenchmarkJob:
    """The dropout of many passes, whatever the number of passes."""
    return _with_model(job, dropout=0.5, input_dropout=0.5)


def few_negatives(job: BenchmarkJob) -> BenchmarkJob:
    """256 negatives share a step."""
    return _with_training(job, num_negatives=256)


def one_layer(job: BenchmarkJob) -> BenchmarkJob:
    """A single transformer block."""
    return _with_model(job, num_layers=1)


def full_precision(job: BenchmarkJob) -> BenchmarkJob:
    """Matrices are multiplied in float32."""
    return _with_training(job, bfloat16=False)


def identity_dropout(job: BenchmarkJob) -> BenchmarkJob:
    """In a step a fifth of the items are embedded from content alone."""
    return _with_model(job, identity_dropout=0.2)


FULL: Final = "full recipe"
VARIANTS: Final[Mapping[str, Variant]] = {
    FULL: full_recipe,
    "no item texts": no_item_texts,
    "no identities": no_identities,
    "item scale 1": item_scale_of_one,
    "dropout .2": dropout_of_a_fifth,
    "dropout .5": dropout_of_a_half,
    "256 negatives": few_negatives,
    "1 layer": one_layer,
    "float32": full_precision,
    "identity dropout .2": identity_dropout,
}


def _with_model(job: BenchmarkJob, **changes: Any) -> BenchmarkJob:
    return replace(job, recipe=replace(job.recipe, model=replace(job.recipe.model, **changes)))


def _with_training(job: BenchmarkJob, **changes: Any) -> BenchmarkJob:
    changed = replace(job.recipe.training, **changes)
    return replace(job, recipe=replace(job.recipe, training=changed))
