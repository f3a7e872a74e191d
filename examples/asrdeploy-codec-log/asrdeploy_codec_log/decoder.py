"""Decoder: from a record to weights, in NumPy without PyTorch."""

import numpy as np

from asrdeploy.decoders import Parts, Record, Weights, entropy_decoded

MOST_LEVELS = 1000


def decode(record: Record, payload: bytes) -> Weights:
    """Decode a record of the kind `log`.

    Args:
        record: Description of the record.
        payload: Bytes of the record.

    Returns:
        Weights ``[elements]`` in the order of the record's shape.

    Raises:
        ValueError: If the encoder cannot have written the record. asrdeploy turns it into an error message.
    """
    step, levels = record.parameters["step"], record.parameters["levels"]
    # A bitstream is untrusted input: check its values before using them.
    if not isinstance(step, float) or not 0 < step < 100 or not isinstance(levels, int) or not 0 < levels <= MOST_LEVELS:
        raise ValueError("its step or number of levels is invalid for the codec log")
    parts = Parts(payload)
    largest = float(parts.array("f4", 1)[0])
    symbols = entropy_decoded(parts, record.elements, 1 + 2 * levels)
    parts.end()
    return magnitudes(largest, step, levels)[symbols]


def magnitudes(largest: float, step: float, levels: int) -> Weights:
    """Return the weight of each symbol: zero, the positive levels in descending order, then the negative levels."""
    positive = largest * 10 ** (-step * np.arange(levels) / 20)
    return np.concatenate([[0.0], positive, -positive]).astype(np.float32)
