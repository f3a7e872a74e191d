"""Reconstruct tensors from the records of a bitstream on the receiver, with NumPy.

Other packages can add kinds of records through the entry point group ``asrdeploy.decoders``. The name of the entry point is the kind, and
its object is a function that takes a record and its payload. It runs on the receiver, so it should not import PyTorch.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from device_runner.bitstream.format import MAX_WEIGHTS, BitstreamReader, Header, Record
from device_runner.bitstream.trellis import MOST_LEVELS, POLYNOMIALS, Layout, decode_levels, reconstruct
from device_runner.errors import AsrDeployError
from device_runner.plugins import load_plugins

Weights = npt.NDArray[np.float32]
State = dict[str, Weights]
Decoder = Callable[[Record, bytes], Weights]
ENTRY_POINTS = "asrdeploy.decoders"


def decode_bitstream(
    stream: BinaryIO, base: Mapping[str, Weights] | None = None, *, max_weights: int = MAX_WEIGHTS
) -> tuple[Header, State]:
    """Decode a bitstream and return its header and weights.

    Args:
        stream: Binary stream, opened for reading.
        base: Weights to which the records of an update are added.
        max_weights: Largest accepted number of weights.

    Raises:
        AsrDeployError: If the bitstream is cut, damaged, of an unknown kind, or an update without its base.
    """
    reader = BitstreamReader(stream, max_weights=max_weights)
    return reader.header, dict(decode_records(reader, base))


def decode_records(reader: BitstreamReader, base: Mapping[str, Weights] | None = None) -> Iterator[tuple[str, Weights]]:
    """Yield the name and weights of each record as soon as it arrives; see ``decode_bitstream``."""
    if reader.header.base is not None and base is None:
        raise AsrDeployError("This bitstream is an update. Give the weights that it was made from with --base.")
    for record, payload in reader.records():
        weights = decode_record(record, payload)
        if reader.header.base is not None and base is not None:
            weights = _updated(record, weights, base)
        yield record.name, weights


def decode_record(record: Record, payload: bytes) -> Weights:
    """Return the weights of a record as float32, in the shape that the record declares.

    Raises:
        AsrDeployError: If the kind is unknown, or the payload does not match the record.
    """
    decoder = DECODERS.get(record.kind) or decoder_plugin(record.kind)
    if decoder is None:
        raise AsrDeployError(
            f"The bitstream's record {record.name} has the unknown kind {record.kind}. "
            "Install a newer asrdeploy, or the package that provides its codec."
        )
    try:
        weights = decoder(record, payload)
        return np.ascontiguousarray(weights, np.float32).reshape(record.shape)
    except Exception as error:
        known = (ValueError, KeyError, TypeError, IndexError, OverflowError, zlib.error)
        if record.kind in DECODERS and not isinstance(error, known):  # built-in decoders report damaged bytes only in these ways
            raise
        raise AsrDeployError(f"The bitstream's record {record.name} is not valid: {error}.") from error


@cache
def decoder_plugin(kind: str) -> Decoder | None:
    """Return the decoder that an installed package provides for a kind of record, or None if there is none.

    Raises:
        AsrDeployError: If a package provides a decoder that cannot be used.
    """
    found, broken = load_plugins(ENTRY_POINTS, _checked_decoder, name=kind)
    if broken:
        raise AsrDeployError(f"The decoder {kind}, which another package provides, cannot be used: {broken[kind]}.")
    return found.get(kind)


def _checked_decoder(name: str, found: Any) -> dict[str, Decoder]:
    if not callable(found):
        raise TypeError("it is not a function")
    return {name: found}


def unpack(packed: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Unpack ``count`` levels of ``bits`` bits each, stored with the most significant bit first.

    Raises:
        ValueError: If there are fewer than ``count`` levels.
    """
    flat = np.unpackbits(packed[: -(-count * bits // 8)])[: count * bits]
    if flat.size < count * bits:
        raise ValueError(f"{flat.size // bits} levels instead of {count}")
    return np.packbits(np.pad(flat.reshape(count, bits), ((0, 0), (8 - bits, 0))), axis=1)[:, 0]


class Parts:
    """Reads the parts of a payload in order. Missing parts raise ValueError, which ``decode_record`` turns into an AsrDeployError."""

    def __init__(self, payload: bytes) -> None:
        self._payload, self._place = payload, 0

    def array(self, kind: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """Return the next ``count`` little-endian numbers.

        Raises:
            ValueError: If the payload is too short.
        """
        size = np.dtype(kind).itemsize * count
        if count < 0 or self._place + size > len(self._payload):
            raise ValueError("its payload is too short")
        found = np.frombuffer(self._payload, np.dtype(kind).newbyteorder("<"), count, self._place)
        self._place += size
        return found

    def end(self) -> None:
        """Raise ValueError if anything other than padding zeros follows."""
        if self._payload[self._place :].strip(b"\0"):
            raise ValueError("its payload is too long")


def _matrix(record: Record) -> tuple[int, int]:
    rows = record.shape[0] if record.shape else 1
    return rows, record.elements // max(rows, 1)


def _whole(record: Record, key: str, low: int, high: int) -> int:
    value = record.parameters[key]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{key} is {value!r}, but must be an integer from {low} to {high}")
    return value


def _floats(record: Record, payload: bytes) -> Weights:
    kind = {"fp32": "f4", "fp16": "f2", "bf16": "u2"}[record.kind]
    parts = Parts(payload)
    values = parts.array(kind, record.elements)
    parts.end()
    if record.kind == "bf16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _uniform(record: Record, payload: bytes) -> Weights:
    """Decode levels of n bits, with a scale (and an offset if not symmetric) for the tensor, each row or each group of a row."""
    rows, columns = _matrix(record)
    bits, group = _whole(record, "bits", 1, 8), _whole(record, "group", 0, 2**31)
    blocks = 1 if group == 0 else rows * -(-columns // group)
    parts = Parts(payload)
    scales = parts.array("f2", blocks).astype(np.float32)
    offsets = parts.array("f2", blocks).astype(np.float32) if record.parameters["offsets"] else None
    levels = unpack(parts.array("u1", -(-record.elements * bits // 8)), bits, record.elements).astype(np.float32).reshape(rows, columns)
    parts.end()
    if offsets is None:
        levels -= 2 ** (bits - 1)
    if group == 0:
        return levels * scales + (0 if offsets is None else offsets)
    where = np.arange(columns) // group
    levels *= scales.reshape(rows, -1)[:, where]
    return levels if offsets is None else levels + offsets.reshape(rows, -1)[:, where]


def entropy_decoded(parts: Parts, count: int, categories: int) -> npt.NDArray[np.int32]:
    """Read ``count`` symbols from 0 to ``categories - 1`` that ``toolchain.compression.plain.entropy_coded`` wrote.

    Raises:
        ValueError: If the data was not written by that function.
    """
    import constriction

    number = int(parts.array("u4", 1)[0])
    frequencies = parts.array("u4", categories).astype(np.float64)
    if not frequencies.sum() > 0:
        raise ValueError("its frequencies are all zero")
    words = parts.array("u4", number).astype(np.uint32)
    if np.count_nonzero(frequencies) == 1:
        return np.full(count, int(frequencies.argmax()), np.int32)
    coder = constriction.stream.stack.AnsCoder(words)
    model = constriction.stream.model.Categorical(frequencies / frequencies.sum(), perfect=False)
    found: npt.NDArray[np.int32] = coder.decode(model, count)
    if not coder.is_empty():
        raise ValueError("data follows after its last weight")
    return found


def _palette(record: Record, payload: bytes) -> Weights:
    """Decode entropy-coded indices into the tensor's codebook."""
    parts, size = Parts(payload), _whole(record, "colours", 2, 4096)
    book = parts.array("f2", size).astype(np.float32)
    indices = entropy_decoded(parts, record.elements, size)
    parts.end()
    return book[indices]


def _sparse(record: Record, payload: bytes) -> Weights:
    """Decode an entropy-coded mask, and the weights that it keeps in half precision."""
    parts = Parts(payload)
    mask = entropy_decoded(parts, record.elements, 2)
    kept = parts.array("f2", int(mask.sum()))
    parts.end()
    weights = np.zeros(record.elements, np.float32)
    weights[mask == 1] = kept
    return weights


def _factors(record: Record, payload: bytes) -> Weights:
    """Multiply two factors in half precision, ``[rows, rank]`` and ``[rank, columns]``."""
    (rows, columns), parts = _matrix(record), Parts(payload)
    rank = _whole(record, "rank", 1, 2**20)
    left = parts.array("f2", rows * rank).astype(np.float32).reshape(rows, rank)
    right = parts.array("f2", rank * columns).astype(np.float32).reshape(rank, columns)
    parts.end()
    product: Weights = left @ right
    return product


def _trellis(record: Record, payload: bytes) -> Weights:
    """Decode trellis-coded weights; see ``device_runner.bitstream.trellis``."""
    if not record.elements:
        return np.zeros(0, np.float32)
    layout, parts = Layout(*_matrix(record)), Parts(payload)
    states, levels = _whole(record, "states", 8, max(POLYNOMIALS)), _whole(record, "levels", 1, MOST_LEVELS)
    spread, step = _whole(record, "spread", 0, 32 * MOST_LEVELS + 16), record.parameters["step"]
    if states not in POLYNOMIALS or not isinstance(step, float) or not 0 < step < 1e30:
        raise ValueError("its trellis or step size does not belong to this format")
    words = parts.array("u4", _whole(record, "words", 0, 2**31)).astype(np.uint32)
    parts.end()
    return reconstruct(*decode_levels(words, layout, states, levels, spread), layout, step)


DECODERS: dict[str, Decoder] = {
    "fp32": _floats,
    "fp16": _floats,
    "bf16": _floats,
    "uniform": _uniform,
    "palette": _palette,
    "sparse": _sparse,
    "factors": _factors,
    "trellis": _trellis,
}


def _updated(record: Record, difference: Weights, base: Mapping[str, Weights]) -> Weights:
    if record.name not in base or base[record.name].shape != difference.shape:
        raise AsrDeployError(
            f"The base has no tensor {record.name} of the update's shape. Give the weights that the update was made from with --base."
        )
    updated: Weights = np.asarray(base[record.name] + difference)  # the sum of arrays without axes is a NumPy scalar
    return updated
