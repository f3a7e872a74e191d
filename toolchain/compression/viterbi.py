"""Search for the best path through the trellis: the inner loop of the encoder, compiled by numba."""

import numba
import numpy as np
import numpy.typing as npt

FAR = 1e30


@numba.njit(cache=True, nogil=True, fastmath=True)
def search(
    lanes: npt.NDArray[np.float32],
    rates: npt.NDArray[np.float32],
    price: float,
    following: npt.NDArray[np.int64],
    k: npt.NDArray[np.int32],
    z: npt.NDArray[np.uint8],
) -> None:  # pragma: no cover  # coverage cannot measure compiled code
    """Find the path of each lane that minimises the squared error plus ``price`` times the bits.

    Args:
        lanes: Weights ``[lanes, steps]`` in units of the step.
        rates: Bits of each level ``[2, 2 * levels + 1]``, by z.
        price: Squared error, in squared steps, that one bit may save.
        following: Trellis ``[states, 2]``: the next state after each state and bit.
        k: Output ``[lanes, steps]``: levels.
        z: Output ``[lanes, steps]``: lowest bit of the state.
    """
    number, steps = lanes.shape
    states, levels = following.shape[0], (rates.shape[1] - 1) // 2
    before = np.empty((states, 2), np.int64)
    parity = np.empty((states, 2), np.int64)
    found = np.zeros(states, np.int64)
    for state in range(states):
        for bit in range(2):
            after = following[state, bit]
            before[after, found[after]], parity[after, found[after]] = state, bit
            found[after] += 1
    cost, new = np.empty(states, np.float32), np.empty(states, np.float32)
    back = np.empty((steps, states), np.uint8)
    metric, best = np.empty((2, 2), np.float32), np.empty((steps, 2, 2), np.int32)
    for lane in range(number):
        cost[:] = FAR
        cost[0] = 0
        for step in range(steps):
            value = lanes[lane, step]
            for low in range(2):
                for bit in range(2):
                    # Levels of this parity are 4 apart. Try the nearest one, and the next one towards zero, which costs fewer bits.
                    nearest = 2 * int(np.floor((value - 2 * bit - low) * 0.25 + 0.5)) + bit
                    least, chosen = np.float32(FAR), 0
                    for candidate in (nearest, nearest - 2 if nearest > 0 else nearest + 2):
                        if -levels <= candidate <= levels:
                            off = value - (2 * candidate + low)
                            total = off * off + price * rates[low, candidate + levels]
                            if total < least:
                                least, chosen = total, candidate
                    metric[low, bit], best[step, low, bit] = least, chosen
            for state in range(states):
                first, second = before[state, 0], before[state, 1]
                one = cost[first] + metric[first & 1, parity[state, 0]]
                other = cost[second] + metric[second & 1, parity[state, 1]]
                if one <= other:
                    new[state], back[step, state] = one, 0
                else:
                    new[state], back[step, state] = other, 1
            cost[:] = new
        state = int(np.argmin(cost))
        for step in range(steps - 1, -1, -1):
            way = back[step, state]
            previous = before[state, way]
            k[lane, step], z[lane, step] = best[step, previous & 1, parity[state, way]], previous & 1
            state = previous
