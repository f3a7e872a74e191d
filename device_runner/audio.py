"""Reading audio files as mono float32 samples at the sample rate that a model expects."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_runner.decoding import WHOLE, Decoded, decode, named
from device_runner.decoding import Part as Part
from device_runner.errors import AsrDeployError
from device_runner.waveforms import remark

# The resampling kernel has about as many elements as the product of both reduced rates: 441 * 160 for 44.1 to 16 kHz. A rate
# such as 44101 Hz, which usually comes from a damaged header, would take gigabytes.
LARGEST_REDUCED_RATE = 4_000
# Longer waveforms are resampled in blocks: torchaudio needs several times their size. Utterances of test sets stay whole, so that
# they are resampled to the last bit as in the scenario's script.
BLOCK = 60.0  # seconds

# Seconds behind the end that a header states which are worth a remark: fewer may be padding.
UNREAD = 0.1


@dataclass(frozen=True)
class CheckedAudio:
    """An audio file that can be transcribed.

    Args:
        seconds: Duration in seconds.
        sha256: SHA-256 of the file's bytes, in hexadecimal; of a segment or a channel, one of these and of the part.
        remark: What is peculiar about the recording, to be put behind its name; None if nothing is. See ``waveforms.remark``.
    """

    seconds: float
    sha256: str
    remark: str | None


def read_audio(path: Path, sample_rate: int, part: Part = WHOLE) -> npt.NDArray[np.float32]:
    """Read one channel of an audio file, or of a part of it, in any format of libsndfile, such as FLAC, WAV, MP3 or Ogg.

    Files with another sample rate are resampled like in the scenario's script, by ``torchaudio.functional.resample`` with its
    defaults. torchaudio is required only for that.

    Files of unknown length, which programs write to pipes, are read to their end.

    Args:
        path: Audio file.
        sample_rate: Sample rate that the model expects, in Hz.
        part: Segment and channel.

    Returns:
        Samples ``[samples]`` as float32. Integer samples are scaled to -1..1; float samples stay unchanged.

    Raises:
        AsrDeployError: If the file is missing, is no file, must not be read, is not audio, is cut short, damaged or empty, has
            several channels of which none is chosen, ends before the segment, has samples that are not finite or absurdly large, or
            has another sample rate and cannot be resampled.
    """
    return _resampled(decode(path, part), sample_rate, named(path, part))


def _resampled(found: Decoded, sample_rate: int, source: str) -> npt.NDArray[np.float32]:
    return found.samples if found.rate == sample_rate else resample(found.samples, found.rate, sample_rate, source)


def check_audio(path: Path, sample_rate: int | None, shortest: int = 1, longest: int | None = None, part: Part = WHOLE) -> CheckedAudio:
    """Read an audio file once and check that a model can transcribe it, without resampling it.

    Args:
        path: Audio file.
        sample_rate: Sample rate that the model expects, in Hz; None: that of the file.
        shortest: Smallest number of samples at that rate.
        longest: Largest number of samples at that rate; None if unlimited.
        part: Segment and channel.

    Returns:
        Duration, sha256, and what is peculiar about the recording.

    Raises:
        AsrDeployError: As ``read_audio``, or if the recording is too short or too long.
    """
    return _checked(path, sample_rate, shortest, longest, part)[0]


def read_checked(
    path: Path, sample_rate: int, shortest: int = 1, longest: int | None = None, part: Part = WHOLE
) -> tuple[npt.NDArray[np.float32], CheckedAudio]:
    """Read an audio file once, and return the samples of ``read_audio`` and what ``check_audio`` returns; see there."""
    checked, found = _checked(path, sample_rate, shortest, longest, part)
    return _resampled(found, sample_rate, named(path, part)), checked


def _checked(path: Path, sample_rate: int | None, shortest: int, longest: int | None, part: Part) -> tuple[CheckedAudio, Decoded]:
    found, name = decode(path, part), named(path, part)
    wanted = found.rate if sample_rate is None else sample_rate
    if found.rate != wanted:
        _check_resampling(found.rate, wanted, name)
    seconds, count = len(found.samples) / found.rate, math.ceil(len(found.samples) * wanted / found.rate)
    if count < shortest:
        raise AsrDeployError(f"{name} lasts {seconds:.3f} s, and the model requires at least {shortest / wanted:.3f} s; leave it out.")
    if longest is not None and count > longest:
        raise AsrDeployError(
            f"{name} lasts {seconds:.2f} s, and the artifact accepts at most {longest / wanted:.2f} s; "
            "divide it with --window, shorten it, or export the model with a larger --max-seconds."
        )
    peculiar = remark(found.samples)
    if found.unread >= UNREAD:
        peculiar = (
            f"has {found.unread:.2f} s of audio behind the {seconds:.2f} s that its header states, and these are not read. "
            "Correct its header or record it again."
        )
    return CheckedAudio(seconds, found.sha256, peculiar), found


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

    def whole(part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = torchaudio.functional.resample(torch.from_numpy(part), rate, sample_rate).numpy()
        return found

    if samples.size <= 2 * BLOCK * rate:
        return whole(samples)
    # Blocks begin where a sample of one rate meets one of the other. The margins are wider than the filter (6 zero crossings).
    common = math.gcd(rate, sample_rate)
    step, wide = rate // common, sample_rate // common
    block, margin = max(1, int(BLOCK * rate) // step), -(-7 * step // min(step, wide)) // step + 1
    resampled = np.empty(math.ceil(wide * samples.size / step), np.float32)
    for first in range(0, -(-samples.size // step), block):
        begin = max(0, first - margin)
        part = whole(samples[begin * step : (first + block + margin) * step])
        kept = resampled[first * wide : (first + block) * wide]
        kept[:] = part[(first - begin) * wide :][: kept.size]
    return resampled
