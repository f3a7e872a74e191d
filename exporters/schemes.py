"""Quantisation schemes as data. `asrdeploy export --quant NAME` selects one; `NAME+conv8` and `NAME+reduce_range` are variants.

Other packages add schemes through the entry point group ``asrdeploy.schemes``: each entry point refers to one ``Scheme`` or several.
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
NARROW = 64  # inputs per output channel: only the first convolution, which reads the waveform, has so few
# Descriptions of the storage types, as manifests count them.
DONE = {"float32": "in float", "float16": "in half precision", "stored8": "stored in int8", "int8": "in int8", "int4": "in int4"}
# Valid fields of a scheme. `float16` and `stored8` only store weights so: runtimes compute in floating point.
PRODUCTS = ("float32", "float16", "int8", "int4")
CONVOLUTIONS = ("float32", "float16", "int8", "stored8")
ACTIVATIONS = ("float", "dynamic", "static")


@dataclass(frozen=True)
class Scheme:
    """A quantisation scheme.

    Args:
        name: Value of ``--quant``.
        summary: One-line description.
        formats: Artifact formats that support the scheme.
        products: Storage of the weights of matrix products: ``float32``, ``float16``, ``int8`` or ``int4``.
        convolutions: Storage of the weights of convolutions: ``float32``, ``float16``, ``int8``, or ``stored8`` (stored in 8 bits,
            computed in float).
        activations: Inputs of quantised products: ``float``, ``dynamic`` (8 bits, range of the current input) or ``static`` (8 bits,
            calibrated range).
        group: Number of consecutive weights of a row that share a scale, or None for one scale per row (output channel).
        reduce_range: Whether int8 weights use 7 bits, for processors whose 8-bit sums saturate (x86 without VNNI).
        keep: Names of modules whose weights stay in float32, with ``*`` as a wildcard.
        rest_stored8: With ``int8`` convolutions, whether the first one, which is computed in float, is stored in 8 bits.

    Raises:
        ValueError: If a field has a value that no exporter supports.
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
                raise ValueError(f"{self.name}: {value!r} is not one of {', '.join(known)}")
        if self.activations != "float" and self.products not in ("int8", "int4"):
            raise ValueError(f"{self.name}: {self.activations} activations require int8 or int4 products")
        if self.group is not None and (self.group < 16 or self.group & (self.group - 1)):
            raise ValueError(f"{self.name}: group must be a power of two of at least 16, not {self.group}")

    @property
    def calibrated(self) -> bool:
        """Whether an export requires recordings for calibration."""
        return self.activations == "static"

    def keeps(self, name: str) -> bool:
        """Tell whether a weight or module stays in float32 because ``keep`` names it."""
        return any(fnmatch(name, f"*{pattern}*") for pattern in self.keep)

    def stores(self, name: str, *, convolution: bool, first: bool) -> str:
        """Return the storage of a weight: a value of ``PRODUCTS`` or ``CONVOLUTIONS``.

        Args:
            name: Name of the weight.
            convolution: Whether it belongs to a convolution.
            first: Whether that convolution reads the waveform. It is never computed in 8 bits, which would add too much noise.
        """
        if self.keeps(name):
            return "float32"
        if convolution and first and self.convolutions == "int8":
            return "stored8" if self.rest_stored8 else "float32"
        return self.convolutions if convolution else self.products

    @property
    def exact(self) -> bool:
        """Whether logits equal PyTorch's up to rounding in float32."""
        return (self.products, self.convolutions) == ("float32", "float32")


SCHEMES: dict[str, Scheme] = {}


def register(scheme: Scheme) -> Scheme:
    """Register a scheme under its name and return it."""
    SCHEMES[scheme.name] = scheme
    return scheme


for _scheme in (
    Scheme("fp32", "weights and arithmetic in 32-bit floating point", (ONNX, EXECUTORCH), "float32"),
    Scheme(
        "fp16", "weights in half precision; the runtime chooses the precision of the arithmetic", (ONNX, EXECUTORCH), "float16", "float16"
    ),
    Scheme(
        "int8",
        "8-bit weights per channel, dynamic 8-bit activations in matrix products; convolutions in fp32",
        (ONNX, EXECUTORCH),
        "int8",
        activations="dynamic",
    ),
    Scheme(
        "int8-full",
        "like int8, with the convolutions in 8 bits too, computed as matrix products",
        (ONNX, EXECUTORCH),
        "int8",
        "int8",
        activations="dynamic",
    ),
    Scheme(
        "int8-static",
        "8-bit weights, 8-bit activations with ranges calibrated on dev-clean; convolutions in fp32",
        (ONNX,),
        "int8",
        activations="static",
    ),
    Scheme(
        "int4",
        "4-bit weights in groups, dynamic 8-bit activations in matrix products; convolutions in fp32",
        (ONNX, EXECUTORCH),
        "int4",
        activations="dynamic",
        group=128,
    ),
):
    register(_scheme)


def _conv8(scheme: Scheme) -> Scheme:
    if scheme.convolutions not in ("float32", "float16", "int8"):
        raise AsrDeployError(f"{scheme.name} already stores its convolutions in 8 bits. Leave out +conv8.")
    # int8-full still computes in 8 bits; its first convolution, which is computed in float, is stored in 8 bits too.
    convolutions = "int8" if scheme.convolutions == "int8" else "stored8"
    return replace(scheme, convolutions=convolutions, rest_stored8=True, summary=f"{scheme.summary}; float convolutions stored in 8 bits")


def _reduce_range(scheme: Scheme) -> Scheme:
    if scheme.products != "int8":
        raise AsrDeployError(f"+reduce_range requires int8 weights, but {scheme.name} stores {scheme.products}. Leave it out.")
    formats = tuple(name for name in scheme.formats if name == ONNX)  # XNNPACK's sums do not saturate
    return replace(scheme, reduce_range=True, formats=formats, summary=f"{scheme.summary}; 7-bit weights")


# Variants by suffix, in the order of their suffixes in a name.
VARIANTS: dict[str, tuple[Callable[[Scheme], Scheme], str]] = {
    "conv8": (_conv8, "convolutions computed in float are stored in 8 bits"),
    "reduce_range": (_reduce_range, "7-bit weights, for processors without dot-product instructions (onnx)"),
}


def find_scheme(name: str, format_name: str) -> Scheme:
    """Return a scheme that supports a format.

    Args:
        name: Name of a scheme, with variants as in ``int8+conv8``.
        format_name: Name of the format.

    Raises:
        AsrDeployError: If the scheme or variant is unknown, the variant does not fit the scheme, or the format is not supported.
    """
    plain, *variants = name.split("+")
    scheme = _find_plain(plain)
    unknown = next((each for each in variants if each not in VARIANTS), None)
    if unknown is not None:
        raise nearest(unknown, VARIANTS, "variant of a scheme")
    if len(set(variants)) < len(variants):
        raise AsrDeployError(f"The scheme {name} repeats a variant. Name each variant once.")
    for variant, (apply, _) in VARIANTS.items():
        if variant in variants:
            scheme = apply(scheme)
            scheme = replace(scheme, name=f"{scheme.name}+{variant}")
    if format_name not in scheme.formats:
        raise AsrDeployError(f"The scheme {name} does not support {format_name}. Supported: {', '.join(scheme.formats) or 'no format'}.")
    return scheme


def _find_plain(name: str) -> Scheme:
    if name in SCHEMES:
        return SCHEMES[name]
    theirs, broken = scheme_plugins()
    if name in theirs:
        return theirs[name]
    if name in broken:
        raise AsrDeployError(f"The scheme plug-in {name} cannot be used: {broken[name]}.")
    raise nearest(name, [*SCHEMES, *theirs], "scheme")


def scheme_plugins() -> tuple[dict[str, Scheme], dict[str, str]]:
    """Return the schemes of installed plug-ins by name, and the reasons why others cannot be used."""
    return load_plugins(ENTRY_POINTS, _checked_schemes, taken=SCHEMES)


def _checked_schemes(name: str, value: Any) -> dict[str, Scheme]:
    schemes = [value] if isinstance(value, Scheme) else list(value) if isinstance(value, Iterable) else [value]
    if not schemes or not all(isinstance(each, Scheme) for each in schemes):
        raise TypeError("it is not a Scheme")
    return {each.name: each for each in schemes}
