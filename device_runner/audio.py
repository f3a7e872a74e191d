"""Reading audio files as mono float32 samples at the sample rate that a model expects."""

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from device_runner.audio_headers import LESS, mended
from device_runner.errors import AsrDeployError
from device_runner.files import file_bytes, shown
from device_runner.not_audio import why_not_audio
from device_runner.waveforms import check_samples, remark

# The resampling kernel has about as many elements as the product of both reduced rates: 441 * 160 for 44.1 to 16 kHz. A rate
# such as 44101 Hz, which usually comes from a damaged header, would take gigabytes.
LARGEST_REDUCED_RATE = 4_000

# What libsndfile returns for a FLAC whose header states no number of samples and that has no frame to count them from.
UNKNOWN_FRAMES = (1 << 63) - 1

# An MP3 has at most 24 samples a byte: 24 kHz at 8 kbit/s.
MP3_SAMPLES_PER_BYTE = 24


@dataclass(frozen=True)
class CheckedAudio:
    """An audio file that can be transcribed.

    Args:
        seconds: Duration in seconds.
        sha256: SHA-256 of the file's bytes, in hexadecimal.
        remark: What is peculiar about the recording, to be put behind its name; None if nothing is. See ``waveforms.remark``.
    """

    seconds: float
    sha256: str
    remark: str | None


def read_audio(path: Path, sample_rate: int) -> npt.NDArray[np.float32]:
    """Read a mono audio file in any format of libsndfile, such as FLAC or WAV.

    Files with another sample rate are resampled like in the scenario's script, by ``torchaudio.functional.resample`` with its
    defaults. torchaudio is required only for that.

    Files of unknown length, which programs write to pipes, are read to their end.

    Args:
        path: Audio file.
        sample_rate: Sample rate that the model expects, in Hz.

    Returns:
        Samples ``[samples]`` as float32. Integer samples are scaled to -1..1; float samples stay unchanged.

    Raises:
        AsrDeployError: If the file is missing, is no file, must not be read, is not audio, is cut short, damaged or empty, has
            several channels or samples that are not finite or absurdly large, or has another sample rate and cannot be resampled.
    """
    samples, rate = _decoded(file_bytes(path, "audio file"), path)
    return samples if rate == sample_rate else resample(samples, rate, sample_rate, shown(path))


def check_audio(path: Path, sample_rate: int, shortest: int = 1, longest: int | None = None) -> CheckedAudio:
    """Read an audio file once and check that a model can transcribe it, without resampling it.

    Args:
        path: Audio file.
        sample_rate: Sample rate that the model expects, in Hz.
        shortest: Smallest number of samples at that rate.
        longest: Largest number of samples at that rate; None if unlimited.

    Returns:
        Duration, sha256, and what is peculiar about the recording.

    Raises:
        AsrDeployError: As ``read_audio``, or if the recording is too short or too long.
    """
    return _checked(path, sample_rate, shortest, longest)[0]


def read_checked(
    path: Path, sample_rate: int, shortest: int = 1, longest: int | None = None
) -> tuple[npt.NDArray[np.float32], CheckedAudio]:
    """Read an audio file once, and return the samples of ``read_audio`` and what ``check_audio`` returns; see there."""
    checked, samples, rate = _checked(path, sample_rate, shortest, longest)
    return samples if rate == sample_rate else resample(samples, rate, sample_rate, shown(path)), checked


def _checked(path: Path, sample_rate: int, shortest: int, longest: int | None) -> tuple[CheckedAudio, npt.NDArray[np.float32], int]:
    data = file_bytes(path, "audio file")
    samples, rate = _decoded(data, path)
    if rate != sample_rate:
        _check_resampling(rate, sample_rate, shown(path))
    seconds, count = len(samples) / rate, math.ceil(len(samples) * sample_rate / rate)
    if count < shortest:
        raise AsrDeployError(
            f"{shown(path)} lasts {seconds:.3f} s, and the model requires at least {shortest / sample_rate:.3f} s; leave it out."
        )
    if longest is not None and count > longest:
        raise AsrDeployError(
            f"{shown(path)} lasts {seconds:.2f} s, and the artifact accepts at most {longest / sample_rate:.2f} s; "
            "shorten it, or export the model with a larger --max-seconds."
        )
    return CheckedAudio(seconds, hashlib.sha256(data).hexdigest(), remark(samples)), samples, rate


def _decoded(data: bytes, path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Return all samples of a file with one channel, and its sample rate."""
    data, cut = mended(data)
    if cut is not None:
        raise _cut_short(path, cut)
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.SoundFileError as error:
        raise AsrDeployError(f"{shown(path)} {why_not_audio(data)}.") from error
    with file:
        if file.channels != 1:
            raise AsrDeployError(f"{shown(path)} has {file.channels} channels; convert it to mono, which the models require.")
        try:
            samples = _all_samples(file, len(data))
        # MemoryError: a damaged header may claim more samples than fit into memory.
        except (soundfile.SoundFileError, ValueError, MemoryError) as error:
            raise _cut_short(path) from error
        if len(samples) < file.frames and _states_length(file, data):
            raise _cut_short(path)
        check_samples(samples, shown(path))
        return samples, file.samplerate


def _all_samples(file: soundfile.SoundFile, size: int) -> npt.NDArray[np.float32]:
    """Read a file to its end. libsndfile estimates the length of an MP3, and the estimate may be too small.

    It cannot seek in some encodings of telephony (GSM 6.10, G.721), so that soundfile has to be told how much to read.
    """
    if file.frames == UNKNOWN_FRAMES:
        return np.empty(0, np.float32)
    if file.subtype != "MPEG_LAYER_III" and file.seekable():
        samples: npt.NDArray[np.float32] = file.read(dtype="float32")
        return samples
    parts, count = [], min(file.frames, MP3_SAMPLES_PER_BYTE * size) + 4096
    while len(part := file.read(out=np.empty(count, np.float32))):
        parts.append(part)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def _states_length(file: soundfile.SoundFile, data: bytes) -> bool:
    """Return whether the number of frames is from the header, not an estimate."""
    if file.subtype != "MPEG_LAYER_III":
        return file.frames != UNKNOWN_FRAMES
    tag = 10 + sum(each << 7 * place for place, each in enumerate(reversed(data[6:10]))) if data[:3] == b"ID3" else 0
    return file.format == "MP3" and any(name in data[tag : tag + 64] for name in (b"Xing", b"Info"))


def _cut_short(path: Path, why: str = LESS) -> AsrDeployError:
    return AsrDeployError(f"{shown(path)} is cut short or damaged: {why}; copy or record it again.")


def _check_resampling(rate: int, sample_rate: int, source: str) -> None:
    """Raise AsrDeployError if a waveform cannot be resampled."""
    if rate < 1 or max(rate, sample_rate) // math.gcd(rate, sample_rate) > LARGEST_REDUCED_RATE:
        raise AsrDeployError(f"{source} has an unusual sample rate of {rate} Hz that cannot be resampled; convert it to {sample_rate} Hz.")
    try:
        import torchaudio.functional  # noqa: F401
    except ImportError as error:
        raise AsrDeployError(
            f"{source} has a sample rate of {rate} Hz; convert it to {sample_rate} Hz, or install asrdeploy[toolchain] for resampling."
        ) from error


def resample(samples: npt.NDArray[np.float32], rate: int, sample_rate: int, source: str = "The waveform") -> npt.NDArray[np.float32]:
    """Resample a waveform ``[samples]``.

    Args:
        samples: Mono samples as float32.
        rate: Their sample rate in hertz.
        sample_rate: Wanted sample rate in hertz.
        source: Where the samples come from, for messages.

    Raises:
        AsrDeployError: The ratio of the rates is too unusual, or the toolchain, which resamples, is not installed.
    """
    _check_resampling(rate, sample_rate, source)
    import torch
    import torchaudio.functional

    resampled: npt.NDArray[np.float32] = torchaudio.functional.resample(torch.from_numpy(samples), rate, sample_rate).numpy()
    return resampled
