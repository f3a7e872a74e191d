"""The protocol and registry of codecs, and the conversion of state dicts to bitstreams and back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from device_runner.bitstream.decoders import State, Weights, decode_bitstream
from device_runner.bitstream.format import Header, Record, Value, in_memory, write_bitstream
from device_runner.bitstream.network import Network
from device_runner.errors import AsrDeployError
from device_runner.plugins import load_plugins
from device_runner.suggestions import nearest
from toolchain.compression.calibration import Calibration
from toolchain.models.weight_files import as_arrays, digest_of

ENTRY_POINTS = "asrdeploy.codecs"


@dataclass(frozen=True)
class Coded:
    """A coded tensor.

    Args:
        kind: Kind of the record, which selects the receiver's decoder.
        payload: Coded bytes.
        parameters: Parameters of the decoder.
        shape: Shape of the decoded tensor; None for the shape of the original tensor.
    """

    kind: str
    payload: bytes
    parameters: dict[str, Value] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None


class Codec(Protocol):
    """Compress the weights of a model: a frozen dataclass whose fields are the codec's parameters.

    Other packages add codecs through the entry point group ``asrdeploy.codecs``. Receivers decode records by their kind; see
    ``device_runner.bitstream.decoders``. Packages add decoders of new kinds through the group ``asrdeploy.decoders``.
    """

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield the name of each tensor and its coded form.

        Args:
            state: float32 weights by name.
            calibration: Statistics of the layers; None to use the weights only.
        """
        ...


CODECS: dict[str, Callable[..., Codec]] = {}
Maker = TypeVar("Maker", bound=Callable[..., Any])


def codec(name: str) -> Callable[[Maker], Maker]:
    """Register a codec under a name; for use as a class decorator."""

    def register(make: Maker) -> Maker:
        CODECS[name] = make
        return make

    return register


def codec_plugins() -> tuple[dict[str, Callable[..., Codec]], dict[str, str]]:
    """Return the codecs of other installed packages by name, and for each one that cannot be used the reason by name."""
    return load_plugins(ENTRY_POINTS, _checked_codec, taken=CODECS)


def _checked_codec(name: str, made: Any) -> dict[str, Callable[..., Codec]]:
    usable = isinstance(made, type) and is_dataclass(made) and hasattr(made, "code")
    if not usable:
        raise TypeError("it is not a dataclass with a method `code`")
    return {name: made}


def defaults(make: Callable[..., Codec]) -> dict[str, Any]:
    """Return the default of each parameter of a codec by name; "?" marks a required parameter."""
    given = {each.name: each.default for each in fields(make)}  # type: ignore[arg-type]
    made = {each.name: each.default_factory() for each in fields(make) if each.default_factory is not MISSING}  # type: ignore[arg-type]
    return {name: "?" if value is MISSING else value for name, value in (given | made).items()}


def make_codec(name: str, **parameters: Any) -> Codec:
    """Return the codec with a name and parameters.

    Args:
        name: Name of the codec.
        **parameters: Parameters of the codec; text is converted to the type of the parameter.

    Raises:
        AsrDeployError: If the name or a parameter is unknown, or a value is not valid.
    """
    theirs, broken = codec_plugins()
    known = CODECS | theirs
    if name in broken and name not in known:
        raise AsrDeployError(f"The codec plug-in {name} cannot be used: {broken[name]}.")
    if name not in known:
        raise nearest(name, known, "codec")
    make: Any = known[name]
    allowed = {each.name: each for each in fields(make)}
    for key, value in parameters.items():
        if key not in allowed:
            raise (
                nearest(key, allowed, f"parameter of {name}") if allowed else AsrDeployError(f"{name} has no parameters. Leave {key} out.")
            )
        parameters[key] = _converted(name, key, value, str(allowed[key].type))
    try:
        made: Codec = make(**parameters)
    except TypeError as error:
        missing = next((each.name for each in fields(make) if each.name not in parameters), "NAME")
        raise AsrDeployError(f"The codec {name} requires a value for {missing}. Set it with --set {missing}=VALUE.") from error
    return made


def _converted(codec_name: str, key: str, value: Any, kind: str) -> Any:
    value = value.item() if isinstance(value, np.generic) else value  # a header keeps plain numbers
    whole = kind.startswith("<class 'int") or kind.split(" ")[0] == "int"
    if "str" in kind or not (isinstance(value, str) or (whole and isinstance(value, float))):
        return value
    try:
        if "bool" in kind:
            return {"true": True, "false": False}[str(value).lower()]
        if whole and isinstance(value, float) and not value.is_integer():
            raise ValueError
        return int(value) if whole else float(value)
    except (ValueError, KeyError) as error:
        wanted = "true or false" if "bool" in kind else "a whole number" if whole else "a number"
        raise AsrDeployError(f"The codec {codec_name}: {key} cannot be {value!r}. Give {wanted}.") from error


def encode(
    name: str,
    parameters: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    calibration: Calibration | None = None,
    base: Mapping[str, Tensor] | None = None,
    model: str = "",
    weights: str = "",
    trained: bool = True,
    tuned_on: tuple[str, ...] = (),
    network: Network | None = None,
) -> bytes:
    """Encode a state dict with a codec and return the bitstream.

    Args:
        name: Name of the codec.
        parameters: Parameters of the codec.
        state: Weights by name.
        calibration: Statistics of the layers; see ``Codec.code``.
        base: Weights that the receiver has. The bitstream then holds the difference from them, and their digest.
        model: Name of the model, for the header.
        weights: Origin of the weights, for the header.
        trained: False for random weights, for the header.
        tuned_on: Ids of the utterances that the weights or the base were tuned on, for the header. Those of the calibration are added.
        network: Description of a custom model, for the header.

    Raises:
        AsrDeployError: If the codec is unknown, or cannot encode the weights.
    """
    made, plain = make_codec(name, **parameters), as_arrays(state)
    if not all(np.isfinite(each).all() for each in plain.values()):
        raise AsrDeployError("The weights contain NaN or infinite values and cannot be compressed.")
    if base is not None:
        known = as_arrays(base)
        if {key: each.shape for key, each in known.items()} != {key: each.shape for key, each in plain.items()}:
            raise AsrDeployError("The base has different tensors from the model. An update requires a base of the same architecture.")
        plain = {key: np.asarray(each - known[key]) for key, each in plain.items()}
    coded = dict(made.code(plain, calibration))
    records = tuple(
        Record(name=key, kind=each.kind, shape=each.shape or plain[key].shape, bytes=len(each.payload), parameters=each.parameters)
        for key, each in coded.items()
    )
    settings = {each.name: getattr(made, each.name) for each in fields(made)}  # type: ignore[arg-type]
    if calibration is not None:
        settings["calibration"] = calibration.source
        tuned_on += calibration.tuned_on
    header = Header(
        codec=name,
        parameters=settings,
        model=model,
        weights=weights,
        trained=trained,
        base=None if base is None else digest_of(base),
        tuned_on=tuple(dict.fromkeys(tuned_on)),
        network=network,
        records=records,
    )
    return write_bitstream(header, (each.payload for each in coded.values()))


def decode(bitstream: bytes, base: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Decode a bitstream to a float32 state dict.

    Args:
        bitstream: Content of a bitstream file.
        base: Weights that an update was made from.

    Raises:
        AsrDeployError: If the bitstream is cut or damaged, or is an update and its base is missing or different.
    """
    header, state = decode_bitstream(in_memory(bitstream), None if base is None else as_arrays(base))
    check_base(header, base)
    return {name: torch.from_numpy(each) for name, each in state.items()}


def check_base(header: Header, base: Mapping[str, Tensor] | None) -> None:
    """Raise AsrDeployError if an update was made from other weights than ``base``."""
    if header.base is not None and base is not None and digest_of(base) != header.base:
        raise AsrDeployError("The weights given with --base are not the ones that this update was made from (their digest differs).")


def as_matrix(weights: Weights) -> Weights:
    """Reshape weights to ``[rows, columns]``, one row per output channel."""
    return weights.reshape(weights.shape[0], -1)
