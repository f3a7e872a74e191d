"""Quantisation that knows the inputs: error fed back to later columns, biases corrected.

After Frantar et al., "OPTQ: accurate quantization for generative pre-trained transformers" (ICLR 2023).
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from device_runner.bitstream.decoders import State, Weights
from toolchain.compression.calibration import Calibration

DAMPING = 0.02  # of the mean second moment, added to the diagonal: columns that were hardly heard stay where they are
BLOCK = 64  # columns that are updated one by one before the rest is
Matrix = npt.NDArray[np.float32]


def feedback_factor(moment: Matrix) -> Matrix:
    """Return the upper Cholesky factor of the inverse of a second moment ``[columns, columns]``, damped.

    Row c says how an error of column c is made good by the columns after it.
    """
    damped = moment.astype(np.float64)
    diagonal = np.diag(damped).copy()
    damped[np.diag_indices_from(damped)] += DAMPING * max(float(diagonal.mean()), 1e-12)
    inverse = np.linalg.inv(damped)
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)


def quantise_with_feedback(
    matrix: Weights, moment: Matrix | None, quantise: Callable[[int, Weights], Weights], factor: Matrix | None = None
) -> Weights:
    """Quantise column after column and return the reconstruction ``[rows, columns]``.

    Args:
        matrix: ``[rows, columns]``.
        moment: second moment of the inputs; None (and no factor): no feedback.
        quantise: takes a column's index and its (corrected) values ``[rows]``, returns their reconstruction.
        factor: of the moment, where it is known already.
    """
    rows, columns = matrix.shape
    result = np.empty_like(matrix)
    if factor is None:
        if moment is None:
            for column in range(columns):
                result[:, column] = quantise(column, matrix[:, column])
            return result
        factor = feedback_factor(moment)
    work = matrix.copy()
    for first in range(0, columns, BLOCK):
        last = min(columns, first + BLOCK)
        errors = np.empty((rows, last - first), np.float32)
        for column in range(first, last):
            result[:, column] = quantise(column, np.ascontiguousarray(work[:, column]))
            error = (work[:, column] - result[:, column]) / factor[column, column]
            work[:, column + 1 : last] -= np.outer(error, factor[column, column + 1 : last])
            errors[:, column - first] = error
        work[:, last:] -= errors @ factor[first:last, last:]
    return result


def corrected_biases(state: State, decoded: State, calibration: Calibration | None) -> Iterator[tuple[str, Weights]]:
    """Yield the vectors of a state, biases changed so that a quantised layer's mean output stays what it was.

    Args:
        state: all weights.
        decoded: reconstructed matrices ``[rows, columns]`` by name.
        calibration: None: the vectors as they are.
    """
    for name, weights in state.items():
        if weights.ndim > 1:
            continue
        layer = f"{name.removesuffix('.bias')}.weight"
        mean = calibration.mean(layer) if calibration and name.endswith(".bias") else None
        if mean is not None and layer in decoded:
            lost = (state[layer].reshape(len(weights), -1) - decoded[layer]) @ mean
            weights = (weights + lost).astype(np.float32)
        yield name, weights
