"""Codecs with little or no entropy coding (half precision, pruning, low rank), for simple receivers (case b of the scenario)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from device_runner.bitstream.decoders import State, Weights
from device_runner.errors import AsrDeployError
from toolchain.compression.calibration import Calibration
from toolchain.compression.codec import Coded, as_matrix, codec


@codec("fp16")
@dataclass(frozen=True)
class Fp16:
    """Half precision (IEEE float16)."""

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield each tensor in half precision."""
        for name, weights in state.items():
            yield name, half(weights)


@codec("bf16")
@dataclass(frozen=True)
class Bf16:
    """bfloat16: the upper half of a float32, rounded to nearest even."""

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield each tensor in bfloat16."""
        for name, weights in state.items():
            integers = weights.view(np.uint32).astype(np.uint64)
            rounded = (integers + 0x7FFF + ((integers >> 16) & 1)) >> 16
            yield name, Coded("bf16", rounded.astype("<u2").tobytes())


@codec("prune")
@dataclass(frozen=True)
class Prune:
    """The largest weights in half precision with an entropy-coded mask; vectors in half precision.

    Args:
        share: Fraction of the weights of matrices and convolutions that become zero.
        scope: `layer` prunes the same fraction of every layer, `global` compares the weights of all layers.
    """

    share: float
    scope: str = "layer"

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.scope not in ("global", "layer"):
            raise AsrDeployError("The codec prune takes a share between 0 and 1 (both excluded) and the scope global or layer.")

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield masks with the remaining weights."""
        everything = np.concatenate([np.abs(each).ravel() for each in state.values() if each.ndim > 1] or [np.zeros(1, np.float32)])
        limit = np.quantile(everything, self.share)
        for name, weights in state.items():
            if weights.ndim < 2:
                yield name, half(weights)
                continue
            sizes = np.abs(weights).ravel()
            keep = sizes > (limit if self.scope == "global" else np.quantile(sizes, self.share))
            kept = weights.ravel()[keep].astype("<f2").tobytes()
            yield name, Coded("sparse", filled(entropy_coded(keep.astype(np.int32), 2) + kept, weights.size))


@codec("lowrank")
@dataclass(frozen=True)
class LowRank:
    """Two low-rank factors of each matrix in half precision; all other tensors in half precision.

    A matrix whose factors would be larger than itself is not factorised.

    Args:
        share: Fraction of the full rank to keep.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise AsrDeployError("The codec lowrank takes a share above 0 and up to 1.")

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield the factors of each matrix."""
        for name, weights in state.items():
            matrix = as_matrix(weights) if weights.ndim > 1 else None
            rank = 0 if matrix is None else max(1, round(self.share * min(matrix.shape)))
            if matrix is None or rank * sum(matrix.shape) >= matrix.size:
                yield name, half(weights)
                continue
            left, values, right = np.linalg.svd(matrix, full_matrices=False)
            root = np.sqrt(values[:rank])
            factors = (left[:, :rank] * root, root[:, None] * right[:rank])
            yield name, Coded("factors", b"".join(each.astype("<f2").tobytes() for each in factors), {"rank": rank})


def half(weights: Weights) -> Coded:
    """Encode a tensor in half precision, or in float32 if half precision would overflow."""
    kind: Literal["fp16", "fp32"] = "fp16" if np.abs(weights).max(initial=0) < 65504 else "fp32"
    return Coded(kind, weights.astype("<f2" if kind == "fp16" else "<f4").tobytes())


def entropy_coded(symbols: npt.NDArray[np.int32], categories: int) -> bytes:
    """Encode symbols with a model of their frequencies, and prepend the frequencies.

    Args:
        symbols: Symbols from 0 to ``categories - 1``.
        categories: Number of different symbols.
    """
    import constriction

    frequencies = np.bincount(symbols.ravel(), minlength=categories).astype("<u4")
    coder = constriction.stream.stack.AnsCoder()
    if np.count_nonzero(frequencies) > 1:
        model = constriction.stream.model.Categorical(frequencies / float(frequencies.sum()), perfect=False)
        coder.encode_reverse(symbols.ravel(), model)
    words = coder.get_compressed()
    return np.uint32(words.size).astype("<u4").tobytes() + frequencies.tobytes() + words.astype("<u4").tobytes()


def filled(payload: bytes, weights: int) -> bytes:
    """Pad a payload with zeros to the size that the container requires for this number of weights."""
    from device_runner.bitstream.format import WEIGHTS_PER_BYTE

    return payload.ljust(weights // WEIGHTS_PER_BYTE, b"\0")
