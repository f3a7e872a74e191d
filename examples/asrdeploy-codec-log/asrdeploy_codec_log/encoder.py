"""The sender's side: weights to records."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asrdeploy.codecs import AsrDeployError, Calibration, Coded, State, Weights, entropy_coded, filled, half


@dataclass(frozen=True)
class Log:
    """Signs and logarithmic magnitudes, entropy-coded; vectors in half precision.

    Args:
        step: decibels between two levels, 0.5 to 12: smaller is finer.
        depth: decibels below a tensor's largest weight, 6 to 96: what is smaller still becomes zero.
    """

    step: float
    depth: float = 36.0

    def __post_init__(self) -> None:
        if not (0.5 <= self.step <= 12 and 6 <= self.depth <= 96):
            raise AsrDeployError("log takes a step of 0.5 to 12 dB and a depth of 6 to 96 dB.")

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield a record for each tensor; the calibration is not used."""
        for name, weights in state.items():
            yield name, self.tensor(weights) if weights.ndim > 1 else half(weights)

    def tensor(self, weights: Weights) -> Coded:
        """Return the record of a tensor: its largest magnitude, then a symbol for each weight (0: zero, 1 …: positive, then negative)."""
        largest = np.float32(max(np.abs(weights).max(initial=0), 1e-30))
        levels = 1 + int(self.depth / self.step)
        below = 20 * np.log10(largest / np.maximum(np.abs(weights.ravel()), 1e-37))  # decibels
        index = np.rint(below / self.step).astype(np.int32)
        symbols = np.where(index < levels, 1 + index + levels * (weights.ravel() < 0), 0).astype(np.int32)
        payload = largest.astype("<f4").tobytes() + entropy_coded(symbols, 1 + 2 * levels)
        return Coded("log", filled(payload, weights.size), {"step": float(self.step), "levels": levels})
