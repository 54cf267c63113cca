"""How the backbone is trained on a benchmark's files: one recipe per size, no tuning by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from behavior_model.benchmark.interactions import Interactions
from behavior_model.dial import parameters_of, shape_for
from behavior_model.recipes import ModelConfig, Recipe, TrainingConfig
from behavior_model.text_encoder import MAX_CHARACTERS

EPOCHS: Final = 40
MIN_CONTEXT: Final = 50
MAX_CONTEXT: Final = 200
CONTEXT_QUANTILE: Final = 0.9
SPARSE_DROPOUT: Final = 0.5
DENSE_DROPOUT: Final = 0.2
SPARSE_EVENTS_PER_ITEM: Final = 16.0
DROPOUT_PER_OCTAVE: Final = 0.1
FEW_EPOCHS: Final = 8
PHRASES_PER_MINUTE: Final = 800
PHRASE_CHARACTERS: Final = 35
CHARACTERS_PER_CALL: Final = 100
"""What reading any text costs, in characters: the encoder's time is nearly linear in both."""


def benchmark_recipe(
    size: str, history: Interactions, *, budget_minutes: float, bfloat16: bool, epochs: int = EPOCHS
) -> Recipe:
    """The recipe of a size for a history.

    Command: `bfm bench leave-one-out --interactions FILE --items FILE --out DIR --size tiny`.
    Expected time and score of `tiny` on Amazon Beauty: ten minutes on two cores, NDCG@10 .0786 (see
    docs/benchmarks.md). The other sizes have not been run.

    Dropout follows from the data and the passes, see `dropout_for`. The context holds nine
    histories in ten whole, within bounds.

    Args:
        size: The dial: a name, or parameters of the transformer's body, "1.6M".
        history: What is trained on.
        budget_minutes: Decides how many texts the text encoder may read.
        bfloat16: Whether matrices are multiplied in half the bits.
        epochs: Passes over the data.

    Raises:
        UserError: no such size.
    """
    shape = shape_for(parameters_of(size))
    dropout = dropout_for(history, epochs)
    usual_length = int(np.quantile(history.lengths, CONTEXT_QUANTILE)) if len(history) else 0
    return Recipe(
        size=size,
        model=ModelConfig(
            width=shape.width,
            num_layers=shape.num_layers,
            num_heads=shape.num_heads,
            context=min(max(usual_length, MIN_CONTEXT), MAX_CONTEXT),
            dropout=dropout,
            input_dropout=dropout,
            identity_dropout=0.0,
            field_dropout=0.0,
            min_identity_count=0,
            item_scale=0.05,
            max_descriptors=affordable_texts(history.texts, budget_minutes),
        ),
        training=TrainingConfig(
            epochs=epochs,
            batch_tokens=shape.batch_tokens,
            learning_rate=shape.learning_rate,
            num_negatives=shape.num_negatives,
            num_threads=1,
            bfloat16=bfloat16,
        ),
    )


def affordable_texts(texts: Sequence[str], budget_minutes: float) -> int:
    """How many texts are read: a tenth of the budget's time on two cores, whatever the machine.

    That is 800 phrases of 35 characters a minute, and fewer of longer texts.
    """
    read = [min(len(text), MAX_CHARACTERS) for text in texts if text]
    characters = float(np.mean(read)) if read else 0.0
    phrase = CHARACTERS_PER_CALL + PHRASE_CHARACTERS
    cost = (CHARACTERS_PER_CALL + characters) / phrase
    return round(PHRASES_PER_MINUTE * budget_minutes / cost)


def with_epochs(recipe: Recipe, history: Interactions, epochs: int) -> Recipe:
    """The recipe of the same history for another number of passes."""
    dropout = dropout_for(history, epochs)
    return replace(
        recipe,
        model=replace(recipe.model, dropout=dropout, input_dropout=dropout),
        training=replace(recipe.training, epochs=epochs),
    )


def dropout_for(history: Interactions, epochs: int) -> float:
    """How much is dropped.

    At the full number of passes a half where items are rare, less for every doubling of the events
    per item. A few passes learn nothing by heart and get the least; between few and all it rises
    with their number.
    """
    per_item = history.num_events / max(history.num_items, 1)
    octaves = max(math.log2(max(per_item, 1.0) / SPARSE_EVENTS_PER_ITEM), 0.0)
    most = max(SPARSE_DROPOUT - DROPOUT_PER_OCTAVE * octaves, DENSE_DROPOUT)
    share = min(max((epochs - FEW_EPOCHS) / (EPOCHS - FEW_EPOCHS), 0.0), 1.0)
    return DENSE_DROPOUT + share * (most - DENSE_DROPOUT)
