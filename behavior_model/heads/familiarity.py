"""How much a case is like those that a head was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.covariance import ledoit_wolf

Doubles = npt.NDArray[np.float64]

NUM_QUANTILES: Final = 1_001
UNFAMILIAR_BELOW: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """Mahalanobis distance to the training users, read as a share of them (Lee et al., 2018).

    No training user is stored, so an erased user leaves nothing here but a share in a mean.

    Args:
        mean: float64[F], mean of the training inputs.
        whitening: float64[F, F]; distances are the norm of (x - mean) @ whitening.
        distances: float64[Q], ascending quantiles of distances of users held out from the fit.
    """

    mean: Doubles
    whitening: Doubles
    distances: Doubles

    @classmethod
    def fit(cls, inputs: Doubles, held_out: npt.NDArray[np.bool_]) -> Familiarity:
        """Fit on all but the held-out rows, which give the reference distances.

        Args:
            inputs: float64[N, F], standardised, without NaN.
            held_out: bool[N].
        """
        seen = inputs[~held_out]
        mean = seen.mean(axis=0)
        covariance, _ = ledoit_wolf(seen - mean, assume_centered=True)
        values, vectors = np.linalg.eigh(covariance)
        whitening = vectors / np.sqrt(np.maximum(values, 1e-6))
        distances = np.linalg.norm((inputs[held_out] - mean) @ whitening, axis=1)
        levels = np.linspace(0.0, 1.0, NUM_QUANTILES)
        return cls(mean=mean, whitening=whitening, distances=np.quantile(distances, levels))

    def apply(self, inputs: Doubles) -> Doubles:
        """float64[U]: share of training-like users who lie at least as far out; 0 is unlike all.

        Args:
            inputs: float64[U, F], standardised as in the fit.
        """
        distances = np.linalg.norm((inputs - self.mean) @ self.whitening, axis=1)
        levels = np.linspace(1.0, 0.0, len(self.distances))
        return np.asarray(np.interp(distances, self.distances, levels), dtype=np.float64)

    def to_tensors(self) -> dict[str, Doubles]:
        """Named arrays for a safetensors file."""
        return {f"familiarity.{name}": getattr(self, name) for name in _NAMES}

    @classmethod
    def from_tensors(cls, tensors: dict[str, npt.NDArray[np.generic]]) -> Familiarity:
        """What `to_tensors` gave."""
        return cls(**{n: tensors[f"familiarity.{n}"].astype(np.float64) for n in _NAMES})


_NAMES: Final = ("mean", "whitening", "distances")
