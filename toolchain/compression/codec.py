"""The protocol of codecs, their registry, and how a state dict becomes a bitstream and a state dict again."""

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
    """A coded tensor: how a receiver decodes it, and the payload; ``shape``: where it is not that of the tensor of this name."""

    kind: str
    payload: bytes
    parameters: dict[str, Value] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None


class Codec(Protocol):
    """Compresses the weights of a model: a frozen dataclass whose fields are the codec's parameters.

    Another package brings one by the entry point group ``asrdeploy.codecs``. What a receiver does is in ``device_runner.bitstream.decoders``, by the
    kind of each record; a package whose codec needs a kind of its own brings its decoder by the group ``asrdeploy.decoders``.
    """

    def code(self, state: State, calibration: Calibration | None) -> Iterator[tuple[str, Coded]]:
        """Yield every tensor's name and what is sent for it.

        Args:
            state: float32 weights by name.
            calibration: statistics of the layers' inputs; None: the weights alone decide.
        """
        ...


CODECS: dict[str, Callable[..., Codec]] = {}
Maker = TypeVar("Maker", bound=Callable[..., Any])


def codec(name: str) -> Callable[[Maker], Maker]:
    """Register what makes a codec from its parameters, under a name."""

    def register(make: Maker) -> Maker:
        CODECS[name] = make
        return make

    return register


def codec_plugins() -> tuple[dict[str, Callable[..., Codec]], dict[str, str]]:
    """Return the codecs of other installed packages by name, and the reason for each one that cannot be used."""
    return load_plugins(ENTRY_POINTS, _checked_codec, taken=CODECS)


def _checked_codec(name: str, made: Any) -> dict[str, Callable[..., Codec]]:
    usable = isinstance(made, type) and is_dataclass(made) and hasattr(made, "code")
    if not usable:
        raise TypeError("it is not a dataclass with a method code")
    return {name: made}


def defaults(make: Callable[..., Codec]) -> dict[str, Any]:
    """Return a codec's parameters with their defaults; "?": it has to be given."""
    given = {each.name: each.default for each in fields(make)}  # type: ignore[arg-type]
    made = {each.name: each.default_factory() for each in fields(make) if each.default_factory is not MISSING}  # type: ignore[arg-type]
    return {name: "?" if value is MISSING else value for name, value in (given | made).items()}


def make_codec(name: str, **parameters: Any) -> Codec:
    """Make a codec by name.

    Raises:
        AsrDeployError: unknown name or parameter, or a parameter's value that the codec does not take.
    """
    theirs, broken = codec_plugins()
    known = CODECS | theirs
    if name in broken and name not in known:
        raise AsrDeployError(f"The codec {name} of another package cannot be used: {broken[name]}.")
    if name not in known:
        raise nearest(name, known, "codec")
    make: Any = known[name]
    allowed = {each.name: each for each in fields(make)}
    for key, value in parameters.items():
        if key not in allowed:
            raise nearest(key, allowed, f"parameter of {name}") if allowed else AsrDeployError(f"{name} has no parameters.")
        parameters[key] = _converted(name, key, value, str(allowed[key].type))
    try:
        made: Codec = make(**parameters)
    except TypeError as error:
        missing = [each.name for each in fields(make) if each.name not in parameters]
        raise AsrDeployError(f"The codec {name} needs a value for {missing[0] if missing else 'a parameter'}: --set NAME=VALUE.") from error
    return made


def _converted(codec_name: str, key: str, value: Any, kind: str) -> Any:
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
        raise AsrDeployError(f"{key} of {codec_name} cannot be {value!r}.") from error


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
    """Return the bitstream of a state dict by the codec ``name``.

    Args:
        name: of the codec.
        parameters: of the codec.
        state: weights by name, finite.
        calibration: see ``Codec.code``.
        base: weights that the receiver has; the bitstream holds the difference to them, and their digest.
        model: name of the anchor, for the header.
        weights: where they come from, for the header.
        trained: False for random weights, for the header.
        tuned_on: ids of utterances that the weights or the base were tuned with before, for the header; the calibration's are added.
        network: of a custom model, for the header.

    Raises:
        AsrDeployError: an unknown codec, or weights that it cannot code.
    """
    made, plain = make_codec(name, **parameters), as_arrays(state)
    if not all(np.isfinite(each).all() for each in plain.values()):
        raise AsrDeployError("The weights hold NaN or infinite values; they cannot be coded.")
    if base is not None:
        known = as_arrays(base)
        if {key: each.shape for key, each in known.items()} != {key: each.shape for key, each in plain.items()}:
            raise AsrDeployError("The base does not have the model's tensors; an update needs the same architecture.")
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
    """Return the reconstructed float32 state dict.

    Raises:
        AsrDeployError: the bitstream is cut or damaged, or an update whose base is missing or another one.
    """
    header, state = decode_bitstream(in_memory(bitstream), None if base is None else as_arrays(base))
    check_base(header, base)
    return {name: torch.from_numpy(each) for name, each in state.items()}


def check_base(header: Header, base: Mapping[str, Tensor] | None) -> None:
    """Raise AsrDeployError where the weights are not those that an update was made against."""
    if header.base is not None and base is not None and digest_of(base) != header.base:
        raise AsrDeployError("These are not the weights that the update was made against: their digest differs.")


def as_matrix(weights: Weights) -> Weights:
    """Return weights as ``[rows, columns]``, output channels first."""
    return weights.reshape(weights.shape[0], -1)
