"""Test the exact messages and limits of the bitstream format: where a cut or damage is, and the largest accepted sizes."""

import json
import zlib
from typing import Any

import pytest

from device_runner.bitstream.format import (
    LONGEST_HEADER,
    LONGEST_INFLATED,
    MAGIC,
    PREFIX,
    VERSION,
    WEIGHTS_PER_BYTE,
    BitstreamReader,
    Header,
    Record,
    in_memory,
    write_bitstream,
)
from device_runner.errors import AsrDeployError


def record(name: str = "w", size: int = 2, elements: int = 1) -> Record:
    return Record(name=name, kind="fp16", shape=(elements,), bytes=size)


HEADER = Header(codec="x", records=(record("w", 2), record("b", 3)))
WHOLE = write_bitstream(HEADER, [b"ab", b"cde"])
START = PREFIX.size + PREFIX.unpack(WHOLE[: PREFIX.size])[2]  # of the first record


def told(bitstream: bytes, **limits: Any) -> str:
    with pytest.raises(AsrDeployError) as caught:
        list(BitstreamReader(in_memory(bitstream), **limits).records())
    return str(caught.value)


def packed(header: bytes) -> bytes:
    """Return a bitstream that ends after this packed header, with a correct checksum."""
    return PREFIX.pack(MAGIC, VERSION, len(header), zlib.crc32(header)) + header


def with_header(**changes: object) -> bytes:
    return packed(zlib.compress(json.dumps({"codec": "x", "records": []} | changes).encode()))


def test_what_was_written_is_read() -> None:
    reader = BitstreamReader(in_memory(WHOLE))
    assert reader.header == HEADER and list(reader.records()) == list(zip(HEADER.records, [b"ab", b"cde"], strict=True))


@pytest.mark.parametrize(
    ("kept", "missing"),
    [
        (PREFIX.size - 1, "1 of 16 bytes of its prefix"),
        (START - 1, f"1 of {START - PREFIX.size} bytes of its header"),
        (START + 1, "1 of 2 bytes of its w"),
        (START + 3, "3 of 4 bytes of its w"),
        (START + 7, "2 of 3 bytes of its b"),
        (len(WHOLE) - 32, "32 of 32 bytes of its checksum"),
        (len(WHOLE) - 1, "1 of 32 bytes of its checksum"),
    ],
)
def test_a_cut_names_the_part_and_the_missing_bytes(kept: int, missing: str) -> None:
    assert told(WHOLE[:kept]) == f"The bitstream is cut: {missing} are missing. Transfer the file again."


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (START - 1, "The bitstream's header is damaged (its checksum differs). Transfer the file again."),
        (START, "The bitstream is damaged in w (its checksum differs). Transfer the file again."),
        (START + 3, "The bitstream is damaged in w (its checksum differs). Transfer the file again."),
        (START + 6, "The bitstream is damaged in b (its checksum differs). Transfer the file again."),
        (len(WHOLE) - 1, "The bitstream is damaged (its overall checksum differs). Transfer the file again."),
    ],
)
def test_damage_names_the_part(place: int, sentence: str) -> None:
    damaged = bytearray(WHOLE)
    damaged[place] ^= 1
    assert told(bytes(damaged)) == sentence


def test_what_follows_the_end_is_refused() -> None:
    assert told(WHOLE + b"\0") == "The bitstream contains data after its end. Transfer the file again."


def test_the_longest_header() -> None:
    assert told(PREFIX.pack(MAGIC, VERSION, LONGEST_HEADER, 0)).startswith(f"The bitstream is cut: {LONGEST_HEADER} of")
    assert "at most 4194304 are allowed" in told(PREFIX.pack(MAGIC, VERSION, LONGEST_HEADER + 1, 0))


def test_a_small_header_of_a_large_tree_is_refused() -> None:
    tree = b'{"codec":"x","records":[],"parameters":{"a":[' + b"[]," * (LONGEST_INFLATED // 3)
    assert told(packed(zlib.compress(tree))).endswith("it is cut, too long, or followed by other data.")


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_most_weights_of_a_record(size: int) -> None:
    most = WEIGHTS_PER_BYTE * (size + 1)
    header = Header(codec="x", records=(record(size=size, elements=most),))
    assert BitstreamReader(in_memory(write_bitstream(header, [bytes(size)]))).header == header
    more = Header(codec="x", records=(record(size=size, elements=most + 1),))
    sentence = f"The bitstream is refused because it declares {most + 1} weights of w in {size} bytes."
    assert told(write_bitstream(more, [bytes(size)])) == sentence


def test_the_most_weights_of_all() -> None:
    assert BitstreamReader(in_memory(WHOLE), max_weights=2).header == HEADER
    assert told(WHOLE, max_weights=1) == "The bitstream is refused because it declares more than 1 weights."


def test_headers_that_are_not_valid() -> None:
    row = ["w", "fp16", [1], 2, {}]
    begin = "The bitstream's header is not valid: "
    assert told(with_header(records=[row, row])) == begin + "two records have the same name."
    assert told(with_header(records=[[*row[:3], -1, {}]])).startswith(begin + "records.0.bytes: ")
    # A row must have exactly one value for each field.
    assert told(with_header(records=[row[:4]])).startswith(begin) and told(with_header(records=[[*row, 0]])).startswith(begin)
    whole = zlib.compress(json.dumps({"codec": "x", "records": []}).encode())
    for content in (whole[:-1], whole + b"\0"):
        assert told(packed(content)) == begin + "it is cut, too long, or followed by other data."


def test_as_many_payloads_as_records() -> None:
    for payloads in ([b"ab"], [b"ab", b"cde", b""]):
        with pytest.raises(ValueError, match="argument 2"):
            write_bitstream(HEADER, payloads)


def test_who_is_not_calibrated_pays_no_byte_for_it() -> None:
    made = write_bitstream(HEADER, [b"ab", b"cde"])
    assert made == WHOLE
    text = zlib.decompress(made[PREFIX.size : START])
    assert set(json.loads(text)) == {"codec", "parameters", "model", "weights", "trained", "base", "records"}
    assert b" " not in text
    tuned = HEADER.model_copy(update={"tuned_on": ("1-1-0000", "1-1-0001")})
    assert BitstreamReader(in_memory(write_bitstream(tuned, [b"ab", b"cde"]))).header == tuned
