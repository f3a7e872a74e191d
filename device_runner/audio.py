"""Reading audio files as mono float32 samples at the sample rate that a model expects."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from device_runner.errors import AsrDeployError

# Data size in the header of a WAV that was written to a pipe, whose length was not known in advance.
UNKNOWN_SIZE = 0xFFFF_FFFF

# The resampling kernel has about as many elements as the product of both reduced rates: 441 * 160 for 44.1 to 16 kHz. A rate
# such as 44101 Hz, which usually comes from a damaged header, would take gigabytes.
LARGEST_REDUCED_RATE = 4_000


def read_audio(path: Path, sample_rate: int) -> npt.NDArray[np.float32]:
    """Read a mono audio file in any format of libsndfile, such as FLAC or WAV.

    Files with another sample rate are resampled like in the scenario's script, by ``torchaudio.functional.resample`` with its
    defaults. torchaudio is required only for that.

    Args:
        path: Audio file.
        sample_rate: Sample rate that the model expects, in Hz.

    Returns:
        Samples ``[samples]`` as float32. Integer samples are scaled to -1..1; float samples stay unchanged.

    Raises:
        AsrDeployError: If the file is missing, is not audio, is cut short, damaged or empty, has several channels or samples
            that are not finite, or has another sample rate and cannot be resampled.
    """
    if path.is_dir():
        raise AsrDeployError(f"{path} is a folder; give an audio file.")
    if not path.is_file():
        raise AsrDeployError(f"There is no audio file {path}; check the path.")
    samples, rate = _read_mono(path)
    if len(samples) == 0:
        raise AsrDeployError(f"{path} contains no samples; leave it out or record it again.")
    if not np.isfinite(samples).all():
        raise AsrDeployError(f"{path} contains samples that are not finite numbers (NaN or infinity); convert or record it again.")
    return samples if rate == sample_rate else resample(samples, rate, sample_rate, str(path))


def _read_mono(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Return all samples of a file with one channel, and its sample rate."""
    try:
        file = soundfile.SoundFile(path)
    except soundfile.SoundFileError as error:
        raise AsrDeployError(f"{path} cannot be read as audio; give a FLAC or WAV file.") from error
    with file:
        if file.channels != 1:
            raise AsrDeployError(f"{path} has {file.channels} channels; convert it to mono, which the models require.")
        try:
            samples = file.read(dtype="float32")
        # MemoryError: a damaged header may claim more samples than fit into memory.
        except (soundfile.SoundFileError, ValueError, MemoryError) as error:
            raise _cut_short(path) from error
        if len(samples) < file.frames or _wav_is_cut_short(path):
            raise _cut_short(path)
        return samples, file.samplerate


def _cut_short(path: Path) -> AsrDeployError:
    return AsrDeployError(f"{path} is cut short or damaged: it contains less audio than its header states; copy or record it again.")


def _wav_is_cut_short(path: Path) -> bool:
    """Return whether the data chunk of a WAV claims more bytes than the file has; libsndfile clips it silently."""
    size = path.stat().st_size
    with path.open("rb") as file:
        riff = file.read(12)
        if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
            return False
        while len(head := file.read(8)) == 8:
            claimed = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                return claimed != UNKNOWN_SIZE and claimed > size - file.tell()
            file.seek(claimed + claimed % 2, 1)  # chunks start at even offsets
    return False


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
    if max(rate, sample_rate) // math.gcd(rate, sample_rate) > LARGEST_REDUCED_RATE:
        raise AsrDeployError(f"{source} has an unusual sample rate of {rate} Hz that cannot be resampled; convert it to {sample_rate} Hz.")
    try:
        import torch
        import torchaudio.functional
    except ImportError as error:
        raise AsrDeployError(
            f"{source} has a sample rate of {rate} Hz; convert it to {sample_rate} Hz, or install asrdeploy[toolchain] for resampling."
        ) from error
    resampled: npt.NDArray[np.float32] = torchaudio.functional.resample(torch.from_numpy(samples), rate, sample_rate).numpy()
    return resampled
