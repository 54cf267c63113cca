"""One shop and a next-item model of it: make, train, ask.

Legend: U users, N items, D width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.numpy import load_file, save

from behavior_model.benchmark.baselines.task import Floats
from behavior_model.benchmark.interactions import Interactions
from behavior_model.benchmark.sequences import Encoded, SequenceLoader, catalogue_of, encode, pack
from behavior_model.embedding import item_embeddings
from behavior_model.items import ItemContent, build_item_content
from behavior_model.model.backbone import new_backbone
from behavior_model.objectives.next_item import NextItemModel
from behavior_model.recipes import Recipe
from behavior_model.text_encoder import HashedBackend, TextEncoder
from behavior_model.training.loop import TrainingRun
from pipelines.tokens.binning import DAY_US
from pipelines.workspace import write_bytes_atomically

BATCH_USERS: Final = 256
PROBE_STEPS: Final = 20
MIN_PROBE_STEPS: Final = 8
WARM_STEPS: Final = 4
TEXTLESS_WIDTH: Final = 8
_OUTPUTS: Final = "outputs.safetensors"
_SPEED: Final = "events_per_second"
_PEAK: Final = "peak_memory_bytes"


@dataclass(frozen=True, eq=False)
class Shop:
    """What may be learned of a shop.

    Args:
        learned: Histories that are learned from; the catalogue is the whole one.
        encoded: The same in the platform's terms: item counts are those of `learned`.
        content: Content of every item.
    """

    learned: Interactions
    encoded: Encoded
    content: ItemContent

    @classmethod
    def of(cls, learned: Interactions, recipe: Recipe, text_cache: Path) -> Shop:
        """Encode histories and read the texts of the catalogue, as many as the recipe pays for."""
        encoded = encode(learned)
        content = build_item_content(
            catalogue_of(learned),
            encoded.vocabulary,
            text_encoder(learned, text_cache),
            max_descriptors=recipe.model.max_descriptors,
            word_width=recipe.model.word_width,
        )
        return cls(learned, encoded, content)

    @property
    def descriptors(self) -> Floats:
        """float32[N, T1], the encoder's embedding of each item's text, of any length."""
        rows = self.content.descriptor_idx[self.encoded.item_idx]
        return np.asarray(self.content.descriptors[rows])

    @property
    def words(self) -> Floats:
        """float32[N, T2], hashed words of each item's text."""
        return np.asarray(self.content.words[self.encoded.item_idx])


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a trained backbone says; the score of an item is a product.

    Args:
        queries: float32[U, D + 1], what each user takes next; 0 but for the last column where a
            user has no history, so that the items' biases, their popularity, decide.
        items: float32[N, D + 1], in the order of the files.
        events_per_second: Events read per second of training, on one thread.
        peak_memory_bytes: Of the process that trained, 0 where none did.
    """

    queries: Floats
    items: Floats
    events_per_second: float = 0.0
    peak_memory_bytes: int = 0

    def save(self, folder: Path) -> None:
        """Write as one safetensors file, whole or not at all."""
        tensors = {
            "queries": self.queries,
            "items": self.items,
            _SPEED: np.asarray([self.events_per_second]),
            _PEAK: np.asarray([self.peak_memory_bytes], dtype=np.int64),
        }
        write_bytes_atomically(folder / _OUTPUTS, save(tensors))

    @classmethod
    def load(cls, folder: Path) -> Outputs:
        """Read what `save` wrote."""
        tensors = load_file(folder / _OUTPUTS)
        speed, peak = float(tensors[_SPEED][0]), int(tensors[_PEAK][0])
        return cls(tensors["queries"], tensors["items"], speed, peak)

    @staticmethod
    def delete(folder: Path) -> None:
        """Remove what `save` wrote."""
        (folder / _OUTPUTS).unlink(missing_ok=True)


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it; elsewhere it would only be slower."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported is not None and supported())


def text_encoder(history: Interactions, cache: Path) -> TextEncoder:
    """The best encoder of this machine; where nothing is written, one that costs nothing."""
    return (
        TextEncoder(cache)
        if history.has_texts
        else TextEncoder(None, HashedBackend(TEXTLESS_WIDTH))
    )


def new_model(
    shop: Shop,
    recipe: Recipe,
    seed: int,
    *,
    sold_negatives: bool = False,
    resembles_history: bool = False,
) -> NextItemModel:
    """An untrained model of a shop; options as in `NextItemModel`."""
    torch.manual_seed(seed)
    backbone = new_backbone(shop.encoded.vocabulary, shop.content, recipe.model, DAY_US)
    return NextItemModel(
        backbone,
        shop.content,
        recipe.training.num_negatives,
        sold_negatives=sold_negatives,
        resembles_history=resembles_history,
    ).eval()


def training_run(
    model: NextItemModel, shop: Shop, recipe: Recipe, seed: int, *, share: float = 1.0
) -> TrainingRun:
    """The training of a model on its shop, before the first step; `share` as in the loader."""
    torch.set_num_threads(recipe.training.num_threads)
    loader = SequenceLoader(encoded=shop.encoded, recipe=recipe, seed=seed, share=share)
    return TrainingRun(model=model, config=recipe.training, loaders=[loader], seed=seed)


def epoch_seconds(run: TrainingRun) -> float:
    """Seconds of one epoch of a run, from its first few steps; the run is of no use afterwards."""
    num_steps = -(-len(run.loaders[0].epoch(0)) // run.config.accumulated_batches)
    num_timed = min(max(num_steps, MIN_PROBE_STEPS), PROBE_STEPS)
    started, counted = time.monotonic(), 0
    for done, _ in enumerate(run.steps(), start=1):  # across epochs, where they are short
        if done == WARM_STEPS:
            started = time.monotonic()
        counted = done - WARM_STEPS if done > WARM_STEPS else done
        if done == WARM_STEPS + num_timed:
            break
    return (time.monotonic() - started) / max(counted, 1) * num_steps


def ask(model: NextItemModel, shop: Shop, history: Interactions) -> Outputs:
    """What a trained model says of any users of its shop, learned from or not.

    Args:
        model: In evaluation mode.
        shop: The shop that the model was made for.
        history: Users to be asked about, with the shop's catalogue.
    """
    return Outputs(
        queries=queries_of(model, shop, history),
        items=item_embeddings(model.backbone, shop.content)[shop.encoded.item_idx],
    )


def queries_of(model: NextItemModel, shop: Shop, history: Interactions) -> Floats:
    """float32[U, D + 1]: what each user takes next; arguments as in `ask`."""
    encoded = shop.encoded.encode(history)
    histories = encoded.histories
    context = model.backbone.config.model.context
    width = model.backbone.config.model.width
    queries = np.zeros((len(histories), width + 1), dtype=np.float32)
    queries[:, -1] = 1.0
    some = np.flatnonzero(histories.lengths > 0)
    with torch.inference_mode():
        for start in range(0, len(some), BATCH_USERS):
            users = some[start : start + BATCH_USERS]
            stops = histories.offsets[users + 1]
            starts = np.maximum(histories.offsets[users], stops - context)
            batch = pack(encoded, starts, stops, context)
            last = batch.event_flat[torch.from_numpy(np.cumsum(stops - starts) - 1)]
            queries[users] = model.queries(batch, last).numpy()
    return queries
