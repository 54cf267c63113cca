"""A trained model as the beginning of another: what one company taught, another need not learn.

What both have in common is carried over row by row: the transformer and its readings whole, fields
of the contract by value, categories by name, the projections of texts where the same encoder reads
them; of the same company its own fields and its items as well, since elsewhere equal ids are
chance. All the rest begins as in any training, and everything is trained on.
Legend: K rows in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from behavior_model.bundle import open_bundle
from behavior_model.items import CONTRACT_FIELDS, ItemContent
from behavior_model.model.backbone import Backbone, load_backbone
from behavior_model.recipes import ModelConfig
from pipelines.contracts import EVENTS
from pipelines.errors import UserError
from pipelines.tokens.binning import FIRST_IDX
from pipelines.tokens.vocabulary import TokenField, TokenKind, Vocabulary
from pipelines.workspace import Workspace

_SHAPE: Final = ("width", "num_layers", "num_heads")


def bundle_at(path: Path) -> Path:
    """The folder itself, or the bundle of the workspace that it is."""
    inner = Workspace(path).bundle
    return inner if inner.is_dir() else path


@dataclass(frozen=True, eq=False, kw_only=True)
class Core:
    """A model to begin with.

    Args:
        path: Where it was opened.
        backbone: Its backbone.
        content: The content of its items.
        model_version: Its version, as it was trained.
        training_cut_us: Its backbone has seen nothing at or after this time.
    """

    path: Path
    backbone: Backbone
    content: ItemContent
    model_version: str
    training_cut_us: int

    @classmethod
    def open(cls, path: Path) -> Core:
        """Open a bundle, or the bundle of a workspace.

        Raises:
            BundleError: there is none, or a changed one.
        """
        bundle = open_bundle(bundle_at(path))
        return cls(
            path=path,
            backbone=load_backbone(bundle.backbone, bundle.vocabulary),
            content=ItemContent.load(bundle.items, bundle.vocabulary),
            model_version=bundle.manifest.lineage,
            training_cut_us=bundle.manifest.training_cut_us,
        )

    def check(self, shape: ModelConfig, training_cut_us: int) -> None:
        """Refuse a training that cannot begin here.

        Raises:
            UserError: another shape, or a core that has learned from later events than the
                training may see.
        """
        own = self.backbone.config.model
        differing = [name for name in _SHAPE if getattr(own, name) != getattr(shape, name)]
        if differing:
            told = ", ".join(
                f"{name} {getattr(own, name)} and {getattr(shape, name)}" for name in differing
            )
            raise UserError(
                f"--core {self.path}: core and model have other shapes ({told}). Train with the "
                "--size that the core was trained with."
            )
        if self.training_cut_us > training_cut_us:
            raise UserError(
                f"--core {self.path}: it has learned from events later than this training may see, "
                "and its figures would know the future. Give an earlier core or a later --as-of."
            )

    def shared_with(self, vocabulary: Vocabulary, content: ItemContent) -> Shared:
        """What a new model has in common with this one."""
        return Shared(core=self, vocabulary=vocabulary, content=content)


@dataclass(frozen=True, eq=False, kw_only=True)
class Shared:
    """What core and new model have in common.

    Args:
        core: The core.
        vocabulary: Of the new model.
        content: Of its items.
    """

    core: Core
    vocabulary: Vocabulary
    content: ItemContent

    @property
    def is_same_company(self) -> bool:
        return self.vocabulary.company == self.core.backbone.vocabulary.company

    @property
    def texts(self) -> bool:
        """Whether one encoder reads the texts of both."""
        return self.content.encoder_name == self.core.content.encoder_name

    @cached_property
    def fields(self) -> list[tuple[TokenField, TokenField]]:
        """The new model's field and the core's, for every table of values by its name."""
        old = {(field.table, field.kind): field for field in self.core.backbone.vocabulary.fields}
        new = {(field.table, field.kind): field for field in self.vocabulary.fields}
        return [
            (field, old[key])
            for key, field in new.items()
            if key in old and field.kind is not TokenKind.ITEM
            if self.is_same_company or not field.column or field.column in EVENTS.column_names
        ]

    @cached_property
    def categories(self) -> Tensor:
        """int64[K, 2]: positions in the new and in the core's categories."""
        return _pairs(self.vocabulary.categories, self.core.backbone.vocabulary.categories)

    @cached_property
    def items(self) -> Tensor:
        """int64[K, 2]: positions of items in both vocabularies."""
        theirs = self.core.backbone.vocabulary.items if self.is_same_company else ()
        return _pairs(self.vocabulary.items, theirs)

    def __str__(self) -> str:
        num_fields = len({field.table for field in self.vocabulary.fields}) - 1
        return (
            f"model {self.core.model_version}: {len(self.fields)} of {num_fields} fields, "
            f"{'' if self.texts else 'not '}the reading of texts, "
            f"{len(self.categories):,} of {len(self.vocabulary.categories):,} categories, "
            f"{len(self.items):,} of {len(self.vocabulary.items):,} items"
        )

    @torch.no_grad()
    def give_to(self, backbone: Backbone) -> None:
        """Set what is shared in a new backbone of the vocabulary and content.

        Args:
            backbone: Of the core's shape.
        """
        core = self.core.backbone
        for new, old in (
            (backbone.transformer, core.transformer),
            (backbone.window.copy, core.window.copy),
            (backbone.window.item_query, core.window.item_query),
            (backbone.window.activity, core.window.activity),
            (backbone.window.hazard, core.window.hazard),
            (backbone.events.item, core.events.item),
            (backbone.events.gate, core.events.gate),
        ):
            new.load_state_dict(old.state_dict())
        self._give_fields(backbone)
        _set_rows(backbone.window.category.weight, core.window.category.weight, self.categories)
        _set_rows(backbone.window.category.bias, core.window.category.bias, self.categories)
        self._give_items(backbone)

    def _give_fields(self, backbone: Backbone) -> None:
        core = self.core.backbone
        new_starts, old_starts = _starts(backbone), _starts(core)
        for new, old in self.fields:
            rows = _indices(new.values, old.values, new.size, old.size)
            starts = torch.tensor([new_starts[new.table], old_starts[old.table]])
            _set_rows(backbone.events.fields.weight, core.events.fields.weight, rows + starts)

    def _give_items(self, backbone: Backbone) -> None:
        new, old = backbone.items, self.core.backbone.items
        new.prior_weight.copy_(old.prior_weight)
        if self.texts and new.descriptor.weight.shape == old.descriptor.weight.shape:
            new.descriptor.load_state_dict(old.descriptor.state_dict())
        if new.words.weight.shape == old.words.weight.shape:
            new.words.load_state_dict(old.words.state_dict())
        _set_rows(new.category.weight, old.category.weight, _with_reserved(self.categories))
        before = {field.name: i for i, field in enumerate(self.core.content.categorical_fields)}
        for position, field in enumerate(self.content.categorical_fields):
            if field.name in before and (self.is_same_company or field.name in CONTRACT_FIELDS):
                earlier = self.core.content.categorical_fields[before[field.name]]
                rows = _with_reserved(_pairs(field.values, earlier.values))
                weights = [_table(new, position), _table(old, before[field.name])]
                _set_rows(weights[0], weights[1], rows)
        limits = torch.tensor([new.num_identities, old.num_identities]) - FIRST_IDX
        known = _with_reserved(self.items[(self.items < limits).all(dim=1)])
        _set_rows(new.identity.weight, old.identity.weight, known)
        _set_rows(new.identity_bias.weight, old.identity_bias.weight, known)


def _table(items: nn.Module, position: int) -> Tensor:
    tables: nn.ModuleList = items.categorical  # type: ignore[assignment]
    weight: Tensor = tables[position].weight  # type: ignore[assignment]
    return weight


def _starts(backbone: Backbone) -> dict[str, int]:
    """First row of every table of values."""
    fields = [one for one in backbone.vocabulary.fields if one.kind is not TokenKind.ITEM]
    starts = backbone.events.starts.tolist()
    return {field.table: start for field, start in zip(fields, starts, strict=True)}


def _indices(new: Sequence[str], old: Sequence[str], new_size: int, old_size: int) -> Tensor:
    """int64[K, 2]: indices of one field in both models, the reserved ones among them.

    Values that have names are matched by them. Bins are the same share of the values in every
    company (quantiles), hours and weekdays the same everywhere; they match by place where both
    have equally many.
    """
    if new or old:
        return _with_reserved(_pairs(new, old))
    return torch.arange(new_size if new_size == old_size else FIRST_IDX).repeat(2, 1).T


def _with_reserved(pairs: Tensor) -> Tensor:
    reserved = torch.arange(FIRST_IDX).repeat(2, 1).T
    return torch.cat([reserved, pairs + FIRST_IDX])


def _pairs(new: Sequence[str], old: Sequence[str]) -> Tensor:
    """int64[K, 2]: positions of the names that stand in both."""
    position = {name: i for i, name in enumerate(old)}
    found = [(i, position[name]) for i, name in enumerate(new) if name in position]
    return torch.tensor(found, dtype=torch.int64).view(-1, 2)


def _set_rows(new: Tensor, old: Tensor, rows: Tensor) -> None:
    new[rows[:, 0]] = old[rows[:, 1]]
