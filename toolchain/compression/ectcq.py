"""Encoder of entropy-coded trellis quantisation. ``device_runner.bitstream.trellis`` describes its records.

Without calibration, all weights share one step, which minimises the squared error at a given rate. With calibration, the step of a layer
follows from its sensitivity, and later columns compensate the error of a column (``feedback``).
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_runner.bitstream.decoders import State, Weights
from device_runner.bitstream.format import Value
from device_runner.bitstream.trellis import MOST_LEVELS, POLYNOMIALS, AdaptiveModels, Layout, next_states, renewals
from device_runner.errors import AsrDeployError
from toolchain.compression.calibration import Calibration
from toolchain.compression.codec import Coded, as_matrix, codec
from toolchain.compression.feedback import corrected_biases, feedback_factor, quantise_with_feedback
from toolchain.compression.plain import filled, half
from toolchain.compression.uniform import Uniform
from toolchain.compression.viterbi import search

# Squared error, in squared steps, that one bit may save: 2 ln 2 times a distortion of about 1/4 (the slope of 6 dB per bit).
PRICE = 0.36
# A step is the sensitivity to the power of -POWER. 0.5 is optimal for small errors; 0.35 gave the least divergence on one half of
# dev-clean with the other half as calibration, at 1.8 and 2 bits.
POWER = 0.35
SAMPLE = 2**14  # weights of a tensor that its rate is estimated from
SMALLEST_TENSOR = 256  # smaller tensors do not pay for a probability model
MAX_SNR, LEAST_BITS, MAX_BITS = 60.0, 0.05, 10.0
SEARCHES = 16  # bisections for the common step, to a precision of 0.1 %
Array = npt.NDArray[np.float32]


@codec("ectcq")
@dataclass(frozen=True)
class Ectcq:
    """Trellis-coded quantisation with adaptive entropy coding; vectors in 8 bits.

    Args:
        bits: Bits per weight of matrices and convolutions, on average over the model.
        snr: Signal-to-noise ratio of the weights in dB, instead of ``bits``.
        states: States of the trellis: 8, 16, 32 or 64. More states take longer and gain a few hundredths of a dB.
    """

    bits: float | None = None
    snr: float | None = None
    states: int = 16

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.snr is None):
            raise AsrDeployError("The codec ectcq requires either bits (per weight) or snr (in dB). Give exactly one of them.")
        wanted = LEAST_BITS <= self.bits <= MAX_BITS if self.bits is not None else 0 < (self.snr or 0) <= MAX_SNR
        if not wanted or self.states not in POLYNOMIALS:
            raise AsrDeployError(
                f"The codec ectcq takes {LEAST_BITS:g} to {MAX_BITS:g} bits, or an snr up to {MAX_SNR:g} dB; and 8, 16, 32 or 64 states."
            )

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield matrices coded with the trellis, and vectors in 8 bits."""
        chosen = {name: as_matrix(each) for name, each in state.items() if each.ndim > 1 and each.size >= SMALLEST_TENSOR}
        plans = {name: Plan.of(name, matrix, calibration) for name, matrix in chosen.items()}
        step = self._common_step(plans) if plans else 1.0
        decoded: State = {}
        # The search releases the interpreter lock, so threads run in parallel.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda plan: plan.code(step, self.states), plans.values())
            for name, (coded, reconstructed) in zip(plans, found, strict=True):
                decoded[name] = reconstructed
                yield name, coded
        vectors = Uniform(8, scope="tensor", symmetric=False)
        for name, weights in corrected_biases(state, decoded, calibration):
            yield name, vectors.matrix(weights.reshape(-1, 1), None)[0] if weights.size > 1 else half(weights)
        for name, weights in state.items():
            if weights.ndim > 1 and name not in chosen:
                yield name, half(weights)

    def _common_step(self, plans: "dict[str, Plan]") -> float:
        """Find the step that gives the requested rate or signal-to-noise ratio, estimated from samples."""
        largest = max(float(np.abs(plan.sample / plan.relative).max(initial=0)) for plan in plans.values()) or 1.0
        low, high = largest * 2.0 ** -(MAX_BITS + 8), 2 * largest
        for _ in range(SEARCHES):
            step = math.sqrt(low * high)
            if self.bits is not None:
                total = sum(plan.size for plan in plans.values())
                coarse = sum(plan.size * plan.estimated_bits(step) for plan in plans.values()) / total < self.bits
            else:
                signal, noise = (sum(each) for each in zip(*(plan.estimated_energies(step) for plan in plans.values()), strict=True))
                coarse = noise > 0 and 10 * math.log10(max(signal, 1e-30) / noise) < (self.snr or 0)
            low, high = (low, step) if coarse else (step, high)
        return math.sqrt(low * high)


@dataclass(frozen=True)
class Plan:
    """Settings for coding a tensor.

    Args:
        matrix: Weights ``[rows, columns]``.
        relative: Step relative to the common step.
        factor: Feedback factor ``[columns, columns]``; None for no feedback.
        sample: Some of the weights, for estimates.
    """

    matrix: Weights
    relative: float
    factor: Array | None
    sample: Array

    @classmethod
    def of(cls, name: str, matrix: Weights, calibration: Calibration | None) -> "Plan":
        """Choose the settings for a tensor from the calibration."""
        moment = calibration.moment(name) if calibration else None
        sensitivity = calibration.sensitivity.get(name) if calibration else None
        relative = 1.0 if sensitivity is None else sensitivity**-POWER
        factor = None if moment is None else feedback_factor(moment)
        every = max(1, matrix.size // SAMPLE) | 1  # odd, so that the stride shares no factor with most widths
        return cls(matrix, relative, factor, matrix.ravel()[::every])

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.matrix.size

    def estimated_bits(self, common: float) -> float:
        """Estimate the bits per weight as the entropy of a scalar quantiser with the doubled step."""
        levels = np.rint(self.sample / (2 * common * self.relative)).astype(np.int64)
        counts = np.bincount(levels - levels.min())
        share = counts[counts > 0] / levels.size
        return float(-(share * np.log2(share)).sum())

    def estimated_energies(self, common: float) -> tuple[float, float]:
        """Estimate the energy of the weights and of their error."""
        doubled = 2 * common * self.relative
        error = self.sample - doubled * np.rint(self.sample / doubled)
        energy = self.size / self.sample.size
        # A trellis of 8 states gains about 1 dB over the scalar quantiser.
        return float(np.square(self.sample).sum()) * energy, 0.8 * float(np.square(error).sum()) * energy

    def code(self, common: float, states: int) -> tuple[Coded, Weights]:
        """Quantise and code the tensor; return the record and the reconstruction ``[rows, columns]``."""
        layout, step = Layout(*self.matrix.shape), np.float32(common * self.relative)
        lanes = layout.lanes(self.matrix / step)
        levels = int(np.abs(lanes).max() / 2) + 2
        if self.factor is not None:
            levels *= 2  # feedback may increase a weight
        levels = min(MOST_LEVELS, levels)
        rates, trellis = _rates(lanes, levels), next_states(states)
        k, z = np.empty(lanes.shape, np.int32), np.empty(lanes.shape, np.uint8)
        if self.factor is None:
            search(lanes, rates, PRICE, trellis, k, z)
        else:

            def quantise(column: int, values: Weights) -> Weights:
                own = slice(column * layout.parts, (column + 1) * layout.parts)
                search((values / step).reshape(layout.parts, layout.steps), rates, PRICE, trellis, k[own], z[own])
                result: Weights = (2 * k[own] + z[own]).ravel() * step
                return result

            quantise_with_feedback(self.matrix, None, quantise, self.factor)
        levels = max(1, int(np.abs(k).max()))  # a probability model requires two levels
        spread = int(16 * np.abs(2 * k + z).mean())
        words = _entropy_code(k, z, spread, levels)
        parameters: dict[str, Value] = {"states": states, "levels": levels, "step": float(step), "spread": spread, "words": words.size}
        return Coded("trellis", filled(words.astype("<u4").tobytes(), self.size), parameters), layout.matrix((2 * k + z) * step)


def _rates(lanes: Array, levels: int) -> Array:
    """Estimate the bits of each level ``[2, 2 * levels + 1]``, by z, from a histogram of rounded weights."""
    rates = np.empty((2, 2 * levels + 1), np.float32)
    for z in (0, 1):
        rounded = np.clip(np.rint((lanes - z) / 2), -levels, levels).astype(np.int64).ravel() + levels
        counts = np.bincount(rounded, minlength=2 * levels + 1) + 0.1
        rates[z] = np.log2(counts.sum() / counts)
    return rates


def _entropy_code(k: npt.NDArray[np.int32], z: npt.NDArray[np.uint8], spread: int, levels: int) -> npt.NDArray[np.uint32]:
    """Encode levels ``[lanes, steps]`` with the probability models that the decoder has at each step."""
    import constriction

    models, width = AdaptiveModels(levels, spread), 2 * levels + 1
    symbols, low = np.ascontiguousarray(k.T) + levels, np.ascontiguousarray(z.T)
    runs = []
    for first, last in renewals(len(symbols)):
        runs.append((first, last, models.probabilities()))
        flat = low[first:last].ravel().astype(np.int64) * width + symbols[first:last].ravel()
        models.add(np.bincount(flat, minlength=2 * width).reshape(2, width))
    coder = constriction.stream.stack.AnsCoder()
    for first, last, probabilities in reversed(runs):  # a stack coder decodes in reverse order
        categories = [constriction.stream.model.Categorical(each, perfect=False) for each in probabilities]
        for step in range(last - 1, first - 1, -1):
            for index in (1, 0):
                chosen = symbols[step][low[step] == index]
                if chosen.size:
                    coder.encode_reverse(chosen, categories[index])
    words: npt.NDArray[np.uint32] = coder.get_compressed()
    return words
