"""Reading speech from files: mono, float32, at the sample rate that a model expects."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from device_runner.errors import AsrDeployError

# A WAV that was written into a pipe does not know its length and says so with this size.
UNKNOWN_SIZE = 0xFFFF_FFFF

# The resampler's kernel has about the product of both reduced rates as elements: 44.1 to 16 kHz reduces to 441 : 160, but a rate
# such as 44101 Hz, usual only in damaged headers, would take gigabytes.
LARGEST_REDUCED_RATE = 4_000


def read_audio(path: Path, sample_rate: int) -> npt.NDArray[np.float32]:
    """Read a mono audio file (FLAC, WAV, whatever libsndfile knows) as samples ``[samples]`` of float32.

    Integer samples become -1..1; float samples are taken as they are. A file of another sample rate is resampled as the
    scenario's script does it, by ``torchaudio.functional.resample`` with its defaults; only then torchaudio is needed.

    Args:
        path: the audio file.
        sample_rate: samples per second that the model expects.

    Raises:
        AsrDeployError: the file is missing, is no audio, is cut short or damaged, is empty, has several channels or samples
            that are not finite, or has another sample rate and cannot be resampled here.
    """
    if path.is_dir():
        raise AsrDeployError(f"{path} is a folder; give an audio file.")
    if not path.is_file():
        raise AsrDeployError(f"There is no audio file {path}; check the path.")
    samples, rate = _read_mono(path)
    if len(samples) == 0:
        raise AsrDeployError(f"{path} holds no samples; leave it out or record it again.")
    if not np.isfinite(samples).all():
        raise AsrDeployError(f"{path} holds samples that are not finite numbers (NaN or infinity); convert or record it again.")
    return samples if rate == sample_rate else _resample(path, samples, rate, sample_rate)


def _read_mono(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    """Return all samples of a file with one channel, and its sample rate."""
    try:
        file = soundfile.SoundFile(path)
    except soundfile.SoundFileError as error:
        raise AsrDeployError(f"{path} cannot be read as audio; give a FLAC or WAV file with speech in it.") from error
    with file:
        if file.channels != 1:
            raise AsrDeployError(f"{path} has {file.channels} channels; convert it to mono, for which the models are made.")
        try:
            samples = file.read(dtype="float32")
        # A header that claims more samples than memory holds is as damaged as a stream that cannot be decoded.
        except (soundfile.SoundFileError, ValueError, MemoryError) as error:
            raise _cut_short(path) from error
        if len(samples) < file.frames or _wav_is_cut_short(path):
            raise _cut_short(path)
        return samples, file.samplerate


def _cut_short(path: Path) -> AsrDeployError:
    return AsrDeployError(f"{path} is cut short or damaged: it holds less audio than its header says; copy or record it again.")


def _wav_is_cut_short(path: Path) -> bool:
    """Tell whether a WAV's data chunk claims more bytes than follow in the file, which libsndfile clips without a word."""
    size = path.stat().st_size
    with path.open("rb") as file:
        riff = file.read(12)
        if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
            return False
        while len(head := file.read(8)) == 8:
            claimed = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                return claimed != UNKNOWN_SIZE and claimed > size - file.tell()
            file.seek(claimed + claimed % 2, 1)  # chunks start at even positions
    return False


def _resample(path: Path, samples: npt.NDArray[np.float32], rate: int, sample_rate: int) -> npt.NDArray[np.float32]:
    """Change the sample rate from ``rate`` to ``sample_rate``."""
    if max(rate, sample_rate) // math.gcd(rate, sample_rate) > LARGEST_REDUCED_RATE:
        raise AsrDeployError(f"{path} has a sample rate of {rate} Hz, too odd to resample here; convert it to {sample_rate} Hz.")
    try:
        import torch
        import torchaudio.functional
    except ImportError as error:
        raise AsrDeployError(
            f"{path} has a sample rate of {rate} Hz; convert it to {sample_rate} Hz, or install asrdeploy's toolchain, which resamples."
        ) from error
    resampled: npt.NDArray[np.float32] = torchaudio.functional.resample(torch.from_numpy(samples), rate, sample_rate).numpy()
    return resampled
