"""Scalar quantisation: uniform levels, and palettes from k-means with entropy-coded indices."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from device_runner.bitstream.decoders import State, Weights
from device_runner.errors import AsrDeployError
from toolchain.compression.calibration import Calibration
from toolchain.compression.codec import Coded, as_matrix, codec
from toolchain.compression.feedback import corrected_biases, quantise_with_feedback
from toolchain.compression.plain import entropy_coded, filled, half

SHARES = np.linspace(0.35, 1.0, 27, dtype=np.float32)  # candidates for the largest level, as fractions of the largest weight
SMALLEST = 6.2e-5  # smallest scale (about the smallest normal float16), which keeps rows of zeros finite
ROUNDS = 25  # k-means iterations; later ones change the error by less than 0.1 %
SCOPES = ("tensor", "channel", "group")


@codec("uniform")
@dataclass(frozen=True)
class Uniform:
    """Integers of 1 to 8 bits with half-precision scales; vectors in half precision.

    The scale minimises the squared error over a small grid, because clipping a few large weights pays off below 6 bits. With calibration,
    the error is weighted by the second moments of the inputs and fed back to later columns (GPTQ).

    Args:
        bits: Bits per weight, 1 to 8.
        scope: Weights that share a scale: `tensor`, `channel` (one scale per output channel) or `group`.
        group: Number of consecutive weights of a row that share a scale, for the scope `group`.
        symmetric: Whether zero is a level and no offset is sent.
    """

    bits: int
    scope: str = "channel"
    group: int = 128
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not 2 - (not self.symmetric) <= self.bits <= 8:
            raise AsrDeployError(f"The codec uniform takes 2 to 8 bits (1 to 8 with symmetric=false), not {self.bits}.")
        if self.scope not in SCOPES or self.group < 1:
            raise AsrDeployError("The codec uniform takes the scope tensor, channel or group, and a group of at least 1 weight.")

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield packed integers with their scales."""
        decoded: State = {}
        for name, weights in state.items():
            if weights.ndim > 1:
                moment = calibration.moment(name) if calibration else None
                coded, decoded[name] = self.matrix(as_matrix(weights), moment)
                yield name, coded
        for name, weights in corrected_biases(state, decoded, calibration):
            yield name, half(weights)

    def matrix(self, matrix: Weights, moment: npt.NDArray[np.float32] | None) -> tuple[Coded, Weights]:
        """Quantise a matrix.

        Args:
            matrix: Weights ``[rows, columns]``.
            moment: Second moment ``[columns, columns]`` of the inputs; None for no feedback.

        Returns:
            The coded matrix and its reconstruction ``[rows, columns]``.
        """
        rows, columns = matrix.shape
        group = {"tensor": 0, "channel": columns, "group": min(self.group, columns)}[self.scope]
        importance = None if moment is None else np.diag(moment)
        blocks = [matrix.reshape(1, -1)] if group == 0 else [matrix[:, at : at + group] for at in range(0, columns, group)]
        weighting = [None] * len(blocks)
        if importance is not None and group:
            weighting = [importance[at : at + group] for at in range(0, columns, group)]  # type: ignore[misc]
        found = [self._scales(block, each) for block, each in zip(blocks, weighting, strict=True)]
        scales, offsets = (np.stack(each, axis=1) for each in zip(*found, strict=True))  # [rows or 1, blocks]

        levels = np.empty((rows, columns), np.uint8)

        def quantise(column: int, values: Weights) -> Weights:
            block = 0 if group == 0 else column // group
            scale, offset = scales[:, block], offsets[:, block]
            levels[:, column] = np.clip(np.rint((values - offset) / scale), 0, 2**self.bits - 1)
            result: Weights = levels[:, column] * scale + offset
            return result

        reconstructed = quantise_with_feedback(matrix, moment, quantise)
        sent = [scales] if self.symmetric else [scales, offsets]
        payload = b"".join(each.astype("<f2").tobytes() for each in sent) + pack(levels.ravel(), self.bits).tobytes()
        return Coded("uniform", payload, {"bits": self.bits, "group": group, "offsets": not self.symmetric}), reconstructed

    def _scales(self, rows: Weights, importance: Weights | None) -> tuple[Weights, Weights]:
        """Return the scale and offset of each row, rounded to half precision because they are sent so."""
        top = 2**self.bits - 1
        if self.symmetric:
            largest = np.maximum(np.abs(rows).max(axis=1), 1e-8)
            choices = [(largest * share / (2 ** (self.bits - 1) - 0.5), None) for share in SHARES]
        else:
            low, high = rows.min(axis=1), rows.max(axis=1)
            middle, reach = (low + high) / 2, np.maximum(high - low, 1e-8)
            choices = [(reach * share / top, middle - reach * share / 2) for share in SHARES]
        best_error = np.full(rows.shape[0], np.inf, np.float32)
        best_scale, best_offset = np.ones_like(best_error), np.zeros_like(best_error)
        for plain, offset in choices:
            scale = np.maximum(plain.astype(np.float16).astype(np.float32), SMALLEST)
            start = -scale * 2 ** (self.bits - 1) if offset is None else offset.astype(np.float16).astype(np.float32)
            levels = np.clip(np.rint((rows - start[:, None]) / scale[:, None]), 0, top)
            squared = (rows - start[:, None] - levels * scale[:, None]) ** 2
            error = squared.sum(axis=1) if importance is None else squared @ importance
            better = error < best_error
            for best, new in ((best_error, error), (best_scale, scale), (best_offset, start)):
                best[better] = new[better]
        return best_scale, best_offset


@codec("palette")
@dataclass(frozen=True)
class Palette:
    """k-means palette for each tensor with entropy-coded indices; vectors in half precision.

    With calibration, weights are weighted by the second moments of their inputs, and the error is fed back to later columns.

    Args:
        colours: Number of values in each palette, 2 to 256.
    """

    colours: int

    def __post_init__(self) -> None:
        if not 2 <= self.colours <= 256:
            raise AsrDeployError(f"The codec palette takes 2 to 256 colours, not {self.colours}.")

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield palettes and indices."""
        decoded: State = {}
        for name, weights in state.items():
            if weights.ndim < 2:
                continue
            matrix = as_matrix(weights)
            moment = calibration.moment(name) if calibration else None
            centres = colours(matrix, self.colours, None if moment is None else np.diag(moment))
            book = np.sort(centres.astype(np.float16).astype(np.float32))
            decoded[name] = quantise_with_feedback(matrix, moment, partial(_nearest, book))
            indices = np.searchsorted(book, decoded[name].ravel()).astype(np.int32)
            payload = book.astype("<f2").tobytes() + entropy_coded(indices, self.colours)
            yield name, Coded("palette", filled(payload, weights.size), {"colours": self.colours})
        for name, weights in corrected_biases(state, decoded, calibration):
            yield name, half(weights)


def _nearest(book: Weights, _: int, values: Weights) -> Weights:
    return book[np.searchsorted((book[1:] + book[:-1]) / 2, values)]


def colours(matrix: Weights, number: int, importance: Weights | None) -> Weights:
    """Return the centres of one-dimensional k-means (Lloyd's algorithm), which starts from quantiles.

    In one dimension, sorting finds the nearest centres faster than general k-means does.

    Args:
        matrix: Values to cluster.
        number: Number of centres.
        importance: Weights of the columns; None to weight them equally.
    """
    weight = np.ones_like(matrix) if importance is None else np.broadcast_to(importance + 1e-12, matrix.shape)
    order = np.argsort(matrix, axis=None)
    values, masses = matrix.ravel()[order].astype(np.float64), weight.ravel()[order].astype(np.float64)
    sums, totals = np.append(0, np.cumsum(values * masses)), np.append(0, np.cumsum(masses))
    centres = np.interp((np.arange(number) + 0.5) / number * totals[-1], totals[1:], values)
    for _ in range(ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(values, (centres[1:] + centres[:-1]) / 2), [values.size]])
        mass = np.diff(totals[edges])
        centres = np.where(mass > 0, np.diff(sums[edges]) / np.maximum(mass, 1e-30), centres)
    return centres.astype(np.float32)


def pack(levels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Pack levels ``[n]`` below 2^bits into bytes, most significant bit first."""
    return np.packbits(np.unpackbits(levels[:, None], axis=1)[:, 8 - bits :].ravel())
