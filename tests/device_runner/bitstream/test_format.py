"""Test the bitstream format: reading as it arrives without PyTorch, and refusing cut, altered and hostile files in little memory."""

import hashlib
import io
import json
import random
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.bitstream.decoders import DECODERS, decode_bitstream, decode_records
from device_runner.bitstream.format import (
    CRC,
    PREFIX,
    BitstreamReader,
    Header,
    Record,
    check_bitstream,
    in_memory,
    read_header,
    write_bitstream,
)
from device_runner.errors import AsrDeployError
from toolchain.compression.codec import encode

CODECS: dict[str, dict[str, Any]] = {
    "fp16": {},
    "bf16": {},
    "uniform": {"bits": 3},
    "palette": {"colours": 5},
    "prune": {"share": 0.5},
    "lowrank": {"share": 0.2},
    "ectcq": {"bits": 3},
}
STATE = {
    "w": torch.randn(20, 30, generator=torch.Generator().manual_seed(0)),
    "b": torch.randn(20, generator=torch.Generator().manual_seed(1)),
}
STREAMS = {name: encode(name, parameters, STATE, model="M", weights="W") for name, parameters in CODECS.items()}


def complaint(bitstream: bytes, **more: Any) -> str:
    with pytest.raises(AsrDeployError) as caught:
        decode_bitstream(io.BytesIO(bitstream), **more)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text
    return text


def sealed(header: bytes, payloads: list[bytes]) -> bytes:
    """Return a bitstream with correct checksums for any header and payloads."""
    body = PREFIX.pack(b"ASRB", 1, len(header), zlib.crc32(header)) + header
    body += b"".join(each + CRC.pack(zlib.crc32(each)) for each in payloads)
    return body + hashlib.sha256(body).digest()


def forged(changes: dict[str, Any], payload: bytes = b"\0" * 64, **more: Any) -> bytes:
    """Return a bitstream with one record and a changed header."""
    record = {"name": "w", "kind": "fp16", "shape": [4, 8], "bytes": len(payload), "parameters": {}} | changes
    text = json.dumps({"codec": "fp16", "records": [list(record.values())]} | more)
    return sealed(zlib.compress(text.encode()), [payload])


def test_a_header_says_what_is_inside(tmp_path: Path) -> None:
    (tmp_path / "a.asrb").write_bytes(STREAMS["ectcq"])
    header = read_header(tmp_path / "a.asrb")
    assert (header.codec, header.model, header.weights, header.base) == ("ectcq", "M", "W", None)
    assert header.configuration == "ectcq(bits=3, states=16)"
    assert {each.name: each.shape for each in header.records} == {"w": (20, 30), "b": (20,)}
    with pytest.raises(AsrDeployError, match="is not a file"):
        read_header(tmp_path)


class Slow:
    """A connection that returns a few bytes at a time and counts them."""

    def __init__(self, data: bytes) -> None:
        self.stream, self.given = io.BytesIO(data), 0

    def read(self, size: int) -> bytes:
        part = self.stream.read(min(size, 7))
        self.given += len(part)
        return part


def test_a_file_is_checked_to_its_last_byte(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.asrb", STREAMS["uniform"]
    path.write_bytes(whole)
    assert check_bitstream(str(path)) == read_header(path)
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    assert read_header(path).model == "M"
    with pytest.raises(AsrDeployError, match="checksum"):
        check_bitstream(path)


@pytest.mark.parametrize("name", CODECS)
def test_a_record_is_decoded_as_soon_as_it_arrived(name: str) -> None:
    bitstream = STREAMS[name]
    slow = Slow(bitstream)
    records = decode_records(BitstreamReader(slow))  # type: ignore[arg-type]
    first, _ = next(records)
    assert slow.given < len(bitstream) - 40 and first in STATE
    assert {first, *(each for each, _ in records)} == STATE.keys() and slow.given == len(bitstream)


def test_decoding_needs_no_torch(tmp_path: Path) -> None:
    for name, bitstream in STREAMS.items():
        (tmp_path / f"{name}.asrb").write_bytes(bitstream)
    script = (
        "import sys; sys.modules['torch'] = sys.modules['numba'] = None\n"
        "from pathlib import Path; from device_runner.bitstream.decoders import decode_bitstream\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    header, state = decode_bitstream(path.open('rb')); print(header.codec, float(abs(state['w']).sum()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    found = dict(line.split() for line in done.stdout.splitlines())
    expected = {name: float(abs(decode_bitstream(in_memory(each))[1]["w"]).sum()) for name, each in STREAMS.items()}
    assert {name: float(text) for name, text in found.items()} == expected


# Damage


@pytest.mark.parametrize("name", CODECS)
def test_every_cut_is_noticed(name: str) -> None:
    bitstream = STREAMS[name]
    for kept in range(len(bitstream)):
        with pytest.raises(AsrDeployError, match=r"is cut|not a bitstream"):
            decode_bitstream(io.BytesIO(bitstream[:kept]))
    assert "contains data after its end" in complaint(bitstream + b"\0")


def test_ten_thousand_altered_files_are_refused() -> None:
    rng, refused = random.Random(0), 0  # not used for security
    names = list(STREAMS)
    for number in range(10_000):
        altered = bytearray(STREAMS[names[number % len(names)]])
        original = bytes(altered)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            place = rng.randrange(len(altered))
            kind = rng.randrange(4)
            if kind == 0:
                altered[place] ^= 1 << rng.randrange(8)
            elif kind == 1:
                altered[place] = rng.randrange(256)
            elif kind == 2:
                del altered[place : place + rng.randrange(1, 20)]
            else:
                altered[place:place] = rng.randbytes(rng.randrange(1, 20))
        if bytes(altered) == original:
            continue
        with pytest.raises(AsrDeployError):
            decode_bitstream(io.BytesIO(bytes(altered)))
        refused += 1
    assert refused > 9_900


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), length=st.integers(0, 40), cut=st.booleans())
def test_a_payload_that_was_sealed_again_is_refused_or_decoded(name: str, place: float, value: int, length: int, cut: bool) -> None:
    """Damage with correct checksums gives an error message or weights, never a crash or a hang."""
    reader = BitstreamReader(in_memory(STREAMS[name]))
    header, payloads = reader.header, [bytearray(each) for _, each in reader.records()]
    payload = payloads[0]
    if cut:
        del payload[len(payload) - length :]
    elif payload:
        payload[int(place * len(payload))] = value
    records = tuple(each.model_copy(update={"bytes": len(new)}) for each, new in zip(header.records, payloads, strict=True))
    bitstream = write_bitstream(header.model_copy(update={"records": records}), map(bytes, payloads))
    try:
        _, state = decode_bitstream(in_memory(bitstream))
    except AsrDeployError:
        return
    assert state["w"].shape == (20, 30) and state["w"].dtype == np.float32


# Hostile headers with correct checksums


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [2**20, 2**20]}, "declares more than"),
        ({"shape": [2**30]}, "weights of w in 64 bytes"),
        ({"shape": [-1, 4]}, "greater than or equal to 0"),
        ({"shape": [2.5]}, "valid integer"),
        ({"shape": [1] * 9}, "at most 8"),
        ({"bytes": 2**60}, "is cut"),
        ({"bytes": -1}, "greater than or equal to 0"),
        ({"bytes": 63}, "damaged in w"),
        ({"kind": "magic"}, "has the unknown kind magic"),
        ({"name": ""}, "at least 1"),
        ({"name": None}, "valid string"),
        ({"kind": "fp32"}, "payload is too short"),
        ({"shape": [3]}, None),
        ({"kind": "uniform"}, "not valid"),
        ({"kind": "uniform", "parameters": {"bits": 4, "group": 0, "offsets": 7}}, None),
        ({"kind": "uniform", "parameters": {"bits": 99, "group": 0, "offsets": False}}, "bits is 99"),
        ({"kind": "uniform", "parameters": {"bits": True, "group": 0, "offsets": False}}, "bits is True"),
        ({"kind": "palette", "parameters": {"colours": 2**31}}, "colours is"),
        ({"kind": "palette", "parameters": {"colours": 4}}, "frequencies are all zero"),
        ({"kind": "sparse"}, "frequencies are all zero"),
        ({"kind": "factors", "parameters": {"rank": 2**19}}, "too short"),
        ({"kind": "trellis", "parameters": {"states": 8, "levels": 5, "step": "1", "spread": 1, "words": 1}}, "not belong to this format"),
        ({"kind": "trellis", "parameters": {"states": 9, "levels": 5, "step": 1.0, "spread": 1, "words": 1}}, "not belong to this format"),
        ({"kind": "trellis", "parameters": {"states": 8, "levels": 5000, "step": 1.0, "spread": 1, "words": 1}}, "levels is 5000"),
        ({"kind": "trellis", "parameters": {"states": 8, "levels": 5, "step": 1.0, "spread": 1, "words": 2**30}}, "too short"),
        ({"parameters": {"x": [1]}}, "parameters"),
    ],
)
def test_a_hostile_header_is_a_sentence(changes: dict[str, Any], words: str | None) -> None:
    bitstream = forged(changes)
    tracemalloc.start()
    try:
        if words is None:
            decode_bitstream(in_memory(bitstream))
        else:
            assert words in complaint(bitstream)
    except AsrDeployError:
        assert words is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000


@pytest.mark.parametrize("shape", [[0], [0, 5], [5, 0], []])
@pytest.mark.parametrize("kind", sorted(DECODERS))
def test_no_weights_at_all(kind: str, shape: list[int]) -> None:
    parameters = {
        "bits": 3,
        "group": 0,
        "offsets": False,
        "colours": 2,
        "rank": 1,
        "states": 8,
        "levels": 1,
        "step": 1.0,
        "spread": 1,
        "words": 0,
    }
    try:
        decode_bitstream(in_memory(forged({"kind": kind, "shape": shape, "parameters": parameters})))
    except AsrDeployError as error:
        assert str(error).endswith(".")


def test_headers_that_are_none() -> None:
    assert "does not begin with ASRB" in complaint(b"PK\x03\x04" + b"\0" * 60)
    assert "version 7" in complaint(PREFIX.pack(b"ASRB", 7, 0, 0) + b"\0" * 60)
    assert "at most" in complaint(PREFIX.pack(b"ASRB", 1, 2**31, 0) + b"\0" * 60)
    assert "not valid" in complaint(sealed(b"", [])) and "not valid" in complaint(sealed(zlib.compress(b"[]"), []))
    assert "not valid" in complaint(sealed(zlib.compress(b'{"codec": "x", "records": [["w"]]}'), []))
    bomb = zlib.compress(b" " * 2**27)
    assert len(bomb) < 2**18 and "too long" in complaint(sealed(bomb, []))
    twice = Header(codec="x", records=(Record(name="w", kind="fp16", shape=(1,), bytes=2),) * 2)
    assert "have the same name" in complaint(write_bitstream(twice, [b"\0\0"] * 2))
    assert "declares more than 100 weights" in complaint(STREAMS["fp16"], max_weights=100)
    with pytest.raises(ValueError, match="bytes instead of"):
        write_bitstream(Header(codec="x", records=(Record(name="w", kind="fp16", shape=(1,), bytes=2),)), [b""])
