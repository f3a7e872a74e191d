"""Decoding audio files, whole or in part, with one channel chosen, at their own sample rate."""

import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

from device_runner.audio_headers import LESS, mended, unread_share
from device_runner.errors import AsrDeployError
from device_runner.files import existing, file_bytes, shown
from device_runner.not_audio import why_not_audio
from device_runner.waveforms import check_samples

# What libsndfile returns for a FLAC whose header states no number of samples and that has no frame to count them from.
UNKNOWN_FRAMES = (1 << 63) - 1
# Formats and encodings in which libsndfile seeks to an exact sample. A lossy stream decodes differently after a jump.
EXACT_FORMATS = frozenset({"WAV", "WAVEX", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64", "NIST"})
EXACT_ENCODINGS = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})
# Lists of segments round their times. Kaldi accepts as much beyond the end too (--max-overshoot of extract-segments).
OVERSHOOT = 0.5
LONGEST_TIME = 1e7  # seconds that a message shows with all digits
BLOCK = 1 << 18  # frames read at once where a file has several channels or no certain length
REMEMBERED = 512 << 20  # bytes of decoded files kept for the next segments of the same files

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """The part of an audio file that is one recording.

    Args:
        start: Where it starts, in seconds.
        seconds: Duration in seconds; None: to the end.
        channel: Channel, counted from 0; None: the file must have one channel.
    """

    start: float = 0.0
    seconds: float | None = None
    channel: int | None = None

    @property
    def is_cut(self) -> bool:
        """Whether this is less than the whole duration."""
        return self.start > 0 or self.seconds is not None


WHOLE = Part()


class Decoded(NamedTuple):
    """Samples ``[samples]`` of one channel, their rate in hertz, and a digest that differs between files, segments and channels.

    Of a whole file, ``unread`` is the duration of the audio behind the end that its header states, in seconds.
    """

    samples: Samples
    rate: int
    sha256: str
    unread: float = 0.0


class _Source(NamedTuple):
    """What is known of a file with segments: the digest of its bytes, and whether reading may start within it."""

    sha256: str
    exact: bool


def named(path: Path, part: Part = WHOLE) -> str:
    """Return a recording for messages: the path, and the times of a segment."""
    if not part.is_cut:
        return shown(path)
    start, end = (f"{each:.2f} s" if each < LONGEST_TIME else f"{each:g} s" for each in (part.start, part.start + (part.seconds or 0)))
    return f"{shown(path)} from {start} to {'the end' if part.seconds is None else end}"


def decode(path: Path, part: Part = WHOLE) -> Decoded:
    """Decode an audio file or a part of it. Segments of a long file do not decode it whole each time.

    Args:
        path: Audio file.
        part: Which part of it.

    Raises:
        AsrDeployError: See ``device_runner.audio.read_audio``.
    """
    if not part.is_cut:
        data = file_bytes(path, "audio file")
        digest = hashlib.sha256(data).hexdigest()
        samples, rate, channels = _whole(data, path, part.channel)
        check_samples(samples, shown(path))
        unread = unread_share(data) * len(samples) / rate
        return Decoded(samples, rate, digest if channels == 1 else part_digest(digest, part), unread)
    try:
        found = existing(path)
        status = found.stat()
    except (OSError, ValueError):
        file_bytes(path, "audio file")  # says what is wrong
        raise
    source = _source(found, status.st_size, status.st_mtime_ns)
    if isinstance(source, str):
        raise AsrDeployError(source)
    samples, rate = _seek(found, part) if source.exact else _cut(found, part, (status.st_size, status.st_mtime_ns))
    check_samples(samples, named(path, part))
    return Decoded(samples, rate, part_digest(source.sha256, part))


def part_digest(file: str, part: Part) -> str:
    """Return the digest of a part of a file, from the SHA-256 of the file's bytes."""
    return hashlib.sha256(f"{file} {part.start!r} {part.seconds!r} {part.channel!r}".encode()).hexdigest()


@lru_cache(maxsize=1024)
def _source(path: Path, size: int, modified: int) -> _Source | str:
    """Examine a file once; size and time of its last change (in ns) tell whether it is the same. Returns an error as a text."""
    try:
        data = file_bytes(path, "audio file")
        ready = _ready(data, path)
        with _opened(ready, path) as file:
            exact = ready is data and file.seekable() and file.format in EXACT_FORMATS and file.subtype in EXACT_ENCODINGS
    except AsrDeployError as error:
        return str(error)
    return _Source(hashlib.sha256(data).hexdigest(), exact)


def _ready(data: bytes, path: Path) -> bytes:
    """Return the bytes for libsndfile; see ``audio_headers.mended``."""
    data, cut = mended(data)
    if cut is not None:
        raise _cut_short(path, cut)
    return data


def _opened(data: bytes, path: Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(io.BytesIO(data))
    except soundfile.SoundFileError as error:
        raise AsrDeployError(f"{shown(path)} {why_not_audio(data, path)}.") from error


def _whole(data: bytes, path: Path, channel: int | None) -> tuple[Samples, int, int]:
    """Return all samples of one channel of a file, the sample rate, and the number of channels."""
    data = _ready(data, path)
    with _opened(data, path) as file:
        chosen = _channel(file, path, channel)
        try:
            samples = _all_samples(file, chosen)
        # MemoryError: a damaged header may claim more samples than fit into memory.
        except (soundfile.SoundFileError, ValueError, MemoryError) as error:
            raise _cut_short(path) from error
        if len(samples) < file.frames and _states_length(file, data):
            raise _cut_short(path)
        return samples, file.samplerate, file.channels


def _channel(file: soundfile.SoundFile, path: Path, channel: int | None) -> int:
    if channel is None and file.channels != 1:
        raise AsrDeployError(
            f"{shown(path)} has {file.channels} channels; convert it to mono, which the models require, or choose one with --channel "
            f"(1 to {file.channels})."
        )
    if channel is not None and not 0 <= channel < file.channels:
        raise AsrDeployError(
            f"{shown(path)} has no channel {channel + 1}: it has {file.channels}. --channel counts from 1, Kaldi's segments from 0."
        )
    return channel or 0


def _all_samples(file: soundfile.SoundFile, channel: int) -> Samples:
    """Read a file to its end. libsndfile estimates the length of an MP3, and the estimate may be too small.

    It cannot seek in some encodings of telephony (GSM 6.10, G.721), so that soundfile has to be told how much to read.
    """
    if file.frames == UNKNOWN_FRAMES:
        return np.empty(0, np.float32)
    if file.channels == 1 and file.subtype != "MPEG_LAYER_III" and file.seekable():
        samples: Samples = file.read(dtype="float32")
        return samples
    parts, block = [], np.empty((BLOCK, file.channels), np.float32)
    while len(part := file.read(out=block)):
        parts.append(part[:, channel].copy())
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _states_length(file: soundfile.SoundFile, data: bytes) -> bool:
    """Return whether the number of frames is from the header, not an estimate."""
    if file.subtype != "MPEG_LAYER_III":
        return bool(file.frames != UNKNOWN_FRAMES)
    tag = 10 + sum(each << 7 * place for place, each in enumerate(reversed(data[6:10]))) if data[:3] == b"ID3" else 0
    return file.format == "MP3" and any(name in data[tag : tag + 64] for name in (b"Xing", b"Info"))


def _cut_short(path: Path, why: str = LESS) -> AsrDeployError:
    return AsrDeployError(f"{shown(path)} is cut short or damaged: {why}; copy or record it again.")


def _limits(path: Path, part: Part, frames: int, rate: int) -> slice:
    """Return the frames of a segment; its end may lie ``OVERSHOOT`` seconds beyond that of the file."""
    length = frames / rate
    end = length if part.seconds is None else part.start + part.seconds
    if part.start >= length or end > length + OVERSHOOT:
        raise AsrDeployError(f"{named(path, part)} lies beyond the end of the file, which lasts {length:.2f} s; correct the times.")
    return slice(round(part.start * rate), min(frames, round(end * rate)))


def _seek(path: Path, part: Part) -> tuple[Samples, int]:
    """Read a segment and nothing else."""
    try:
        with path.open("rb") as opened, soundfile.SoundFile(opened.fileno(), closefd=False) as file:
            channel = _channel(file, path, part.channel)
            limits = _limits(path, part, file.frames, file.samplerate)
            file.seek(limits.start)
            samples = file.read(limits.stop - limits.start, dtype="float32", always_2d=True)[:, channel]
            if len(samples) < limits.stop - limits.start:
                raise _cut_short(path)
            return np.ascontiguousarray(samples), file.samplerate
    except (soundfile.SoundFileError, ValueError, MemoryError) as error:
        raise _cut_short(path) from error


_decoded: "OrderedDict[object, tuple[Samples, int]]" = OrderedDict()
_lock = threading.Lock()


def _cut(path: Path, part: Part, state: tuple[int, int]) -> tuple[Samples, int]:
    """Cut a segment out of a decoded file. The files decoded last stay in memory, up to ``REMEMBERED`` bytes and at least one."""
    key = (path, state, part.channel)
    with _lock:  # threads that need the same file decode it once
        if key in _decoded:
            _decoded.move_to_end(key)
        else:
            samples, rate, _ = _whole(file_bytes(path, "audio file"), path, part.channel)
            _decoded[key] = (samples, rate)
            while len(_decoded) > 1 and sum(each.nbytes for each, _ in _decoded.values()) > REMEMBERED:
                _decoded.popitem(last=False)
        samples, rate = _decoded[key]
    return samples[_limits(path, part, len(samples), rate)].copy(), rate
