"""Weights as a model file stores them: what size accounting and `asrdeploy inspect` count."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True)
class StoredWeight:
    """One constant of a model file.

    Args:
        name: module path and parameter, with dots.
        kind: ``float32``, ``float16``, ``int8``, ``int4``, or ``scales`` (what quantised weights need besides).
        elements: weights, or scales.
        bytes: that they take in the file.
    """

    name: str
    kind: str
    elements: int
    bytes: int


def bytes_by_kind(weights: Iterable[StoredWeight]) -> dict[str, int]:
    """Return bytes by kind, largest first."""
    total: Counter[str] = Counter()
    for weight in weights:
        total[weight.kind] += weight.bytes
    return dict(total.most_common())


def elements_by_bits(weights: Iterable[StoredWeight]) -> dict[int, int]:
    """Return how many weights are stored in how many bits; scales are not weights."""
    total: Counter[int] = Counter()
    for weight in weights:
        if weight.kind in BITS:
            total[BITS[weight.kind]] += weight.elements
    return dict(sorted(total.items(), reverse=True))


def bytes_by_module(weights: Iterable[StoredWeight], depth: int) -> dict[str, int]:
    """Return bytes by the first ``depth`` parts of the module path, largest first."""
    total: Counter[str] = Counter()
    for weight in weights:
        total[".".join(weight.name.split(".")[:-1][:depth]) or "constants of the graph"] += weight.bytes
    return dict(total.most_common())
