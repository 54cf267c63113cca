"""Where the tensors of a run lie: here each process holds all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch import Tensor, nn


class Placement:
    """Every process holds the whole model; `sharding.Sliced` is the other way."""

    is_shared: ClassVar[bool] = False
    """Whether processes share the model, so that saving it takes all of them."""

    def gathered(self, tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
        """Whole tensors; of a shared model all processes must ask for the same at the same time.

        Args:
            tensors: As they lie.
            keep: Whether this process wants them. One that does not gets none.
        """
        return dict(tensors) if keep else {}

    def placed(self, whole: Tensor, like: Tensor) -> Tensor:
        """A whole tensor as another lies: of its shape, on this process its part."""
        return whole.reshape(like.shape)

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to a norm over all parameters; returns the norm before."""
        return float(nn.utils.clip_grad_norm_(parameters, max_norm))
