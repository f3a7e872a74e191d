"""The receiver's side: a record to weights, in numpy and without torch."""

import numpy as np

from asrdeploy.decoders import Parts, Record, Weights, entropy_decoded

MOST_LEVELS = 1000


def decode(record: Record, payload: bytes) -> Weights:
    """Return the weights of a record of the kind `log`, in the order of its shape.

    Raises:
        ValueError: the record is not what the encoder writes; asrdeploy makes a sentence of it.
    """
    step, levels = record.parameters["step"], record.parameters["levels"]
    # A bitstream comes from elsewhere: nothing of it is believed before it was looked at.
    if not isinstance(step, float) or not 0 < step < 100 or not isinstance(levels, int) or not 0 < levels <= MOST_LEVELS:
        raise ValueError("its step or its number of levels is not one of this codec")
    parts = Parts(payload)
    largest = float(parts.array("f4", 1)[0])
    symbols = entropy_decoded(parts, record.elements, 1 + 2 * levels)
    parts.end()
    return magnitudes(largest, step, levels)[symbols]


def magnitudes(largest: float, step: float, levels: int) -> Weights:
    """Return the weight of each symbol: zero, the positive levels from the largest down, the negative ones."""
    positive = largest * 10 ** (-step * np.arange(levels) / 20)
    return np.concatenate([[0.0], positive, -positive]).astype(np.float32)
