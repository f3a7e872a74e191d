"""Read and write bitstreams (`.asrb`): a header, one record per tensor, and checksums. Reading does not require PyTorch.

`docs/bitstream.md` describes every byte of the layout.
"""

import hashlib
import io
import json
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device_runner.bitstream.network import Network
from device_runner.errors import AsrDeployError, first_problem

MAGIC, VERSION, SUFFIX = b"ASRB", 1, ".asrb"
PREFIX = struct.Struct("<4sB3xII")  # magic, version, three zeros, length of the header in bytes, its CRC-32
CRC = struct.Struct("<I")
LONGEST_HEADER, LONGEST_INFLATED = 2**22, 2**23  # a JSON text takes up to 25 times its size in memory
MAX_WEIGHTS = 2**30  # 4 GiB of floats: more than any model for a phone has
WEIGHTS_PER_BYTE = 4096  # limit of a record, so that a small file cannot fill the memory
CHUNK = 2**20

Value = bool | int | float | str | None


class Record(BaseModel):
    """A tensor in a bitstream: its name and shape, how its payload is coded, and the size of the payload in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=500)]
    kind: Annotated[str, Field(max_length=40)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=8)]
    bytes: Annotated[int, Field(ge=0)]
    parameters: dict[str, Value] = Field(default_factory=dict)

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


class Header(BaseModel):
    """Header of a bitstream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: str
    parameters: dict[str, Value] = Field(default_factory=dict)
    model: str = Field(default="", description="name of the model that the weights belong to")
    weights: str = Field(default="", description="origin of the weights, as in manifests")
    trained: bool = Field(default=True, description="False for random weights, which give no WER")
    base: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None, description="digest of the base weights of an update; None if the bitstream is not an update"
    )
    tuned_on: tuple[str, ...] = Field(
        default=(), fail_fast=True, description="ids of the utterances that the codec was calibrated on; they must not be used for WER"
    )
    network: Network | None = Field(default=None, description="network of a custom model; None for the model of a test case")
    records: tuple[Record, ...] = Field(default=(), fail_fast=True)

    @property
    def configuration(self) -> str:
        """Codec with its parameters, as in manifests."""
        inside = ", ".join(f"{key}={value}" for key, value in self.parameters.items() if value is not None)
        return f"{self.codec}({inside})" if inside else self.codec


def write_bitstream(header: Header, payloads: Iterable[bytes]) -> bytes:
    """Return a bitstream with this header and one payload for each of its records.

    Raises:
        ValueError: If a payload's length differs from its record, or the numbers of payloads and records differ.
    """
    records = [[each.name, each.kind, list(each.shape), each.bytes, each.parameters] for each in header.records]
    # Empty optional fields are left out, so that they add no bytes.
    left_out = {"records", *(name for name in ("tuned_on", "network") if not getattr(header, name))}
    plain = header.model_dump(exclude=left_out) | {"records": records}
    packed = zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 9)
    parts = [PREFIX.pack(MAGIC, VERSION, len(packed), zlib.crc32(packed)), packed]
    for record, payload in zip(header.records, payloads, strict=True):
        if len(payload) != record.bytes:
            raise ValueError(f"{record.name}: {len(payload)} bytes instead of {record.bytes}")
        parts += [payload, CRC.pack(zlib.crc32(payload))]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


class ByteStream(Protocol):
    """Source of a bitstream: a file, memory or a connection."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, or no bytes at the end."""
        ...


class BitstreamReader:
    """Reads a bitstream from a file, a connection or memory: the header at once, and each record as soon as it arrives.

    Args:
        stream: Source of the bitstream.
        max_weights: Largest accepted number of weights. It is checked before memory is allocated.

    Raises:
        AsrDeployError: If the stream is not a bitstream, or its header is damaged.
    """

    def __init__(self, stream: ByteStream, *, max_weights: int = MAX_WEIGHTS) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        magic, version, length, crc = PREFIX.unpack(self._read(PREFIX.size, "prefix"))
        if magic != MAGIC:
            raise AsrDeployError("This is not a bitstream of asrdeploy, because it does not begin with ASRB.")
        if version != VERSION:
            raise AsrDeployError(f"The bitstream has version {version}, but this asrdeploy reads version {VERSION}. Install a newer one.")
        if length > LONGEST_HEADER:
            raise AsrDeployError(f"The bitstream's header declares {length} bytes, but at most {LONGEST_HEADER} are allowed.")
        packed = self._read(length, "header")
        if zlib.crc32(packed) != crc:
            raise AsrDeployError("The bitstream's header is damaged (its checksum differs). Transfer the file again.")
        self.header = _parse_header(packed, max_weights)

    def records(self) -> Iterator[tuple[Record, bytes]]:
        """Yield each record with its payload, and compare the overall checksum after the last one.

        Raises:
            AsrDeployError: If the bitstream is cut, damaged, or longer than its header declares.
        """
        for record in self.header.records:
            payload = self._read(record.bytes, record.name)
            (crc,) = CRC.unpack(self._read(CRC.size, record.name))
            if zlib.crc32(payload) != crc:
                raise AsrDeployError(f"The bitstream is damaged in {record.name} (its checksum differs). Transfer the file again.")
            yield record, payload
        expected = self._hash.digest()
        if self._read(len(expected), "checksum") != expected:
            raise AsrDeployError("The bitstream is damaged (its overall checksum differs). Transfer the file again.")
        if self._stream.read(1):
            raise AsrDeployError("The bitstream contains data after its end. Transfer the file again.")

    def _read(self, size: int, what: str) -> bytes:
        parts, missing = [], size
        while missing:  # in pieces, so that a false length cannot allocate memory
            part = self._stream.read(min(missing, CHUNK))
            if not part:
                raise AsrDeployError(f"The bitstream is cut: {missing} of {size} bytes of its {what} are missing. Transfer the file again.")
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self._hash.update(data)
        return data


def read_header(path: Path) -> Header:
    """Return the header of a bitstream file.

    Raises:
        AsrDeployError: If there is no such file, or it is not a bitstream.
    """
    with open_bitstream(path) as stream:
        return BitstreamReader(stream).header


def check_bitstream(path: str | Path) -> Header:
    """Read a whole bitstream file, check all checksums in it, and return its header.

    Example:
        >>> header = asrdeploy.inspect_bitstream("small.asrb")  # doctest: +SKIP
        >>> header.codec, header.parameters  # doctest: +SKIP

    Args:
        path: Bitstream file.

    Returns:
        The header, which describes the codec, the model and the records.

    Raises:
        AsrDeployError: If the file does not exist, is not a bitstream, or is damaged.
    """
    with open_bitstream(Path(path)) as stream:
        reader = BitstreamReader(stream)
        for _ in reader.records():
            pass
        return reader.header


def open_bitstream(path: Path) -> BinaryIO:
    """Open a bitstream file for reading.

    Raises:
        AsrDeployError: If there is no such file.
    """
    if not path.is_file():
        raise AsrDeployError(f"{path} is not a file. Create a bitstream ({SUFFIX}) with `asrdeploy compress`.")
    return path.open("rb")


def in_memory(bitstream: bytes) -> BinaryIO:
    """Return a stream over a bitstream in memory."""
    return io.BytesIO(bitstream)


def _parse_header(packed: bytes, max_weights: int) -> Header:
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(packed, LONGEST_INFLATED)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("it is cut, too long, or followed by other data")
        plain: Any = json.loads(text)
        plain["records"] = [dict(zip(Record.model_fields, row, strict=True)) for row in plain["records"]]
        header = Header.model_validate(plain)
    except ValidationError as error:
        raise AsrDeployError(f"The bitstream's header is not valid: {first_problem(error)}.") from error
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        raise AsrDeployError(f"The bitstream's header is not valid: {error}.") from error
    if len({each.name for each in header.records}) < len(header.records):
        raise AsrDeployError("The bitstream's header is not valid: two records have the same name.")
    if sum(each.elements for each in header.records) > max_weights:
        raise AsrDeployError(f"The bitstream is refused because it declares more than {max_weights} weights.")
    for record in header.records:
        if record.elements > WEIGHTS_PER_BYTE * (record.bytes + 1):
            declared = f"{record.elements} weights of {record.name} in {record.bytes} bytes"
            raise AsrDeployError(f"The bitstream is refused because it declares {declared}.")
    return header
