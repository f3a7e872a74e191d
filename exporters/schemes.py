"""Schemes: one quantisation each, as data. `asrdeploy export --quant NAME` names one."""

from dataclasses import dataclass

from device_runner.errors import AsrDeployError
from device_runner.names import nearest


@dataclass(frozen=True)
class Scheme:
    """What a quantisation does.

    Args:
        name: what ``--quant`` calls it.
        summary: one line for people.
        formats: artifact formats that have it.
        weight_bits: bits of the weights of the matrix products.
        granularity: what shares a scale: ``none``, ``channel``.
        activations: ``float`` or ``dynamic`` (quantised while running, with ranges of the moment).
    """

    name: str
    summary: str
    formats: tuple[str, ...]
    weight_bits: int
    granularity: str
    activations: str


SCHEMES: dict[str, Scheme] = {}


def register(scheme: Scheme) -> Scheme:
    """Make a scheme known by its name."""
    SCHEMES[scheme.name] = scheme
    return scheme


FP32 = register(Scheme("fp32", "weights and arithmetic in 32-bit floating point", ("onnx",), 32, "none", "float"))
INT8 = register(
    Scheme(
        "int8",
        "8-bit weights per channel and dynamic 8-bit activations in matrix products; the rest in fp32",
        ("onnx",),
        8,
        "channel",
        "dynamic",
    )
)


def find_scheme(name: str, format_name: str) -> Scheme:
    """Return a scheme that a format has.

    Raises:
        AsrDeployError: unknown scheme, or one that the format lacks.
    """
    if name not in SCHEMES:
        raise nearest(name, SCHEMES, "scheme")
    scheme = SCHEMES[name]
    if format_name not in scheme.formats:
        raise AsrDeployError(f"The scheme {name} is not there for {format_name}; it is for {', '.join(scheme.formats)}.")
    return scheme
