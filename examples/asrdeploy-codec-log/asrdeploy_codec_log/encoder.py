"""Encoder: from weights to records."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asrdeploy.codecs import AsrDeployError, Calibration, Coded, State, Weights, entropy_coded, filled, half


@dataclass(frozen=True)
class Log:
    """Signs and logarithmic magnitudes, entropy-coded; vectors in half precision.

    Args:
        step: Decibels between two levels, 0.5 to 12. Smaller is finer.
        depth: Decibels below a tensor's largest weight, 6 to 96. Smaller weights become zero.
    """

    step: float
    depth: float = 36.0

    def __post_init__(self) -> None:
        if not (0.5 <= self.step <= 12 and 6 <= self.depth <= 96):
            raise AsrDeployError(
                f"The codec log requires a step of 0.5 to 12 dB and a depth of 6 to 96 dB, not {self.step:g} and {self.depth:g}."
            )

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield a record for each tensor.

        Args:
            state: Weights by name.
            calibration: Not used by this codec.
        """
        for name, weights in state.items():
            yield name, self.tensor(weights) if weights.ndim > 1 else half(weights)

    def tensor(self, weights: Weights) -> Coded:
        """Encode a tensor: its largest magnitude, then a symbol per weight (0: zero, then the positive levels, then the negative ones)."""
        largest = np.float32(max(np.abs(weights).max(initial=0), 1e-30))
        levels = 1 + int(self.depth / self.step)
        below = 20 * np.log10(largest / np.maximum(np.abs(weights.ravel()), 1e-37))  # decibels
        index = np.rint(below / self.step).astype(np.int32)
        symbols = np.where(index < levels, 1 + index + levels * (weights.ravel() < 0), 0).astype(np.int32)
        payload = largest.astype("<f4").tobytes() + entropy_coded(symbols, 1 + 2 * levels)
        return Coded("log", filled(payload, weights.size), {"step": float(self.step), "levels": levels})
