"""Helpers of the latency tests: noise as audio, and statistics of invented runs."""

import numpy as np

from device_runner.latency import Steady, summarise

RATE = 16_000


def noise(*lengths: float) -> dict[float, np.ndarray]:
    generator = np.random.default_rng(1)
    return {seconds: generator.uniform(-1, 1, round(seconds * RATE)).astype(np.float32) for seconds in lengths}


def steady(median: float = 0.2, rounds: int = 3, runs: int = 40, drift: float = 0.0) -> Steady:
    """Return statistics where all runs of a round take the same time, and each round takes ``drift`` * ``median`` longer than the last."""
    return summarise(2.0, [[median * (1 + drift * turn)] * runs for turn in range(rounds)])
