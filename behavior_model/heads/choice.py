"""A few weights that mix scores into one ranking: the conditional logit model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]

PENALTY: Final = 1e-3


def fit_choice_weights(
    features: Floats, chosen: npt.NDArray[np.bool_], offsets: Longs, *, columns: Sequence[int]
) -> Doubles:
    """Weights under which what was chosen stands out among its candidates.

    McFadden's conditional logit (1974), the mean over questions of the mean log-probability of the
    chosen candidates, with a small ridge penalty on standardised features.

    Args:
        features: float32[R, F], one row per candidate.
        chosen: bool[R].
        offsets: int64[Q + 1]; the candidates of question q are offsets[q]:offsets[q + 1].
        columns: The features that may be used.

    Returns:
        float64[F], zero outside `columns`.

    Raises:
        ValueError: no question has a chosen candidate.
    """
    lengths = np.diff(offsets)
    counts = np.add.reduceat(chosen, offsets[:-1].astype(np.intp)) * (lengths > 0)
    if not (counts > 0).any():
        raise ValueError("no question has a chosen candidate; give a longer validation window")
    question = np.repeat(np.arange(len(lengths)), lengths)
    useful = (counts > 0)[question]
    used = features[useful][:, list(columns)].astype(np.float64)
    scale = np.maximum(used.std(axis=0), 1e-6)
    rows = used / scale
    _, group = np.unique(question[useful], return_inverse=True)
    share = (chosen / np.maximum(counts, 1)[question])[useful]
    target = share @ rows
    num_questions = int(group.max()) + 1
    starts = np.searchsorted(group, np.arange(num_questions))

    def loss(weights: Doubles) -> tuple[float, Doubles]:
        logits = rows @ weights
        peaks = np.maximum.reduceat(logits, starts)
        masses = np.exp(logits - peaks[group])
        totals = np.add.reduceat(masses, starts)
        gradient = (masses / totals[group]) @ rows - target
        value = np.sum(peaks + np.log(totals)) - target @ weights
        value = value / num_questions + PENALTY * weights @ weights
        return float(value), gradient / num_questions + 2 * PENALTY * weights

    found = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B")
    result = np.zeros(features.shape[1])
    result[list(columns)] = found.x / scale
    return result
