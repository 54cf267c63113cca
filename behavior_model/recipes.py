"""Everything that a company's pretraining needs follows from the recipe's name.

Shapes come from the dial. Rates, batches and negatives are the recipe's own: whole customers with
many kinds of events learn otherwise than the bare next items of a benchmark, which follow the dial.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from behavior_model.dial import SIZES, shape_for
from pipelines.errors import UnknownNameError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the backbone.

    Args:
        width: D, width of a position.
        num_layers: Transformer blocks.
        num_heads: H; the width of a head is D / H.
        context: Events a position can look back on, itself included.
        dropout: On attention output and feed-forward output.
        input_dropout: On what the first block reads.
        identity_dropout: Share of items that are embedded from content alone in a training step.
        field_dropout: Share of field values that are replaced by 'missing' in training.
        min_identity_count: Items bought less often before the training cut have content alone.
        item_scale: Scale that item embeddings begin at. They are normalised, so it sets how far
            one step of the optimiser turns them: small turns fast.
        word_width: Width of an item's hashed words.
        max_descriptors: Distinct texts that the neural text encoder may be asked for.
    """

    width: int
    num_layers: int
    num_heads: int
    context: int
    dropout: float = 0.1
    input_dropout: float = 0.0
    identity_dropout: float = 0.1
    field_dropout: float = 0.05
    min_identity_count: int = 5
    item_scale: float = 1.0
    word_width: int = 64
    max_descriptors: int = 3_000


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weight of each objective in the sum; the same for every company."""

    next_item: float = 0.5
    next_fields: float = 0.25
    window_items: float = 1.0
    window_categories: float = 1.0
    window_activity: float = 0.5
    time_to_event: float = 0.25
    contrastive: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the backbone is trained.

    Args:
        epochs: Passes over all users.
        batch_tokens: Positions of one batch over all workers.
        accumulated_batches: Batches whose gradients make one step, for batches that memory does not
            hold at once.
        learning_rate: Peak of AdamW's schedule (linear warm-up, then cosine to a twentieth).
        num_negatives: Shared negative items of a step.
        probes_per_user: Probes per user and epoch, spread evenly over time.
        warmup_share: Share of the run in which the rate rises.
        weight_decay: On matrices; never on norms, biases or embeddings.
        clip_norm: Largest norm of the gradient.
        checkpoint_every_s: Seconds between checkpoints.
        num_threads: Threads of one worker; results are bitwise equal at equal counts alone.
        bfloat16: Multiply matrices in half the bits, where the processor can.
        loss_weights: Fixed by the recipe, no knobs per company.
    """

    epochs: int
    batch_tokens: int
    learning_rate: float
    num_negatives: int
    accumulated_batches: int = 1
    probes_per_user: int = 48
    warmup_share: float = 0.05
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    checkpoint_every_s: float = 30.0
    num_threads: int = 2
    bfloat16: bool = False
    loss_weights: LossWeights = LossWeights()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete pretraining run."""

    size: str
    model: ModelConfig
    training: TrainingConfig


MAX_EPOCHS: Final = 8
"""More passes learn the people of a small company by heart (measured in docs/benchmarks.md)."""


def _epochs(num_events: int, event_budget: int) -> int:
    """Passes that a budget of events pays for."""
    return max(1, min(MAX_EPOCHS, round(event_budget / max(num_events, 1))))


def _model(size: str, *, context: int) -> ModelConfig:
    """The shape that the dial has at a name."""
    shape = shape_for(SIZES[size])
    return ModelConfig(
        width=shape.width,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        context=context,
    )


def tiny(num_events: int) -> Recipe:
    """Two cores and less than ten minutes.

    Command: `bfm pretrain --workspace DIR --size tiny`.
    Expected time: 494 s for 4 epochs of 985,197 events (Complete Journey before 2017-09-03), at
    9,371 events per second on two cores that other work shared in part; 1.9 GiB of memory.
    Expected score: nothing fitted on top, test cut 2017-10-01, one seed: categories of the next 28
    days NDCG@10 .627, products .255, churn AUC .875 (see docs/ablations.md for the protocol).
    """
    return Recipe(
        size="tiny",
        model=_model("tiny", context=256),
        training=TrainingConfig(
            epochs=_epochs(num_events, 4_000_000),
            batch_tokens=2_048,
            learning_rate=3e-3,
            num_negatives=1_024,
        ),
    )


def small(num_events: int) -> Recipe:
    """One workstation and an hour.

    Command: `bfm pretrain --workspace DIR --size small`.
    Expected time: not run yet; by parameters and events about 30 times the work of tiny.
    Expected score: not measured; tiny's is the figure to beat.
    """
    return Recipe(
        size="small",
        model=_model("small", context=512),
        training=TrainingConfig(
            epochs=_epochs(num_events, 20_000_000),
            batch_tokens=8_192,
            learning_rate=1.5e-3,
            num_negatives=4_096,
        ),
    )


def base(num_events: int) -> Recipe:
    """One server with an accelerator.

    Command: `bfm pretrain --workspace DIR --size base`.
    Expected time: not run yet.
    Expected score: not measured; small's is the figure to beat.
    """
    return Recipe(
        size="base",
        model=_model("base", context=1_024),
        training=TrainingConfig(
            epochs=_epochs(num_events, 1_000_000_000),
            batch_tokens=65_536,
            learning_rate=8e-4,
            num_negatives=16_384,
        ),
    )


def large(num_events: int) -> Recipe:
    """A cluster.

    Command: `bfm pretrain --workspace DIR --size large`.
    Expected time: not run yet.
    Expected score: not measured; base's is the figure to beat.
    """
    return Recipe(
        size="large",
        model=_model("large", context=2_048),
        training=TrainingConfig(
            epochs=_epochs(num_events, 20_000_000_000),
            batch_tokens=524_288,
            learning_rate=4e-4,
            num_negatives=65_536,
        ),
    )


CORE_EPOCHS: Final = 4
CORE_RATE: Final = 1 / 3


def after_core(recipe: Recipe) -> Recipe:
    """The same recipe for a training that begins with another model.

    Few passes at a third of the rate: more would unlearn the core where a company has little to
    teach (measured in docs/benchmarks.md).
    """
    training = replace(
        recipe.training,
        epochs=min(recipe.training.epochs, CORE_EPOCHS),
        learning_rate=recipe.training.learning_rate * CORE_RATE,
    )
    return replace(recipe, training=training)


RECIPES: Final[dict[str, Callable[[int], Recipe]]] = {
    "tiny": tiny,
    "small": small,
    "base": base,
    "large": large,
}


def recipe_for(size: str, *, num_events: int) -> Recipe:
    """The recipe of a size for a company with `num_events` events before the training cut.

    Raises:
        UnknownNameError: no recipe of that name.
    """
    check_size(size)
    return RECIPES[size](num_events)


def check_size(size: str) -> None:
    """Refuse a size that has no recipe.

    Raises:
        UnknownNameError: no recipe of that name.
    """
    if size not in RECIPES:
        raise UnknownNameError("size", size, RECIPES)
