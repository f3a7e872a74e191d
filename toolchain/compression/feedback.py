"""Quantisation with known inputs: the error of a column is fed back to later columns, and biases are corrected.

After Frantar et al., "OPTQ: accurate quantization for generative pre-trained transformers" (ICLR 2023).
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from device_runner.bitstream.decoders import State, Weights
from toolchain.compression.calibration import Calibration

DAMPING = 0.02  # fraction of the mean second moment added to the diagonal, so that rarely used columns hardly change
BLOCK = 64  # columns that are updated one by one before all later ones
Matrix = npt.NDArray[np.float32]


def feedback_factor(moment: Matrix) -> Matrix:
    """Return the upper Cholesky factor ``[columns, columns]`` of the inverse of a damped second moment.

    Row c defines how later columns compensate an error in column c.
    """
    damped = moment.astype(np.float64)
    diagonal = np.diag(damped).copy()
    damped[np.diag_indices_from(damped)] += DAMPING * max(float(diagonal.mean()), 1e-12)
    inverse = np.linalg.inv(damped)
    return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)


def quantise_with_feedback(
    matrix: Weights, moment: Matrix | None, quantise: Callable[[int, Weights], Weights], factor: Matrix | None = None
) -> Weights:
    """Quantise one column after another and return the reconstruction ``[rows, columns]``.

    Args:
        matrix: Weights ``[rows, columns]``.
        moment: Second moment ``[columns, columns]`` of the inputs. Without ``moment`` and ``factor`` there is no feedback.
        quantise: Function from the index of a column and its corrected values ``[rows]`` to their reconstruction.
        factor: Result of ``feedback_factor``, if already computed.
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
    """Yield the vectors of a state dict, with biases corrected so that the mean output of a quantised layer does not change.

    Args:
        state: All weights by name.
        decoded: Reconstructed matrices ``[rows, columns]`` by name.
        calibration: Statistics of the layers; None to correct nothing.
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
