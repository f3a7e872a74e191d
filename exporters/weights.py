"""Weights as stored in a model file, for `asrdeploy inspect` and size accounting."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}


@dataclass(frozen=True)
class StoredWeight:
    """A constant of a model file.

    Args:
        name: Module path and parameter, separated by dots.
        kind: ``float32``, ``float16``, ``int8``, ``int4``, ``scales`` (parameters of quantised weights) or ``other``.
        elements: Number of weights or scales.
        bytes: Size in the file.
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
    """Return the number of weights by bits per weight. Scales are not weights."""
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
