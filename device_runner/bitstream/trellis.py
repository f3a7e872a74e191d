"""Decode trellis-coded quantisation on the receiver: the trellis, the adaptive models, and the reconstruction of a tensor.

A weight is ``step * (2 k + z)``. The integer k is sent. The bit z follows from the parities of the previous k through a trellis of 8 or
more states (Ungerboeck, "Channel coding with multilevel/phase signals", 1982; entropy-coded after Fischer and Wang, 1992). A column of the
weight matrix is one lane, or several if it is long. All lanes advance one step at a time, so that NumPy processes them together.

The models adapt to the decoded weights. They use integer arithmetic only, so that every processor computes the same models.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from device_runner.errors import AsrDeployError

# Parity-check polynomials of Ungerboeck's codes for amplitude modulation, by number of states.
POLYNOMIALS = {8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10), 64: (0o103, 0o24)}
LONGEST_LANE = 256
MOST_LEVELS = 4096  # k lies in -MOST_LEVELS .. MOST_LEVELS
PRIOR = 1024  # the initial counts together; they count as much as PRIOR / INCREMENT decoded weights
INCREMENT = 24
Integers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Layout:
    """Division of a weight matrix ``[rows, columns]`` into lanes: ``parts`` lanes per column, with ``steps`` rows each."""

    rows: int
    columns: int

    @property
    def parts(self) -> int:
        """Number of lanes per column: the smallest number of equal lanes of at most ``LONGEST_LANE`` rows."""
        return self.rows // self.steps

    @cached_property
    def steps(self) -> int:
        """Number of weights per lane."""
        return next(steps for steps in range(LONGEST_LANE, 0, -1) if self.rows % steps == 0)

    def lanes(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Rearrange a matrix ``[rows, columns]`` into lanes ``[columns * parts, steps]``."""
        return np.ascontiguousarray(matrix.T).reshape(self.columns * self.parts, self.steps)

    def matrix(self, lanes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Rearrange lanes into the matrix; the inverse of ``lanes``."""
        return np.ascontiguousarray(lanes.reshape(self.columns, self.rows).T)


def next_states(states: int) -> npt.NDArray[np.int64]:
    """Return the trellis ``[states, 2]``: the next state for each state and parity. The lowest bit of a state is its z.

    This is the systematic feedback encoder in observer form: each step shifts the register and adds the taps of the polynomials.
    """
    feedback, forward = POLYNOMIALS[states]
    state, parity = np.arange(states)[:, None], np.arange(2)[None]
    return (state >> 1) ^ ((state & 1) * (feedback >> 1)) ^ (parity * (forward >> 1))


class AdaptiveModels:
    """Counts of k for each z, and the probabilities that encoder and decoder derive from them.

    Args:
        levels: Largest magnitude of k.
        spread: Mean magnitude of ``2 k + z``, in 16ths, which determines the initial counts.
    """

    def __init__(self, levels: int, spread: int) -> None:
        k = np.arange(-levels, levels + 1, dtype=np.int64)
        counts = []
        for z in (0, 1):
            # A heavy-tailed bell, 1 / (1 + x^2)^2, in integer arithmetic: x is the level divided by the spread, in 64ths.
            x = np.minimum(np.abs(2 * k + z) * 1024 // (spread + 1), 2**13)
            bell = (2**40 // (4096 + x**2)) ** 2 >> 20
            counts.append(1 + bell * PRIOR // int(bell.sum()))
        self.counts = np.stack(counts)

    def probabilities(self) -> list[npt.NDArray[np.float64]]:
        """Return the current probabilities of the levels for z = 0 and z = 1, each ``[2 * levels + 1]``."""
        return [row / float(row.sum()) for row in self.counts]

    def add(self, histogram: npt.NDArray[np.int64]) -> None:
        """Add decoded weights to the counts.

        Args:
            histogram: Counts of k for each z, ``[2, 2 * levels + 1]``.
        """
        self.counts += INCREMENT * histogram


def renewals(steps: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of steps ``[first, last)`` that use the same models. Later ranges are longer."""
    first = 0
    while first < steps:
        last = min(steps, first + max(1, min(16, first // 4)))
        yield first, last
        first = last


def decode_levels(
    words: npt.NDArray[np.uint32], layout: Layout, states: int, levels: int, spread: int
) -> tuple[Integers, npt.NDArray[np.uint8]]:
    """Decode k and z, both ``[lanes, steps]``.

    Args:
        words: Entropy-coded data.
        layout: Layout of the tensor.
        states: Number of states of the trellis.
        levels: Largest magnitude of k.
        spread: Spread of the initial counts; see ``AdaptiveModels``.

    Raises:
        AsrDeployError: If data is left after the last weight.
    """
    import constriction  # imported here because only bitstreams require it

    lanes = layout.columns * layout.parts
    k = np.empty((layout.steps, lanes), np.int32)
    z = np.empty((layout.steps, lanes), np.uint8)
    state = np.zeros(lanes, np.int64)
    following = next_states(states).reshape(-1)
    models, coder = AdaptiveModels(levels, spread), constriction.stream.stack.AnsCoder(words)
    width = 2 * levels + 1
    for first, last in renewals(layout.steps):
        categories = [constriction.stream.model.Categorical(each, perfect=False) for each in models.probabilities()]
        histogram = np.zeros((2, width), np.int64)
        for step in range(first, last):
            row, low = k[step], state & 1
            z[step] = low
            for index, category in enumerate(categories):
                places = np.flatnonzero(low == index)
                if places.size:
                    found = coder.decode(category, places.size)
                    row[places] = found
                    histogram[index] += np.bincount(found, minlength=width)
            row -= levels
            state = following[2 * state + (row & 1)]
        models.add(histogram)
    if not coder.is_empty():
        raise AsrDeployError("The bitstream is damaged: data follows after the last weight of a tensor. Transfer the file again.")
    return k.T, z.T


def reconstruct(k: Integers, z: npt.NDArray[np.uint8], layout: Layout, step: float) -> npt.NDArray[np.float32]:
    """Return the weights ``[rows, columns]`` for k and z ``[lanes, steps]``, and overwrite ``k``.

    Working in place limits the memory to the levels and one float tensor. float32 represents 2 k + z exactly.
    """
    k *= 2
    k += z
    values = k.T.astype(np.float32)
    values *= np.float32(step)
    # Lanes are ordered by column, and by part within a column; ``values`` is [steps, lanes].
    placed = values.reshape(layout.steps, layout.columns, layout.parts).transpose(2, 0, 1)
    return np.ascontiguousarray(placed).reshape(layout.rows, layout.columns)
