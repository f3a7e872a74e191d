"""Schemes: quantisations as data. `asrdeploy export --quant NAME` names one, `NAME+conv8` and `NAME+reduce_range` its variants.

Third parties add schemes through the entry point group ``asrdeploy.schemes``: each entry point names a ``Scheme`` or several.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

from device_runner.errors import AsrDeployError
from device_runner.plugins import load_plugins
from device_runner.suggestions import nearest

ENTRY_POINTS = "asrdeploy.schemes"
ONNX, EXECUTORCH = "onnx", "executorch"
NARROW = 64  # inputs of an output channel: so few has only the first convolution, which takes the waveform
# What a scheme did, in words, by what it stored.
DONE = {"float32": "in float", "float16": "in half precision", "stored8": "stored in int8", "int8": "in int8", "int4": "in int4"}
# What a scheme may say; `float16` and `stored8` are ways to store: the arithmetic is the runtime's in floating point.
PRODUCTS = ("float32", "float16", "int8", "int4")
CONVOLUTIONS = ("float32", "float16", "int8", "stored8")
ACTIVATIONS = ("float", "dynamic", "static")


@dataclass(frozen=True)
class Scheme:
    """What a quantisation does.

    Args:
        name: what ``--quant`` calls it.
        summary: one line for people.
        formats: artifact formats that have it.
        products: how the weights of matrix products are stored: ``float32``, ``float16``, ``int8``, ``int4``.
        convolutions: how those of convolutions are stored: as products, or ``stored8`` for 8 bits that are computed in float.
        activations: inputs of quantised products: ``float``, ``dynamic`` (8 bits by the moment's range) or ``static`` (calibrated).
        group: consecutive weights of a row that share a scale; None: the whole row (one scale per output channel).
        reduce_range: 7 instead of 8 bits for int8 weights, for processors whose 8-bit sums saturate (x86 without VNNI).
        keep: modules (names, `*` allowed) whose weights stay in float32 whatever the rest says.
        rest_stored8: with ``int8`` convolutions, store the first, which is computed in float, in 8 bits too.

    Raises:
        ValueError: a field that none of our exporters knows.
    """

    name: str
    summary: str
    formats: tuple[str, ...]
    products: str
    convolutions: str = "float32"
    activations: str = "float"
    group: int | None = None
    reduce_range: bool = False
    keep: tuple[str, ...] = ()
    rest_stored8: bool = False

    def __post_init__(self) -> None:
        for value, known in ((self.products, PRODUCTS), (self.convolutions, CONVOLUTIONS), (self.activations, ACTIVATIONS)):
            if value not in known:
                raise ValueError(f"{self.name}: {value!r} is none of {', '.join(known)}")
        if self.activations != "float" and self.products not in ("int8", "int4"):
            raise ValueError(f"{self.name}: {self.activations} activations need int8 or int4 products")
        if self.group is not None and (self.group < 16 or self.group & (self.group - 1)):
            raise ValueError(f"{self.name}: a group of {self.group} is no power of two from 16 on")

    @property
    def calibrated(self) -> bool:
        """Whether an export needs recordings for calibration."""
        return self.activations == "static"

    def keeps(self, name: str) -> bool:
        """Whether ``keep`` names the weight or module: it stays in float32."""
        return any(fnmatch(name, f"*{pattern}*") for pattern in self.keep)

    def stores(self, name: str, *, convolution: bool, first: bool) -> str:
        """Return how a weight is stored: a value of ``PRODUCTS`` or ``CONVOLUTIONS``.

        Args:
            name: of the weight.
            convolution: it belongs to a convolution.
            first: to the one that takes the waveform, which 8 bits would drown in noise: it is never computed in them.
        """
        if self.keeps(name):
            return "float32"
        if convolution and first and self.convolutions == "int8":
            return "stored8" if self.rest_stored8 else "float32"
        return self.convolutions if convolution else self.products

    @property
    def exact(self) -> bool:
        """Whether logits equal torch's but for rounding in float32."""
        return (self.products, self.convolutions) == ("float32", "float32")


SCHEMES: dict[str, Scheme] = {}


def register(scheme: Scheme) -> Scheme:
    """Make a scheme known by its name."""
    SCHEMES[scheme.name] = scheme
    return scheme


for _scheme in (
    Scheme("fp32", "weights and arithmetic in 32-bit floating point", (ONNX, EXECUTORCH), "float32"),
    Scheme("fp16", "weights stored in half precision, computed as the runtime can", (ONNX, EXECUTORCH), "float16", "float16"),
    Scheme(
        "int8",
        "8-bit weights per channel, dynamic 8-bit activations in matrix products; convolutions in fp32",
        (ONNX, EXECUTORCH),
        "int8",
        activations="dynamic",
    ),
    Scheme(
        "int8-full",
        "as int8, the convolutions too, as matrix products",
        (ONNX, EXECUTORCH),
        "int8",
        "int8",
        activations="dynamic",
    ),
    Scheme(
        "int8-static",
        "8-bit weights, activation ranges calibrated on dev-clean; convolutions in fp32",
        (ONNX,),
        "int8",
        activations="static",
    ),
    Scheme(
        "int4",
        "4-bit weights by groups, dynamic 8-bit activations in matrix products; convolutions in fp32",
        (ONNX, EXECUTORCH),
        "int4",
        activations="dynamic",
        group=128,
    ),
):
    register(_scheme)


def _conv8(scheme: Scheme) -> Scheme:
    if scheme.convolutions not in ("float32", "float16", "int8"):
        raise AsrDeployError(f"{scheme.name} stores its convolutions in 8 bits already; leave out +conv8.")
    # int8-full keeps its products; what stays float there (the first convolution) is stored in 8 bits too.
    convolutions = "int8" if scheme.convolutions == "int8" else "stored8"
    return replace(
        scheme, convolutions=convolutions, rest_stored8=True, summary=f"{scheme.summary}; what stays float of convolutions stored in 8 bits"
    )


def _reduce_range(scheme: Scheme) -> Scheme:
    if scheme.products != "int8":
        raise AsrDeployError(f"+reduce_range is for int8 weights; {scheme.name} stores {scheme.products}.")
    formats = tuple(name for name in scheme.formats if name == ONNX)  # XNNPACK's sums do not saturate
    return replace(scheme, reduce_range=True, formats=formats, summary=f"{scheme.summary}; 7-bit weights")


# Variants by suffix, in the order in which they stand in a name.
VARIANTS: dict[str, tuple[Callable[[Scheme], Scheme], str]] = {
    "conv8": (_conv8, "stores what stays float of the convolutions in 8 bits and computes it in float"),
    "reduce_range": (_reduce_range, "7-bit weights, for processors without dot-product instructions (onnx)"),
}


def find_scheme(name: str, format_name: str) -> Scheme:
    """Return a scheme that a format has; ``name`` may carry variants, as in ``int8+conv8``.

    Raises:
        AsrDeployError: unknown scheme or variant, a variant that does not fit, or one that the format lacks.
    """
    plain, *variants = name.split("+")
    scheme = _find_plain(plain)
    unknown = next((each for each in variants if each not in VARIANTS), None)
    if unknown is not None:
        raise nearest(unknown, VARIANTS, "variant of a scheme")
    if len(set(variants)) < len(variants):
        raise AsrDeployError(f"{name} names a variant twice.")
    for variant, (apply, _) in VARIANTS.items():
        if variant in variants:
            scheme = apply(scheme)
            scheme = replace(scheme, name=f"{scheme.name}+{variant}")
    if format_name not in scheme.formats:
        raise AsrDeployError(f"The scheme {name} is not there for {format_name}; it is for {', '.join(scheme.formats) or 'no format'}.")
    return scheme


def _find_plain(name: str) -> Scheme:
    if name in SCHEMES:
        return SCHEMES[name]
    theirs, broken = scheme_plugins()
    if name in theirs:
        return theirs[name]
    if name in broken:
        raise AsrDeployError(f"The scheme {name} of another package cannot be used: {broken[name]}.")
    raise nearest(name, [*SCHEMES, *theirs], "scheme")


def scheme_plugins() -> tuple[dict[str, Scheme], dict[str, str]]:
    """Return the schemes of other installed packages by name, and the reason for each one that cannot be used."""
    return load_plugins(ENTRY_POINTS, _checked_schemes, taken=SCHEMES)


def _checked_schemes(name: str, value: Any) -> dict[str, Scheme]:
    schemes = [value] if isinstance(value, Scheme) else list(value) if isinstance(value, Iterable) else [value]
    if not schemes or not all(isinstance(each, Scheme) for each in schemes):
        raise TypeError("it is not a Scheme")
    return {each.name: each for each in schemes}
