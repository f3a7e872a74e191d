"""The container of compressed models, `.asrb`: a header, a record for each tensor, checksums; read without torch, as it arrives.

`docs/bitstream.md` describes the layout byte by byte.
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
PREFIX = struct.Struct("<4sB3xII")  # magic, version, three zeros, bytes of the header, its CRC-32
CRC = struct.Struct("<I")
LONGEST_HEADER, LONGEST_INFLATED = 2**22, 2**25
MAX_WEIGHTS = 2**30  # 4 GiB of floats: more than any recogniser for a phone has
WEIGHTS_PER_BYTE = 4096  # a record that claims more would make a small file fill the memory
CHUNK = 2**20

Value = bool | int | float | str | None


class Record(BaseModel):
    """A tensor in a bitstream: its name and shape, how its payload is coded, and the payload's bytes."""

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
    """What stands before the records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: str
    parameters: dict[str, Value] = Field(default_factory=dict)
    model: str = Field(default="", description="name of the anchor whose weights these are")
    weights: str = Field(default="", description="where the weights come from, as manifests say it")
    trained: bool = Field(default=True, description="False for random weights: no word error rate comes from them")
    base: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None, description="digest of the weights that the records are differences to; None: they stand alone"
    )
    tuned_on: tuple[str, ...] = Field(
        default=(), description="ids of the utterances that the codec was calibrated with; no word error rate comes from them"
    )
    network: Network | None = Field(default=None, description="of a model that is no test case's; None: the model's name tells it")
    records: tuple[Record, ...] = ()

    @property
    def configuration(self) -> str:
        """The codec with its parameters, as manifests have it."""
        inside = ", ".join(f"{key}={value}" for key, value in self.parameters.items() if value is not None)
        return f"{self.codec}({inside})" if inside else self.codec


def write_bitstream(header: Header, payloads: Iterable[bytes]) -> bytes:
    """Return the bitstream of payloads, one for each of the header's records."""
    records = [[each.name, each.kind, list(each.shape), each.bytes, each.parameters] for each in header.records]
    # What does not concern a model costs its bitstream nothing.
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
    """What a bitstream is read from: a file, memory, or a connection."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most ``size``; none at the end."""
        ...


class BitstreamReader:
    """Reads a bitstream from a file, a socket or memory: the header at once, each record as soon as it arrived.

    Args:
        stream: opened for reading bytes.
        max_weights: more than these are refused before anything is allocated.

    Raises:
        AsrDeployError: it is no bitstream, or its header is damaged.
    """

    def __init__(self, stream: ByteStream, *, max_weights: int = MAX_WEIGHTS) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        magic, version, length, crc = PREFIX.unpack(self._read(PREFIX.size, "prefix"))
        if magic != MAGIC:
            raise AsrDeployError("This is not a bitstream of asrdeploy: it does not begin with ASRB.")
        if version != VERSION:
            raise AsrDeployError(f"The bitstream has version {version}; this asrdeploy reads version {VERSION}: install a newer one.")
        if length > LONGEST_HEADER:
            raise AsrDeployError(f"The bitstream's header claims {length} bytes; at most {LONGEST_HEADER} are allowed.")
        packed = self._read(length, "header")
        if zlib.crc32(packed) != crc:
            raise AsrDeployError("The bitstream's header is damaged: its checksum differs; fetch it again.")
        self.header = _parse_header(packed, max_weights)

    def records(self) -> Iterator[tuple[Record, bytes]]:
        """Yield each record with its payload; after the last one the checksum over all is compared.

        Raises:
            AsrDeployError: the bitstream is cut, damaged, or longer than it says.
        """
        for record in self.header.records:
            payload = self._read(record.bytes, record.name)
            (crc,) = CRC.unpack(self._read(CRC.size, record.name))
            if zlib.crc32(payload) != crc:
                raise AsrDeployError(f"The bitstream is damaged in {record.name}: its checksum differs; fetch it again.")
            yield record, payload
        expected = self._hash.digest()
        if self._read(len(expected), "checksum") != expected:
            raise AsrDeployError("The bitstream is damaged: the checksum over all differs; fetch it again.")
        if self._stream.read(1):
            raise AsrDeployError("The bitstream goes on after its end; it is not what was sent.")

    def _read(self, size: int, what: str) -> bytes:
        parts, missing = [], size
        while missing:  # in pieces: a false length must not allocate
            part = self._stream.read(min(missing, CHUNK))
            if not part:
                raise AsrDeployError(f"The bitstream is cut: {missing} of {size} bytes of its {what} are missing.")
            parts.append(part)
            missing -= len(part)
        data = b"".join(parts)
        self._hash.update(data)
        return data


def read_header(path: Path) -> Header:
    """Return the header of a bitstream file.

    Raises:
        AsrDeployError: no such file, or no bitstream.
    """
    with open_bitstream(path) as stream:
        return BitstreamReader(stream).header


def open_bitstream(path: Path) -> BinaryIO:
    """Open a bitstream file for reading.

    Raises:
        AsrDeployError: there is no such file.
    """
    if not path.is_file():
        raise AsrDeployError(f"{path} is not a file; `asrdeploy compress` makes bitstreams ({SUFFIX}).")
    return path.open("rb")


def in_memory(bitstream: bytes) -> BinaryIO:
    """Return a stream over a bitstream in memory."""
    return io.BytesIO(bitstream)


def _parse_header(packed: bytes, max_weights: int) -> Header:
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(packed, LONGEST_INFLATED)
        if not inflater.eof or inflater.unused_data:
            raise ValueError("it is cut, too long, or goes on after its end")
        plain: Any = json.loads(text)
        plain["records"] = [dict(zip(Record.model_fields, row, strict=True)) for row in plain["records"]]
        header = Header.model_validate(plain)
    except ValidationError as error:
        raise AsrDeployError(f"The bitstream's header is not valid: {first_problem(error)}.") from error
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        raise AsrDeployError(f"The bitstream's header is not valid: {error}.") from error
    if len({each.name for each in header.records}) < len(header.records):
        raise AsrDeployError("The bitstream's header is not valid: a name comes twice.")
    if sum(each.elements for each in header.records) > max_weights:
        raise AsrDeployError(f"The bitstream claims more than {max_weights} weights; it is refused.")
    for record in header.records:
        if record.elements > WEIGHTS_PER_BYTE * (record.bytes + 1):
            raise AsrDeployError(f"The bitstream claims {record.elements} weights of {record.name} in {record.bytes} bytes; it is refused.")
    return header
