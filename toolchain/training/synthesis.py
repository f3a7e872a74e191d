"""Speech synthesis: single utterances, and the training corpus."""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from rich.progress import track
from scipy.signal import resample_poly

from device_runner.errors import AsrDeployError
from device_runner.files import atomic_path, write_json
from toolchain.doctor.probes import debian_command
from toolchain.extras import asrdeploy_command
from toolchain.training.voices import DIGITS, ESPEAK_ACCENTS, ESPEAK_TRAIN_VARIANTS, TRAIN_VOICES, Voice

SAMPLE_RATE = 16_000
SHARD = 400  # utterances per file; an interrupted run loses at most one file
PROGRAMS = ("espeak-ng", "flite", "festival")


@dataclass(frozen=True)
class Manner:
    """Manner of speaking.

    Args:
        rate: Tempo relative to the voice's normal tempo.
        pitch: Pitch relative to the voice's normal pitch.
        gap: Gap between words: 0 (none), 1 (short pauses) or 2 (commas).
    """

    rate: float
    pitch: float
    gap: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Manner":
        """Draw a manner of speaking."""
        return cls(float(rng.uniform(0.75, 1.4)), float(rng.uniform(0.75, 1.3)), int(rng.choice(3, p=(0.5, 0.25, 0.25))))


def say(voice: Voice, words: tuple[str, ...], manner: Manner) -> npt.NDArray[np.float32]:
    """Synthesise words.

    Args:
        voice: Voice.
        words: Words of the utterance.
        manner: Manner of speaking.

    Returns:
        The waveform ``[samples]`` at 16 kHz without leading and trailing silence, with peak 0.5.

    Raises:
        AsrDeployError: If the synthesiser is missing, fails, or returns silence.
    """
    text = (", " if manner.gap == 2 else " ").join(words).lower()
    with tempfile.TemporaryDirectory(prefix="asrdeploy-say-") as folder:
        waveform, rate = _SPEAKERS[voice.family](voice, text, manner, Path(folder) / "said.wav")
    if rate != SAMPLE_RATE:
        waveform = resample_poly(waveform, SAMPLE_RATE, rate)
    waveform = trim(waveform)
    if waveform.size < SAMPLE_RATE // 10:
        raise AsrDeployError(f"The {voice.family} voice {voice.name} returned silence for “{text}”. Check that the voice is installed.")
    return (waveform * (0.5 / np.abs(waveform).max())).astype(np.float32)


def trim(waveform: npt.NDArray[Any], keep: float = 0.03) -> npt.NDArray[Any]:
    """Trim samples 46 dB below the peak from both ends of a waveform ``[samples]``, except for ``keep`` seconds."""
    loud = np.flatnonzero(np.abs(waveform) > 0.005 * np.abs(waveform).max(initial=0.0))
    if not loud.size:
        return waveform[:0]
    margin = int(keep * SAMPLE_RATE)
    return waveform[max(loud[0] - margin, 0) : loud[-1] + margin]


def _espeak(voice: Voice, text: str, manner: Manner, file: Path) -> tuple[npt.NDArray[Any], int]:
    rate, pitch = str(round(165 * manner.rate)), str(round(50 * manner.pitch))
    options = ["-s", rate, "-p", pitch, "-g", "6" if manner.gap == 1 else "0", "-w", str(file)]
    return _spoken(["espeak-ng", "-v", voice.name, *options, text], file)


def _flite(voice: Voice, text: str, manner: Manner, file: Path) -> tuple[npt.NDArray[Any], int]:
    mean = {"slt": 170, "rms": 95}.get(voice.name, 110) * manner.pitch
    settings = [f"duration_stretch={1 / manner.rate:.3f}", f"int_f0_target_mean={mean:.1f}"]
    return _spoken(["flite", "-voice", voice.name, "--setf", settings[0], "--setf", settings[1], "-t", text, "-o", str(file)], file)


def _festival(voice: Voice, text: str, manner: Manner, file: Path) -> tuple[npt.NDArray[Any], int]:
    script = file.with_suffix(".scm")
    script.write_text(
        f"(voice_{voice.name})\n(Parameter.set 'Duration_Stretch {1 / manner.rate:.3f})\n"
        f'(set! u (utt.synth (Utterance Text "{text}")))\n(utt.save.wave u "{file}" \'riff)\n'
    )
    return _spoken(["festival", "-b", str(script)], file)


def _pico(voice: Voice, text: str, manner: Manner, file: Path) -> tuple[npt.NDArray[Any], int]:
    engine = _pico_engine(voice.name)
    engine.rate, engine.pitch = round(100 * manner.rate), round(100 * manner.pitch)
    return np.frombuffer(engine.speak(text), dtype="<i2") / 32768, SAMPLE_RATE


@lru_cache
def _pico_engine(name: str) -> Any:
    import ttspico  # if it is missing, training_voices omits its voices

    return ttspico.TtsEngine(name)


_SPEAKERS = {"espeak-ng": _espeak, "flite": _flite, "festival": _festival, "pico": _pico}


def _spoken(command: list[str], file: Path) -> tuple[npt.NDArray[Any], int]:
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        waveform, rate = soundfile.read(file)
    except (OSError, subprocess.SubprocessError, soundfile.LibsndfileError) as error:
        raise AsrDeployError(f"The synthesiser {command[0]} failed: {error}.") from error
    return waveform, rate


def check_synthesisers() -> None:
    """Check that the synthesisers are installed.

    Raises:
        AsrDeployError: If one is missing. The message names the command that installs it.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        packages = "espeak-ng flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts"
        command = debian_command(packages)
        how = f"Install them with `{command}`" if command else f"On Debian, the packages are {packages}"
        raise AsrDeployError(f"The synthesisers {', '.join(missing)} are missing. {how}.")


def training_voices() -> list[tuple[Voice, int]]:
    """Return the voices of the corpus with their numbers of utterances. Without SVOX pico, omit its two voices and print a note."""
    if importlib.util.find_spec("ttspico"):
        return list(TRAIN_VOICES)
    print(f"SVOX pico is not installed, so the corpus omits its two voices. Install it with `{asrdeploy_command('training')}`.")
    return [(voice, utterances) for voice, utterances in TRAIN_VOICES if voice.family != "pico"]


class Speech:
    """Utterances in one int16 buffer; ``speech[i]`` is ``(waveform [samples] in -1..1, words)``."""

    def __init__(self, samples: npt.NDArray[np.int16], ends: npt.NDArray[np.int64], words: list[tuple[str, ...]]) -> None:
        self.samples, self.ends, self.words = samples, ends, words

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
        start = self.ends[index - 1] if index else 0
        return self.samples[start : self.ends[index]].astype(np.float32) / np.float32(32768), self.words[index]

    @classmethod
    def of(cls, utterances: list[tuple[npt.NDArray[np.float32], tuple[str, ...]]]) -> "Speech":
        """Pack pairs of a waveform ``[samples]`` in -1..1 and its words."""
        samples = [np.round(waveform * 32767).astype(np.int16) for waveform, _ in utterances]
        ends = np.cumsum([len(part) for part in samples])
        return cls(np.concatenate(samples), ends, [words for _, words in utterances])


def draw_words(rng: np.random.Generator) -> tuple[str, ...]:
    """Draw one to seven digits. A fifth of the utterances are single digits."""
    count = 1 if rng.random() < 0.2 else int(rng.integers(2, 8))
    return tuple(DIGITS[i] for i in rng.integers(0, 10, count))


def synthesise_corpus(folder: Path, seed: int) -> Speech:
    """Synthesise the training corpus, except for shards that exist, and return it.

    Args:
        folder: Folder of the shards.
        seed: Seed of the random generator.

    Raises:
        AsrDeployError: If a synthesiser is missing or fails.
    """
    check_synthesisers()
    shards = []
    for voice, utterances in training_voices():
        name = f"{voice.family}-{voice.name}".replace("*", "all")
        shards += [(folder / f"{name}-{k:03d}.npy", voice, min(SHARD, utterances - k * SHARD)) for k in range(-(-utterances // SHARD))]
    # Threads suffice, because the synthesisers run as separate processes (except pico, which is called serially).
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, voice, count in track(shards, "synthesising"):
            if not path.with_suffix(".json").exists():
                _synthesise_shard(path, voice, count, seed, pool)
    parts = [(np.load(path), json.loads(path.with_suffix(".json").read_text())) for path, _, _ in shards]
    lengths = np.concatenate([np.asarray(index["lengths"]) for _, index in parts])
    words = [tuple(line.split()) for _, index in parts for line in index["words"]]
    return Speech(np.concatenate([samples for samples, _ in parts]), np.cumsum(lengths), words)


def _synthesise_shard(path: Path, voice: Voice, count: int, seed: int, pool: ThreadPoolExecutor) -> None:
    shard_seed = int.from_bytes(hashlib.sha256(f"{seed} {path.name}".encode()).digest()[:8], "little")
    rng = np.random.default_rng(shard_seed)
    orders = []
    for _ in range(count):
        speaker = voice
        if voice.name == "*":
            speaker = Voice(voice.family, f"{rng.choice(ESPEAK_ACCENTS)}+{rng.choice(ESPEAK_TRAIN_VARIANTS)}")
        orders.append((speaker, draw_words(rng), Manner.draw(rng)))
    if voice.family == "pico":  # its library is not thread-safe
        waveforms = [say(*order) for order in orders]
    else:
        waveforms = list(pool.map(lambda order: say(*order), orders))
    packed = Speech.of([(waveform, words) for waveform, (_, words, _) in zip(waveforms, orders, strict=True)])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, packed.samples)
    lengths = np.diff(packed.ends, prepend=0).tolist()
    write_json(path.with_suffix(".json"), {"lengths": lengths, "words": [" ".join(words) for words in packed.words]})
