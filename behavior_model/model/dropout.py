"""Dropout whose mask costs little on a processor (Srivastava et al., 2014)."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS: Final = 256
_WORD_BYTES: Final = 8


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Zero a share of the elements, scale the others so that the mean stays.

    On a processor torch draws one Bernoulli number at a time, a tenth of a training step. Here one
    random byte decides, so the share is rounded to 1/256. Seeded by torch's global generator.
    """
    if not training or share == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, share)
    dropped = round(share * _LEVELS)
    seed = int(torch.randint(2**62, ()))
    generator = np.random.Generator(np.random.SFC64(seed))
    words = generator.integers(
        2**64 - 1, size=-(-x.numel() // _WORD_BYTES), dtype=np.uint64, endpoint=True
    )
    draws = torch.from_numpy(words.view(np.uint8)[: x.numel()]).view(x.shape)
    kept = (draws >= dropped).to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))
    return x * kept
