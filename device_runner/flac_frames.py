"""Frames of FLAC files: the number of samples of a file whose header does not state it (RFC 9639)."""

from functools import cache

# A frame of 65,535 mono samples of 32 bits that could not be compressed is a little smaller.
LARGEST_FRAME = 300_000


def counted_samples(data: bytes) -> int | None:
    """Return the number of samples per channel of a FLAC of unknown length, from its last frame.

    Args:
        data: Bytes of the file.

    Returns:
        The number of samples; 0 if there is no frame; None if the file does not end with a complete frame.
    """
    start = _first_frame(data)
    if start is None:
        return None
    end = len(data) - 128 if data[-128:-125] == b"TAG" else len(data)  # an ID3v1 tag
    if start >= end:
        return 0
    fixed = int.from_bytes(data[8:10], "big")  # block size of all frames but the last, if it is fixed
    channels = (data[20] >> 1 & 7) + 1
    lowest = max(start, end - LARGEST_FRAME * channels)
    position = end
    while (position := data.rfind(b"\xff", lowest, position)) != -1:
        header = _frame_header(data[position : position + 20])
        if header is not None and _crc16(data[position:end]) == 0:
            number, samples, variable = header
            return (number if variable else number * fixed) + samples
    return None


def _first_frame(data: bytes) -> int | None:
    """Return where the metadata end, or None if the file ends before."""
    position, last = 4, False
    while not last:
        if position + 4 > len(data):
            return None
        last = bool(data[position] & 0x80)
        position += 4 + int.from_bytes(data[position + 1 : position + 4], "big")
    return position if position <= len(data) else None


def _frame_header(data: bytes) -> tuple[int, int, bool] | None:
    """Return number, samples, and whether the number counts samples rather than frames; None if no frame begins here."""
    if len(data) < 6 or data[0] != 0xFF or data[1] & 0xFE != 0xF8:
        return None
    length = 1 if data[4] < 0x80 else 8 - (data[4] ^ 0xFF).bit_length()  # the number is coded like UTF-8
    if length > 7 or (length == 1 and data[4] >= 0x80):
        return None
    number = data[4] if length == 1 else data[4] & (0x7F >> length)
    for each in data[5 : 4 + length]:
        if each & 0xC0 != 0x80:
            return None
        number = number << 6 | each & 0x3F
    position, size, rate = 4 + length, data[2] >> 4, data[2] & 15
    width = {6: 1, 7: 2}.get(size, 0)
    samples = int.from_bytes(data[position : position + width], "big") + 1 if width else _BLOCKS.get(size, 0)
    position += width + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if not samples or position >= len(data) or _crc8(data[: position + 1]) != 0:
        return None
    return number, samples, bool(data[1] & 1)


_BLOCKS = {1: 192} | {code: 576 << code - 2 for code in range(2, 6)} | {code: 256 << code - 8 for code in range(8, 16)}


@cache
def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    """Return the remainders of all bytes for a checksum."""
    remainders = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> bits - 1 & 1 else 0)
        remainders.append(value & (1 << bits) - 1)
    return tuple(remainders)


def _crc8(data: bytes) -> int:
    table, value = _table(0x107, 8), 0
    for each in data:
        value = table[value ^ each]
    return value


def _crc16(data: bytes) -> int:
    table, value = _table(0x18005, 16), 0
    for each in data:
        value = (value << 8 & 0xFF00) ^ table[value >> 8 ^ each]
    return value
