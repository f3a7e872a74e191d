"""Sizes in the headers of audio files: which are placeholders, and which state more audio than the file contains.

A program that writes to a pipe, or that is killed while it records, leaves a placeholder where the size of the samples belongs:

======================== ======================================================
0xFFFFFFFF               ffmpeg, speech services that stream
0x7FFFF000, 0x7F000000   SoX (WAV, AIFF), rounded down to whole frames
0x80000000, 0x7FFFFFFF   arecord, Oboe
0xFFFFF000 and the like  other programs, less the length of their header
2,000,000,000            Python's ``wave`` with a very large number of frames
0                        Python's ``wave``, GStreamer, ffmpeg's RF64, recorders
-1, 2**63 - 1            CAF and Wave64
======================== ======================================================

Everything after such a header is samples. Any other size that exceeds the file means that the file was cut.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from device_runner.flac_frames import counted_samples

# A placeholder is at most this much below 2 GiB or 4 GiB (header, rounding to blocks), or just above.
SLACK = 0x1_0000

# Half a day of speech. A file that claims as much and contains less than a tenth of it has a placeholder in its header.
MANY_BYTES, SHARE = 1_000_000_000, 10

# What stops the walk over the chunks behind the samples: further samples, and the beginning of a second file.
FURTHER = (b"data", b"SSND", b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff")
# Beginnings of tags that programs append to a file without making a chunk of them.
TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LIST", b"<?xpacket")

# Why a file is cut short.
LESS, WITHIN = "it contains less audio than its header states", "it ends within a block of samples"

Order = Literal["little", "big"]


class _Samples(NamedTuple):
    """The chunk with the samples: its claimed size, where that is written, where the samples begin, and the bytes of a frame."""

    claimed: int
    field: slice
    order: Order
    start: int
    block: int
    included: int = 0  # bytes that the written size has beside those of the samples


def mended(data: bytes) -> tuple[bytes, str | None]:
    """Replace a placeholder by the size of the samples, and find out whether an audio file is cut short.

    Args:
        data: Bytes of a file in any format. WAV, RF64, Wave64, CAF, AIFF, AU, FLAC and Ogg are examined.

    Returns:
        The bytes for libsndfile, and ``LESS`` or ``WITHIN`` if the file is cut short, else None.
    """
    if data[:4] == b"fLaC":
        return _mended_flac(data)
    if data[:4] == b"OggS":
        return data, WITHIN if _ogg_is_cut(data) else None
    samples = _samples(data)
    if samples is None:
        return data, None
    if samples.start % 2 and data[:4] in (b"RIFF", b"RIFX"):
        return mended(_without_notes(data, samples))
    available = len(data) - samples.start
    if available < 0:  # the file ends before its samples begin
        return data, WITHIN
    if samples.claimed == 0 and (available < samples.block or _are_chunks(data, samples)):
        return data, None  # really no samples
    if samples.claimed > 0 and samples.claimed // samples.block <= available // samples.block:
        return data, None
    if not _is_placeholder(samples.claimed, available):
        return data, LESS
    return _with_size(data, samples, available // samples.block * samples.block), None


def unread_share(data: bytes) -> float:
    """Return how much audio lies behind the end that a header states, relative to the audio before it. libsndfile does not read it.

    Args:
        data: Bytes of a file in any format. WAV, RF64, CAF, AIFF and AU are examined.
    """
    samples = _samples(data)
    if samples is None or samples.claimed <= 0 or data[:4] == b"riff":  # libsndfile reads Wave64 to the end of the file
        return 0.0
    head, padded = (12, False) if data[:4] == b"caff" else (8, data[:4] != b".snd")
    position = samples.start + samples.claimed + (samples.claimed % 2 if padded else 0)
    while data[:4] != b".snd" and _is_name(name := data[position : position + 4]) and name not in FURTHER:
        size = int.from_bytes(data[position + 4 : position + head], samples.order)
        if position + head + size > len(data):
            break
        position += head + size + (size % 2 if padded else 0)
    rest = data[position:]
    return 0.0 if rest.startswith(TAGS) or not rest.strip(b"\0") else len(rest) / samples.claimed


def _without_notes(data: bytes, samples: _Samples) -> bytes:
    """Return a WAV whose samples follow its format. libsndfile does not find samples at an odd offset, where padding was forgotten."""
    formats = (data[start - 8 : start + size + size % 2] for name, size, start in chunks(data, samples.order) if name == b"fmt ")
    return data[:12] + next(formats, b"") + data[samples.start - 8 :]


def _is_placeholder(claimed: int, available: int) -> bool:
    near = any(-SLACK <= claimed - limit <= SLACK for limit in (1 << 31, 1 << 32))
    return claimed <= 0 or near or (claimed >= MANY_BYTES and claimed > SHARE * available)


def _with_size(data: bytes, samples: _Samples, size: int) -> bytes:
    changed = bytearray(data)
    length = samples.field.stop - samples.field.start
    written = min(size + samples.included, (1 << 8 * length) - 1)
    changed[samples.field] = written.to_bytes(length, samples.order)
    if data[:4] in (b"RF64", b"BW64"):  # libsndfile believes the number of frames behind the size
        changed[samples.field.stop : samples.field.stop + 8] = (size // samples.block).to_bytes(8, "little")
    return bytes(changed)


def _are_chunks(data: bytes, samples: _Samples) -> bool:
    """Return whether an empty chunk of samples is followed by further chunks up to the end of the file, rather than by samples."""
    position = samples.start
    while position + 8 <= len(data) and _is_name(data[position : position + 4]):
        size = int.from_bytes(data[position + 4 : position + 8], samples.order)
        position += 8 + size + size % 2
    return position > samples.start and position - 1 <= len(data) <= position + 1


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= each < 0x7F for each in name)


def _samples(data: bytes) -> _Samples | None:
    """Return the chunk with the samples, or None if there is none or the format has none."""
    if data[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and data[8:12] == b"WAVE":
        return _wav_samples(data)
    if data[:4] == b"FORM" and data[8:12] in (b"AIFF", b"AIFC"):
        return _aiff_samples(data)
    if data[:4] == b"caff":
        return _caf_samples(data)
    if data[:4] == b"riff" and data[24:28] == b"wave":
        return _wave64_samples(data)
    if data[:4] == b".snd" and len(data) >= 24:
        start = int.from_bytes(data[4:8], "big")
        return _Samples(int.from_bytes(data[8:12], "big"), slice(8, 12), "big", start, 1)
    return None


def chunks(data: bytes, order: Order) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, size and start of each chunk of a WAV or an AIFF."""
    position = 12
    while position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], order)
        yield data[position : position + 4], size, position + 8
        position += 8 + size
        # Chunks start at even offsets, but some programs forget the padding.
        if size % 2 and not (_is_name(data[position : position + 4]) and not _is_name(data[position + 1 : position + 5])):
            position += 1


def _wav_samples(data: bytes) -> _Samples | None:
    order: Order = "big" if data[:4] == b"RIFX" else "little"
    block, long_sizes = 1, 0
    for name, size, start in chunks(data, order):
        if name == b"fmt ":
            mpeg = int.from_bytes(data[start : start + 2], order) in (0x50, 0x55)  # counts blocks in samples
            block = 1 if mpeg else max(1, int.from_bytes(data[start + 12 : start + 14], order))
        elif name == b"ds64":
            long_sizes = start + 8
        elif name == b"data" and long_sizes and size == 0xFFFF_FFFF:
            field = slice(long_sizes, long_sizes + 8)
            return _Samples(int.from_bytes(data[field], "little", signed=True), field, "little", start, block)
        elif name == b"data":
            return _Samples(size, slice(start - 4, start), order, start, block)
    return None


def _aiff_samples(data: bytes) -> _Samples | None:
    block = 1
    for name, size, start in chunks(data, "big"):
        if name == b"COMM" and data[8:12] == b"AIFF":
            channels, bits = (int.from_bytes(data[start + at : start + at + 2], "big") for at in (0, 6))
            block = max(1, channels * ((bits + 7) // 8))
        elif name == b"SSND":  # offset and block size come before the samples
            return _Samples(max(0, size - 8), slice(start - 4, start), "big", start + 8, block, included=8)
    return None


def _caf_samples(data: bytes) -> _Samples | None:
    position, block = 8, 1
    while position + 12 <= len(data):
        name, field, start = data[position : position + 4], slice(position + 4, position + 12), position + 12
        size = int.from_bytes(data[field], "big", signed=True)
        if name == b"desc":
            block = max(1, int.from_bytes(data[start + 16 : start + 20], "big"))
        elif name == b"data":  # a count of edits comes before the samples
            return _Samples(max(-1, size - 4), field, "big", start + 4, block, included=4)
        if size < 0:
            return None
        position = start + size
    return None


def _wave64_samples(data: bytes) -> _Samples | None:
    position, block = 40, 1
    while position + 24 <= len(data):
        name, field, start = data[position : position + 4], slice(position + 16, position + 24), position + 24
        size = int.from_bytes(data[field], "little", signed=True)
        if name == b"fmt ":
            block = max(1, int.from_bytes(data[start + 12 : start + 14], "little"))
        elif name == b"data":
            return _Samples(max(-1, size - 24), field, "little", start, block, included=24)
        if size < 24:
            return None
        position += (size + 7) // 8 * 8
    return None


def _ogg_is_cut(data: bytes) -> bool:
    """Return whether the last page of an Ogg file is incomplete."""
    start = data.rfind(b"OggS")
    entries = data[start + 27 : start + 27 + data[start + 26]] if start + 26 < len(data) else b""
    return start + 27 > len(data) or len(entries) < data[start + 26] or start + 27 + len(entries) + sum(entries) > len(data)


def _mended_flac(data: bytes) -> tuple[bytes, str | None]:
    """Write the number of samples into a FLAC of unknown length, counted from its last frame."""
    if len(data) < 42 or int.from_bytes(data[21:26], "big") & 0xF_FFFF_FFFF:
        return data, None  # libsndfile finds fewer samples than the header states if the file is cut
    total = counted_samples(data)
    if total is None:
        return data, WITHIN
    changed = bytearray(data)
    changed[21:26] = (int.from_bytes(data[21:26], "big") | total).to_bytes(5, "big")
    return bytes(changed), None
