"""Creating jobs from artifacts and recordings, with the files that a device requires for them."""

import hashlib
import io
import struct
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_runner.artifact import MANIFEST, Artifact
from device_runner.contract import Audio, Job
from device_runner.engines import Waveform
from device_runner.files import atomic_path, cache_folder, sha256_of

FULL_SCALE = 32768  # of 16-bit samples


@dataclass(frozen=True)
class Task:
    """A job and the files that it requires, by their sha256."""

    job: Job
    files: dict[str, Path]


def make_task(artifact: Artifact, recordings: Iterable[tuple[str, Waveform]], **settings: object) -> Task:
    """Create a job over recordings and write their WAV files into the cache folder.

    Args:
        artifact: Artifact to run.
        recordings: Ids and waveforms ``[samples]`` at the artifact's sample rate; consumed one at a time.
        settings: Further fields of ``Job``, such as ``mode``, ``threads``, ``warmup`` and ``repeats``.

    Returns:
        The job and its files.
    """
    manifest = artifact.folder / MANIFEST
    digest = sha256_of(manifest)
    files = {digest: manifest} | {each.sha256: artifact.path_of(each) for each in artifact.manifest.files}
    audio = []
    for name, waveform in recordings:
        sha256, path = stored_wav(waveform, artifact.manifest.sample_rate)
        audio.append(Audio(id=name, sha256=sha256))
        files[sha256] = path
    job = Job.model_validate({"artifact": digest, "audio": audio} | settings)
    return Task(job, files)


def stored_wav(waveform: Waveform, sample_rate: int) -> tuple[str, Path]:
    """Write a waveform to the cache folder unless it is there already.

    Args:
        waveform: Samples ``[samples]``.
        sample_rate: Sample rate in Hz.

    Returns:
        The sha256 of the WAV file, and its path.
    """
    content = wav_bytes(waveform, sample_rate)
    digest = hashlib.sha256(content).hexdigest()
    path = cache_folder() / "audio" / f"{digest}.wav"
    if not path.is_file() or path.stat().st_size != len(content):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return digest, path


def wav_bytes(waveform: Waveform, sample_rate: int) -> bytes:
    """Return a lossless WAV file of a waveform ``[samples]``: 16-bit if that is exact, otherwise 32-bit float."""
    scaled = waveform * np.float32(FULL_SCALE)
    whole = np.rint(scaled)
    if np.array_equal(scaled, whole) and np.all((whole >= -FULL_SCALE) & (whole < FULL_SCALE)):
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.writeframes(whole.astype("<i2").tobytes())
        return buffer.getvalue()
    # The wave module cannot write floats, and libsndfile adds the time of day, which would change the digest.
    samples = waveform.astype("<f4").tobytes()
    head = struct.pack("<4sIHHIIHH4sII", b"fmt ", 16, 3, 1, sample_rate, 4 * sample_rate, 4, 32, b"fact", 4, waveform.size)
    body = b"WAVE" + head + struct.pack("<4sI", b"data", len(samples)) + samples
    return struct.pack("<4sI", b"RIFF", len(body)) + body
